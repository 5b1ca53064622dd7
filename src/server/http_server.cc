// HTTP over Boost.Asio and Beast, which are included here, in http_session.cc and http_parse.h, and in http_calls.cc.
//
// One thread runs all connections, each a coroutine (http_session.cc). Handlers (JSON, templates, tokenizing) run on
// threads of a pool, and what they post to make an answer on a few more, whose bytes come back to the first thread. So
// that thread does nothing that takes long, and the likes of /health are answered on it.
#include "server/http_server.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <sys/resource.h>
#include <cstdlib>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "base/json.h"
#include "base/log.h"
#include "server/http_session.h"

namespace weft {

namespace net = boost::asio;
using tcp = net::ip::tcp;
using boost::system::error_code;

namespace {

constexpr std::chrono::milliseconds kPause{20};  // after an error of accept
constexpr std::chrono::seconds kTrimAfter{1};
constexpr int kEvictionTries = 64;

std::string what(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "unknown";
  }
}

// The server goes on after it. Without memory nothing is said.
void log_problem(const char* event, const std::exception_ptr& thrown) noexcept {
  try {
    log_warning(event, " problem=", json_quote(what(thrown)));
  } catch (const std::exception&) {
  }
}

std::string text_of(net::ip::address address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = net::ip::make_address_v4(net::ip::v4_mapped, address.to_v6());
  return address.to_string();
}

}  // namespace

std::string address_group(const std::string& peer) {
  in6_addr six{};
  if (::inet_pton(AF_INET6, peer.substr(0, peer.find('%')).c_str(), &six) == 1) {
    if (IN6_IS_ADDR_LOOPBACK(&six)) return "";
    std::memset(six.s6_addr + 8, 0, 8);
    char text[INET6_ADDRSTRLEN];
    return std::string(::inet_ntop(AF_INET6, &six, text, sizeof text)) + "/64";
  }
  return peer.starts_with("127.") ? "" : peer;
}

// What outlives the sessions: the list of connections, the ends of the server.
class HttpServer::Core : public std::enable_shared_from_this<HttpServer::Core> {
 public:
  Core(HttpLimits limits, HttpHandlers handlers)
      : world(std::make_shared<HttpWorld>(limits, std::move(handlers))), acceptor(world->io), pause(world->io),
        drain_timer(world->io), trim_timer(world->io) {}

  Status listen(const std::string& host, int port_number);
  void run();
  void stop() {
    world->post([self = shared_from_this()] { self->begin_drain(); });
  }
  HttpStats stats() const;

  const std::shared_ptr<HttpWorld> world;
  std::function<void()> on_drain;
  int port = 0;
  std::atomic<bool> break_accept{false};

 private:
  // Of the loop that accepts, from its start until it is gone.
  class Accepting {
   public:
    explicit Accepting(HttpWorld& world) : world_(&world) { world.accepting = true; }
    Accepting(Accepting&& other) noexcept : world_(std::exchange(other.world_, nullptr)) {}
    ~Accepting() {
      if (world_) world_->accepting = false;
    }

   private:
    HttpWorld* world_;
  };
  // On the server's thread, as what follows.
  void begin_accepting();
  net::awaitable<void> accept_loop(Accepting accepting);
  void take(tcp::socket socket);
  net::awaitable<void> serve(std::shared_ptr<HttpSession> session, std::shared_ptr<void> place);
  bool make_room();
  void refuse(tcp::socket& socket, int status, const std::string& message);
  void left(HttpSession& session, const std::string& group);
  void begin_drain();
  void end_handlers();
  void drain();
  void end_drain();
  void trim_later();

  tcp::acceptor acceptor;
  net::steady_timer pause, drain_timer, trim_timer;
  bool trimming = false, pausing = false;
  std::unordered_set<HttpSession*> sessions;
  std::unordered_map<std::string, int> by_address;
  std::atomic<int> connections{0};
  std::atomic<int64_t> evicted{0}, refused{0};
};

