#include "server/fake_etcd.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "server/base64.h"
#include "server/etcd_client.h"

namespace weft::testing {

namespace {

std::string text_of(const Json& body, const char* name) {
  const Json* member = body.find(name);
  return member ? member->as_string() : "";
}
std::string bytes_of(const Json& body, const char* name) { return decode_base64(text_of(body, name)).value(); }
int64_t lease_of(const Json& body, const char* name) {
  const std::string text = text_of(body, name);
  return text.empty() ? 0 : std::stoll(text);
}

// As etcd 3.4 answers.
std::pair<int, Json> no_lease() {
  return {404, Json::object({{"error", "etcdserver: requested lease not found"},
                             {"message", "etcdserver: requested lease not found"},
                             {"code", 5}})};
}

}  // namespace

FakeEtcd::FakeEtcd(int port) {
  HttpHandlers handlers;
  handlers.handler = [this](std::shared_ptr<Exchange> exchange) { handle(exchange); };
  handlers.refuse = [](int status, const std::string& message) { return HttpResponse{status, message}; };
  auto listening = HttpServer::listen("127.0.0.1", port, {}, std::move(handlers));
  http_ = std::move(listening).value();
  thread_ = std::thread([this] { http_->run(); });
}

FakeEtcd::~FakeEtcd() {
  std::vector<std::shared_ptr<Exchange>> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(unanswered_);
  }
  for (const auto& exchange : waiting) exchange->post([exchange] { exchange->respond({503, "{}"}); });
  http_->stop();
  thread_.join();
}

void FakeEtcd::put(const std::string& key, const std::string& value) {
  const std::lock_guard lock(mutex_);
  values_[key] = {value}, ++revision_;
}
void FakeEtcd::remove(const std::string& key) {
  const std::lock_guard lock(mutex_);
  values_.erase(key), ++revision_;
}
std::map<std::string, std::string> FakeEtcd::keys() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::string> found;
  for (const auto& [key, value] : values_) found[key] = value.text;
  return found;
}
size_t FakeEtcd::leases() const {
  const std::lock_guard lock(mutex_);
  return leases_.size();
}
void FakeEtcd::expire_leases() {
  const std::lock_guard lock(mutex_);
  for (const int64_t lease : std::set<int64_t>(leases_)) drop_lease(lease);
}
void FakeEtcd::lose_data() {
  const std::lock_guard lock(mutex_);
  leases_.clear(), values_.clear(), revision_ = 1;
}
void FakeEtcd::drop_lease(int64_t lease) {
  leases_.erase(lease), ++revision_;
  std::erase_if(values_, [&](const auto& item) { return item.second.lease == lease; });
}

void FakeEtcd::handle(const std::shared_ptr<Exchange>& exchange) {
  ++calls;
  HttpResponse response{200, "{}"};
  switch (fault) {
    case Fault::silent: {
      const std::lock_guard lock(mutex_);
      unanswered_.push_back(exchange);
      return;
    }
    case Fault::not_etcd: response = {404, "<html>", "text/html"}; break;
    case Fault::no_json: response = {200, "hello"}; break;
    case Fault::error: response = {500, R"({"error": "etcdserver: no leader", "code": 14})"}; break;
    case Fault::none: {
      const std::lock_guard lock(mutex_);
      const auto [status, body] = answer(exchange->request().path, parse_json(exchange->request().body).value());
      response = {status, body.dump()};
    }
  }
  exchange->post([exchange, response] { exchange->respond(response); });
}

