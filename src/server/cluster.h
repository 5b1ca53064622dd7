// Who belongs to a deployment of several servers, kept in etcd: every server has a key that lives as long as the server
// renews it, and whoever shares out requests reads the keys.
//
//   key    /weft/NAME/servers/ID    NAME: the deployment's; ID: HOST:PORT of the server's URL
//   value  {"id": ID, "url": "http://HOST:PORT", "role": "context" | "generation" | "both"}
//
// Nothing here stops a server from answering or a router from sending: without etcd, members stay what they were.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "core/option_kinds.h"
#include "server/etcd_client.h"

namespace weft {

struct ClusterAddress {
  ServerAddress etcd;
  std::string name;
  std::string prefix() const { return "/weft/" + name + "/servers/"; }
};

// "etcd://HOST[:PORT]/NAME"; the port is 2379 unless given. NAME: letters, digits and "._-".
Result<ClusterAddress> parse_cluster_url(std::string_view url);

struct ClusterEntry {
  std::string id, url;
  ServerRole role = ServerRole::both;
  bool operator==(const ClusterEntry&) const = default;
};

// The entry of a server that others reach at `url`, as parse_server_url() reads it.
Result<ClusterEntry> cluster_entry(const std::string& url, ServerRole role);
std::string entry_json(const ClusterEntry& entry);
// Errors say what is wrong with the value. `id`: what the key says. Unknown members are for later versions.
Result<ClusterEntry> parse_entry(const std::string& id, const std::string& value);

struct ClusterTimes {
  int lease_seconds = 10;                 // a server that died without a word is gone after this
  std::chrono::milliseconds renew{3000};  // between renewals
  std::chrono::milliseconds again{1000};  // after a failure
  std::chrono::milliseconds poll{1000};   // ClusterWatch: between readings
};

// Keeps this server's key in etcd. All calls return at once; a thread of its own talks to etcd.
class ClusterMember {
 public:
  ClusterMember(ClusterAddress cluster, ClusterEntry entry, ClusterTimes times = {});
  // Leaves; waits for etcd's answer, some seconds at the longest.
  ~ClusterMember();

  // From now on the server is a member: the key is put with a lease that is renewed. When the lease is lost, or etcd
  // was away or has lost its data, the server registers again. Once; any thread.
  void start();
  // The lease is ended, so that the server is no member any more. Before start(): it will never be one. Any thread.
  void leave();
  // Whether etcd has said so last. Any thread.
  bool registered() const;

 private:
  void run();
  Status step();  // one renewal, or the registration
  void report(const Status& status);

  const ClusterAddress cluster_;
  const ClusterEntry entry_;
  const ClusterTimes times_;
  EtcdClient etcd_;
  int64_t lease_ = 0;     // of the thread alone; 0: none
  bool put_ = false;      // the key was put with it
  bool failing_ = false;  // said so
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool registered_ = false, leaving_ = false;
  std::thread thread_;
};

// Reads who is a member once a second and tells about changes. Reading again and again is what etcd's gateway makes
// simple: a watch there is an answer that never ends, which has to be taken up at the right revision after each break,
// and a range of some dozens of keys a second is nothing to etcd.
//
// While etcd does not answer, the last list stays in force. If it comes back with another, older store (its data were
// lost), those of the last list count as members for one lease more, since they will register again.
class ClusterWatch {
 public:
  // All members, by id. Called on the watch's thread, first with the first list that was read, even an empty one, and
  // then whenever it differs from the last; it must not destroy the watch.
  using Changed = std::function<void(std::vector<ClusterEntry> members)>;

  ClusterWatch(ClusterAddress cluster, Changed changed, ClusterTimes times = {});
  ~ClusterWatch();  // waits for a reading or a call that is under way

 private:
  using Clock = std::chrono::steady_clock;
  using Members = std::map<std::string, ClusterEntry>;  // by key
  void run();
  void read();
  Members members_of(const EtcdEntries& found);
  void hold_after_loss(const EtcdEntries& found);

  const ClusterAddress cluster_;
  const Changed changed_;
  const ClusterTimes times_;
  EtcdClient etcd_;
  // Of the thread alone.
  bool told_ = false, failing_ = false;
  Members last_, held_;
  Clock::time_point held_until_;
  int64_t revision_ = 0;
  std::map<std::string, std::string> malformed_;  // values that were warned of, by key
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::thread thread_;  // last, so that it finds the rest
};

}  // namespace weft