Status HttpServer::Core::listen(const std::string& host, int port_number) {
  if (port_number < 0 || port_number > 65535)
    return fail(Code::invalid_argument, "port must be between 0 and 65535, got ", port_number).about("port");
  error_code error;
  tcp::resolver resolver(world->io);
  const auto found = resolver.resolve(host, std::to_string(port_number), tcp::resolver::passive, error);
  if (error || found.empty())
    return fail(Code::invalid_argument, "host ", host, " has no address here: ", error.message()).about("host");
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(net::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(4096, error);
  if (error == net::error::address_in_use)
    return fail(Code::resource_exhausted, "port ", port_number, " on ", host,
                " is in use; choose another with --port, or end the process that has it")
        .about("port");
  if (error == net::error::access_denied)
    return fail(Code::invalid_argument, "port ", port_number, " needs root's rights; choose one above 1023 with --port")
        .about("port");
  if (error)
    return fail(Code::invalid_argument, "cannot listen on ", host, " port ", port_number, ": ", error.message())
        .about("host");
  port = acceptor.local_endpoint().port();
  world->pool.start(), world->watch.start();
  return {};
}

// ---- connections come and go

// The loop ends with the server alone: after an exception (memory, most likely) it begins again. Asio itself may lose
// the loop without a word where it finds no memory, so run() calls this again and again.
void HttpServer::Core::begin_accepting() {
  if (world->accepting || pausing || world->draining) return;
  net::co_spawn(world->io, accept_loop(Accepting(*world)), [this](const std::exception_ptr& thrown) {
    if (!thrown || world->draining) return;
    log_problem("accept_failed", thrown);
    pause.expires_after(kPause);
    pause.async_wait([this](const error_code&) { pausing = false; });
    pausing = true;
  });
}

net::awaitable<void> HttpServer::Core::accept_loop(Accepting) {
  while (acceptor.is_open()) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(net::redirect_error(net::use_awaitable, error));
    if (world->draining) break;
    if (break_accept.exchange(false)) throw std::runtime_error("broken for a test");
    if (!error) {
      take(std::move(socket));
      continue;
    }
    pause.expires_after(kPause);  // out of descriptors, or the client left already
    co_await pause.async_wait(net::redirect_error(net::use_awaitable, error));
  }
}

void HttpServer::Core::take(tcp::socket socket) {
  error_code error;
  const tcp::endpoint endpoint = socket.remote_endpoint(error);
  if (error) return;  // has left
  const std::string peer = text_of(endpoint.address()), group = address_group(peer);
  const HttpLimits& limits = world->limits;
  const auto of_group = by_address.find(group);
  if (limits.connections_per_address > 0 && of_group != by_address.end() &&
      of_group->second >= limits.connections_per_address)
    return refuse(socket, 429,
                  group + " has " + std::to_string(of_group->second) +
                      " connections, as many as an address may have (--max-connections-per-address); "
                      "close one, or try again later");
  if (connections >= limits.connections && !make_room())
    return refuse(socket, 503,
                  std::to_string(limits.connections) +
                      " connections are open, as many as may (--max-connections); try again later");
  const auto session = std::make_shared<HttpSession>(std::move(socket), peer, world);
  // Whatever becomes of the coroutine, this goes with it.
  auto leave = [weak = weak_from_this(), session, group = std::string(group)](void*) {
    if (const auto self = weak.lock()) self->left(*session, group);
  };
  int* const of_address = group.empty() ? nullptr : &by_address[group];
  sessions.insert(session.get());
  ++connections;
  if (of_address) ++*of_address;
  std::shared_ptr<void> place(session.get(), std::move(leave));  // without memory for it: calls it, and throws
  net::co_spawn(world->io, serve(session, std::move(place)), [](const std::exception_ptr& thrown) {
    if (thrown) log_problem("connection_failed", thrown);
  });
}

net::awaitable<void> HttpServer::Core::serve(std::shared_ptr<HttpSession> session, std::shared_ptr<void>) {
  co_await session->run();
}

// Closes the connection that has waited longest for a request. False: none waits.
bool HttpServer::Core::make_room() {
  int tries = 0;
  for (HttpSession* session : world->idle) {
    if (++tries > kEvictionTries) break;
    if (!session->evict()) continue;
    --connections, ++evicted;
    return true;
  }
  return false;
}