std::pair<int, Json> FakeEtcd::answer(const std::string& path, const Json& body) {
  const Json header = Json::object({{"revision", std::to_string(revision_)}});
  const int64_t lease = lease_of(body, "ID");
  if (path == "/v3/lease/grant") {
    leases_.insert(++next_lease_);
    return {200,
            Json::object({{"header", header}, {"ID", std::to_string(next_lease_)}, {"TTL", text_of(body, "TTL")}})};
  }
  if (path == "/v3/lease/keepalive") {  // a lease that is gone has no TTL
    Json result = Json::object({{"header", header}, {"ID", std::to_string(lease)}});
    if (leases_.contains(lease)) result.set("TTL", "10");
    return {200, Json::object({{"result", std::move(result)}})};
  }
  if (path == "/v3/lease/revoke") {
    if (!leases_.contains(lease)) return no_lease();
    drop_lease(lease);
    return {200, Json::object({{"header", header}})};
  }
  if (path == "/v3/kv/put") return put_answer(body);
  if (path == "/v3/kv/range") return list_answer(body);
  if (path == "/v3/kv/deleterange") {
    values_.erase(bytes_of(body, "key")), ++revision_;
    return {200, Json::object({{"header", header}})};
  }
  return {404, Json("Not Found")};
}

std::pair<int, Json> FakeEtcd::put_answer(const Json& body) {
  const int64_t lease = lease_of(body, "lease");
  if (lease != 0 && !leases_.contains(lease)) return no_lease();
  values_[bytes_of(body, "key")] = {bytes_of(body, "value"), lease}, ++revision_;
  return {200, Json::object({{"header", Json::object({{"revision", std::to_string(revision_)}})}})};
}

std::pair<int, Json> FakeEtcd::list_answer(const Json& body) const {
  const std::string begin = bytes_of(body, "key"), end = bytes_of(body, "range_end");
  Json found = Json::object({{"header", Json::object({{"revision", std::to_string(revision_)}})}});
  Json items = Json::array();
  for (const auto& [key, value] : values_)
    if (key >= begin && key < end)
      items.push_back(Json::object({{"key", encode_base64(key)}, {"value", encode_base64(value.text)}}));
  if (!items.items().empty()) found.set("kvs", std::move(items));
  return {200, std::move(found)};
}

namespace {

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET, address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool taken = ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(fd);
  return taken ? ntohs(address.sin_port) : 0;
}

}  // namespace

bool RealEtcd::available() { return std::system("command -v etcd >/dev/null 2>&1") == 0; }

RealEtcd::RealEtcd() : port_(free_port()), peer_port_(free_port()) {
  std::string pattern = std::filesystem::path(::testing::TempDir()) / "etcd-XXXXXX";
  folder_ = ::mkdtemp(pattern.data());
  start(true);
}
RealEtcd::~RealEtcd() {
  kill();
  std::filesystem::remove_all(folder_);
}

void RealEtcd::start(bool fresh) {
  if (fresh) std::filesystem::remove_all(folder_ + "/data");
  const std::string client = "http://127.0.0.1:" + std::to_string(port_);
  const std::string peer = "http://127.0.0.1:" + std::to_string(peer_port_);
  std::vector<std::string> words = {"etcd",
                                    "--data-dir",
                                    folder_ + "/data",
                                    "--listen-client-urls",
                                    client,
                                    "--advertise-client-urls",
                                    client,
                                    "--listen-peer-urls",
                                    peer,
                                    "--initial-advertise-peer-urls",
                                    peer,
                                    "--initial-cluster",
                                    "default=" + peer,
                                    "--log-level",
                                    "fatal",
                                    "--logger",
                                    "zap"};
  std::vector<char*> raw;
  for (std::string& word : words) raw.push_back(word.data());
  raw.push_back(nullptr);
  ASSERT_EQ(::posix_spawnp(&process_, "etcd", nullptr, nullptr, raw.data(), environ), 0);
  EtcdClient client_of(address());
  for (int tries = 0; tries < 100; ++tries, ::usleep(100'000))
    if (client_of.put("up", "1").ok()) return;
  FAIL() << "etcd did not start";
}

void RealEtcd::kill() {
  if (process_ == 0) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
  process_ = 0;
}

}  // namespace weft::testing
