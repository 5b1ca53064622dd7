// For tests: the part of etcd's JSON gateway that this program uses, in this process, with faults on demand; and a real
// etcd, where there is one.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"
#include "server/http_client.h"
#include "server/http_server.h"

namespace weft::testing {

class FakeEtcd {
 public:
  enum class Fault : unsigned char { none, silent, not_etcd, no_json, error };

  explicit FakeEtcd(int port = 0);
  ~FakeEtcd();
  ServerAddress address() const { return {"127.0.0.1", http_->port(), ""}; }

  void put(const std::string& key, const std::string& value);
  void remove(const std::string& key);
  std::map<std::string, std::string> keys() const;
  size_t leases() const;
  void expire_leases();  // with their keys
  void lose_data();      // as a new store
  std::atomic<Fault> fault{Fault::none};
  std::atomic<int> calls{0};

 private:
  void handle(const std::shared_ptr<Exchange>& exchange);
  std::pair<int, Json> answer(const std::string& path, const Json& body);
  std::pair<int, Json> put_answer(const Json& body);
  std::pair<int, Json> list_answer(const Json& body) const;
  void drop_lease(int64_t lease);

  struct Value {
    std::string text;
    int64_t lease = 0;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Value> values_;
  std::set<int64_t> leases_;
  int64_t next_lease_ = int64_t{9041998999635897861};  // 63 bits, as etcd's are
  int64_t revision_ = 1;
  std::vector<std::shared_ptr<Exchange>> unanswered_;
  std::unique_ptr<HttpServer> http_;
  std::thread thread_;
};

// An etcd of its own, with its data in a fresh folder. available(): there is the program.
class RealEtcd {
 public:
  static bool available();
  RealEtcd();
  ~RealEtcd();
  ServerAddress address() const { return {"127.0.0.1", port_, ""}; }
  // Ends it without a word; start() begins again with the data that it had, or without.
  void kill();
  void start(bool fresh);

 private:
  int port_ = 0, peer_port_ = 0;
  std::string folder_;
  pid_t process_ = 0;
};

}  // namespace weft::testing