void HttpServer::Core::refuse(tcp::socket& socket, int status, const std::string& message) {
  ++refused;
  const std::string bytes = http_message(world->handlers.refuse(status, message));
  ::send(socket.native_handle(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void HttpServer::Core::left(HttpSession& session, const std::string& group) {
  sessions.erase(&session);
  if (!session.evicted()) --connections;
  if (const auto found = by_address.find(group); found != by_address.end() && --found->second <= 0)
    by_address.erase(found);
  if (world->draining && sessions.empty()) drain_timer.cancel();
}

// ---- the end

void HttpServer::Core::begin_drain() {
  if (world->draining) return;
  world->draining = true;
  try {
    drain();
  } catch (...) {  // no memory: better an end at once than none
    log_problem("drain_failed", std::current_exception());
    world->io.stop();
  }
}

void HttpServer::Core::drain() {
  if (on_drain) on_drain();
  error_code ignored;
  acceptor.close(ignored);
  pause.cancel(), trim_timer.cancel();
  for (HttpSession* session : sessions) session->begin_drain();
  if (sessions.empty()) return;
  drain_timer.expires_after(world->limits.drain);
  drain_timer.async_wait([this](const error_code& error) {
    if (!error) end_drain();
  });
}

void HttpServer::Core::end_drain() {
  for (HttpSession* session : sessions) session->end_drain();
  // Answers are being completed now. Clients get three seconds to read them, then the server stops.
  try {
    drain_timer.expires_after(std::chrono::seconds(3));
    drain_timer.async_wait([this](const error_code& error) {
      if (!error) world->io.stop();
    });
  } catch (...) {
    world->io.stop();
    throw;
  }
}

// The memory of large requests goes back to the system: not at once, since others like them may follow.
void HttpServer::Core::trim_later() {
  trim_timer.expires_after(kTrimAfter);
  trim_timer.async_wait([this](const error_code& error) {
    trimming = false;
    if (error || world->draining) return;
    if (std::exchange(world->freed_much, false))
      world->answer([] {
#ifdef __GLIBC__
        ::malloc_trim(0);
#endif
      });
    trim_later();
  });
  trimming = true;
}

// Handlers whose flag is set end where they look at it. One that does not look cannot be ended, and what it uses must
// not go before it: so the process ends in its place.
void HttpServer::Core::end_handlers() {
  constexpr auto kGrace = std::chrono::seconds(5);
  if (world->pool.join_for(kGrace)) return;
  log_warning("handlers_do_not_end", " handlers=", world->pool.busy(), " action=end_at_once");
  flush_log(std::chrono::milliseconds(500));
  std::_Exit(1);
}

void HttpServer::Core::run() {
  for (;;) {
    try {
      if (!world->draining && !trimming) trim_later();
      do begin_accepting();
      while (world->io.run_one() > 0);
      if (world->draining) break;
      world->io.restart();  // nothing to do is left where memory was missing to accept
    } catch (...) {         // of what was posted; memory is short
      log_problem("server_failed", std::current_exception());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  end_handlers();
  world->watch.join();
  world->close();
  world->answerers.join();
}

HttpStats HttpServer::Core::stats() const {
  HttpStats stats{.connections = connections, .queued = world->pool.waiting(), .handlers = world->pool.busy()};
  stats.replaced = world->pool.replaced();
  stats.overdue = world->overdue, stats.timeouts = world->timeouts;
  stats.evicted = evicted, stats.refused_connections = refused;
  return stats;
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const std::string& host, int port, HttpLimits limits,
                                                       HttpHandlers handlers) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) ==
      0) {  // as many descriptors as we are allowed; some are kept for the rest of the process
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur != RLIM_INFINITY)
      limits.connections = std::max(
          1, std::min<int>(limits.connections, static_cast<int>(std::min<rlim_t>(files.rlim_cur, 1 << 20)) - 64));
  }
  try {
    auto core = std::make_shared<Core>(limits, std::move(handlers));
    WEFT_RETURN_IF_ERROR(core->listen(host, port));
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(core)));
  } catch (const std::exception& thrown) {  // no memory, no more threads or descriptors
    return fail(Code::resource_exhausted, "cannot begin to listen on ", host, " port ", port, ": ", thrown.what());
  }
}

HttpServer::~HttpServer() = default;
int HttpServer::port() const { return core_->port; }
void HttpServer::on_drain(std::function<void()> callback) { core_->on_drain = std::move(callback); }
void HttpServer::run() { core_->run(); }
void HttpServer::stop() { core_->stop(); }
HttpStats HttpServer::stats() const { return core_->stats(); }
void HttpServer::break_next_accept() { core_->break_accept = true; }

}  // namespace weft
