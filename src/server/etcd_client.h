// What this program needs of etcd, over the JSON gateway of its v3 API (etcd 3.4 and later): keys that live as long as
// a lease is renewed. Plain HTTP, one endpoint, no login.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "server/http_client.h"

namespace weft {

struct EtcdEntry {
  std::string key, value;
};
struct EtcdEntries {
  std::vector<EtcdEntry> entries;  // by key
  int64_t revision = 0;            // of the whole store; grows with every change, so a smaller one means another store
};

// The answer to a question for a range of keys (kv/range). Errors begin with `place`.
Result<EtcdEntries> read_etcd_range(const Json& answer, const std::string& place);

// Each call sends one request on the calling thread and waits for the answer, for kPatience at the longest (looking up
// a host's name may add to it). Errors: unavailable, where etcd cannot be reached or does not answer; not_found,
// where etcd says that the lease is gone; internal, for all else that etcd says, and for answers that are not etcd's.
// All name the address. One thread at a time.
class EtcdClient {
 public:
  static constexpr std::chrono::milliseconds kPatience{2000};

  explicit EtcdClient(ServerAddress server) : server_(std::move(server)) {}
  std::string address() const { return server_.text(); }

  // A new lease; it and the keys that were put with it are gone `seconds` after the last renewal.
  Result<int64_t> grant(int seconds);
  // Renews the lease; not_found, if it is gone.
  Status keep_alive(int64_t lease);
  // Ends the lease, and with it its keys.
  Status revoke(int64_t lease);
  // lease 0: the key stays until it is removed.
  Status put(const std::string& key, const std::string& value, int64_t lease = 0);
  Status remove(const std::string& key);
  // All keys that begin with `prefix`, which must not be empty.
  Result<EtcdEntries> list(const std::string& prefix);

 private:
  Result<Json> call(const std::string& path, const Json& body);

  const ServerAddress server_;
};

}  // namespace weft
