#include "server/cluster.h"

#include <algorithm>

#include "base/json.h"
#include "base/keep_going.h"
#include "base/log.h"

namespace weft {

Result<ClusterAddress> parse_cluster_url(std::string_view url) {
  const auto wrong = [&](const std::string& why) {
    return fail(Code::invalid_argument, "the cluster ", url, " ", why, "; it must be like etcd://HOST:2379/NAME");
  };
  constexpr std::string_view kScheme = "etcd://";
  if (!url.starts_with(kScheme)) return wrong("does not begin with etcd://");
  const std::string_view rest = url.substr(kScheme.size());
  const size_t slash = rest.find('/');
  if (slash == std::string_view::npos || slash + 1 == rest.size()) return wrong("has no name behind its host");
  std::string host(rest.substr(0, slash));
  const size_t bracket = host.find(']');
  if (host.find(':', bracket == std::string::npos ? 0 : bracket) == std::string::npos) host += ":2379";
  const auto server = parse_server_url("http://" + host);
  if (!server.ok()) return wrong("has a wrong host or port");
  const std::string_view name = rest.substr(slash + 1);
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  if (!std::ranges::all_of(name, allowed)) return wrong("has a name with other characters than letters, digits, ._-");
  return ClusterAddress{*server, std::string(name)};
}

Result<ClusterEntry> cluster_entry(const std::string& url, ServerRole role) {
  WEFT_TRY(const ServerAddress server, parse_server_url(url));
  const std::string text = server.text();
  return ClusterEntry{text.substr(std::string_view("http://").size()), text, role};
}

std::string entry_json(const ClusterEntry& entry) {
  return Json::object({{"id", entry.id}, {"url", entry.url}, {"role", name_of(entry.role)}}).dump();
}

Result<ClusterEntry> parse_entry(const std::string& id, const std::string& value) {
  const auto json = parse_json(value);
  if (!json.ok() || !json->is_object()) return fail(Code::invalid_argument, "it is no JSON object");
  std::map<std::string, std::string> texts;
  for (const char* name : {"id", "url", "role"}) {
    const Json* member = json->find(name);
    if (!member || !member->is_string()) return fail(Code::invalid_argument, name, " is no text");
    texts[name] = member->as_string();
  }
  if (texts["id"] != id) return fail(Code::invalid_argument, "id is ", texts["id"], ", unlike the key");
  const auto role = value_named<ServerRole>(texts["role"]);
  if (!role) return fail(Code::invalid_argument, "role ", texts["role"], " is unknown");
  WEFT_TRY(const ServerAddress server, parse_server_url(texts["url"]));
  return ClusterEntry{id, server.text(), *role};
}

ClusterMember::ClusterMember(ClusterAddress cluster, ClusterEntry entry, ClusterTimes times)
    : cluster_(std::move(cluster)), entry_(std::move(entry)), times_(times), etcd_(cluster_.etcd) {}

ClusterMember::~ClusterMember() {
  leave();
  if (thread_.joinable()) thread_.join();
}

void ClusterMember::start() {
  const std::lock_guard lock(mutex_);
  if (!leaving_) thread_ = std::thread([this] { keep_going("the registration in etcd", [&] { run(); }); });
}

void ClusterMember::leave() {
  const std::lock_guard lock(mutex_);
  leaving_ = true;
  changed_.notify_all();
}

bool ClusterMember::registered() const {
  const std::lock_guard lock(mutex_);
  return registered_;
}

void ClusterMember::run() {
  std::unique_lock lock(mutex_);
  while (!leaving_) {
    lock.unlock();
    Status status = step();
    // A lease that is gone is no failure of etcd: the server registers again at once.
    if (!status.ok() && status.error().code() == Code::not_found) {
      log_warning("cluster", " state=lease_lost id=", entry_.id);
      lease_ = 0, put_ = false;
      status = step();
    }
    report(status);
    lock.lock();
    registered_ = put_;
    changed_.wait_for(lock, status.ok() ? times_.renew : times_.again, [this] { return leaving_; });
  }
  registered_ = false;
  lock.unlock();
  if (lease_ == 0) return;
  const Status revoked = etcd_.revoke(lease_);
  if (revoked.ok() || revoked.error().code() == Code::not_found) log_info("cluster", " state=left id=", entry_.id);
  else log_warning("cluster", " state=not_left id=", entry_.id, " problem=\"", revoked.error().message(), "\"");
}

Status ClusterMember::step() {
  if (put_) return etcd_.keep_alive(lease_);
  if (lease_ == 0) {
    WEFT_TRY(lease_, etcd_.grant(times_.lease_seconds));
  }
  WEFT_RETURN_IF_ERROR(etcd_.put(cluster_.prefix() + entry_.id, entry_json(entry_), lease_));
  put_ = true;
  log_info("cluster", " state=joined name=", cluster_.name, " id=", entry_.id, " role=", name_of(entry_.role),
           " etcd=", etcd_.address());
  return {};
}

// Once for each change between failing and working.
void ClusterMember::report(const Status& status) {
  if (!status.ok() && !failing_)
    log_warning("cluster", " state=", put_ ? "not_renewed" : "not_joined", " id=", entry_.id, " problem=\"",
                status.error().message(), "\" (tried again until it works)");
  else if (status.ok() && failing_) log_info("cluster", " state=renewed id=", entry_.id);
  failing_ = !status.ok();
}

ClusterWatch::ClusterWatch(ClusterAddress cluster, Changed changed, ClusterTimes times)
    : cluster_(std::move(cluster)), changed_(std::move(changed)), times_(times), etcd_(cluster_.etcd),
      thread_([this] { keep_going("the watch of etcd", [&] { run(); }); }) {}

ClusterWatch::~ClusterWatch() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    wake_.notify_all();
  }
  thread_.join();
}

void ClusterWatch::run() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    lock.unlock();
    read();
    lock.lock();
    wake_.wait_for(lock, times_.poll, [this] { return ending_; });
  }
}

void ClusterWatch::read() {
  const auto found = etcd_.list(cluster_.prefix());
  if (!found.ok()) {
    if (!failing_)
      log_warning("cluster", " state=unreachable name=", cluster_.name, " members=", last_.size(), " problem=\"",
                  found.error().message(), "\" (the members stay as they are)");
    failing_ = true;
    return;
  }
  if (failing_) log_info("cluster", " state=reachable name=", cluster_.name);
  failing_ = false;
  hold_after_loss(*found);
  Members members = members_of(*found);
  if (Clock::now() < held_until_) members.insert(held_.begin(), held_.end());
  if (told_ && members == last_) return;
  last_ = std::move(members), told_ = true;
  std::vector<ClusterEntry> list;
  for (const auto& [key, entry] : last_) list.push_back(entry);
  changed_(std::move(list));
}

ClusterWatch::Members ClusterWatch::members_of(const EtcdEntries& found) {
  Members members;
  std::map<std::string, std::string> malformed;
  for (const EtcdEntry& entry : found.entries) {
    auto parsed = parse_entry(entry.key.substr(cluster_.prefix().size()), entry.value);
    if (parsed.ok()) {
      members.emplace(entry.key, std::move(*parsed));
      continue;
    }
    const auto warned = malformed_.find(entry.key);
    if (warned == malformed_.end() || warned->second != entry.value)
      log_warning("cluster", " state=ignored key=", entry.key, " problem=\"", parsed.error().message(), "\"");
    malformed[entry.key] = entry.value;
  }
  malformed_ = std::move(malformed);
  return members;
}

void ClusterWatch::hold_after_loss(const EtcdEntries& found) {
  if (found.revision < revision_) {
    log_warning("cluster", " state=data_lost name=", cluster_.name, " (etcd has another store than before)");
    held_ = last_, held_until_ = Clock::now() + std::chrono::seconds(times_.lease_seconds);
  }
  revision_ = found.revision;
}

}  // namespace weft
