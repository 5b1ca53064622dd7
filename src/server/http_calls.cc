// See the header. Asio and Beast, as in http_server.cc: each call is a coroutine that takes a connection from those at
// rest, or opens one.
#include "server/http_calls.h"

#include <netinet/tcp.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <charconv>
#include <csignal>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "server/http_answer.h"

namespace weft {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = net::ip::tcp;
using beast::error_code;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr size_t kResting = 256;                  // connections to a server that are kept
constexpr std::chrono::seconds kLongestRest{60};  // weft's server closes them after 75

using Request = http::request<http::string_body>;

// Room grows with what comes: a server may promise any length.
struct ReplyBody : http::string_body {
  struct reader : http::string_body::reader {
    using http::string_body::reader::reader;
    void init(const boost::optional<std::uint64_t>& /*length*/, error_code& error) { error = {}; }
  };
};

struct Connection {
  // The buffer's room is what one read takes.
  explicit Connection(net::io_context& io) : stream(io) { buffer.reserve(size_t{64} << 10); }
  beast::tcp_stream stream;
  beast::flat_buffer buffer;
  Clock::time_point rests_since;
};

// A call that has not ended.
struct Running {
  HttpReceiver receiver;
  std::unique_ptr<Connection> connection;
  bool cancelled = false;
};

struct Outcome {
  HttpFailure failure = HttpFailure::none;
  std::string problem;
  bool answered = false;  // at least the head has come
  bool keep = false;      // the connection can be used again
};

// A server whose machine is gone says nothing; the kernel finds out in a minute and a half.
void watch_peer(int socket) {
  const auto set = [&](int level, int option, int value) { ::setsockopt(socket, level, option, &value, sizeof value); };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 6);
  set(IPPROTO_TCP, TCP_NODELAY, 1);
}

std::string seconds_text(milliseconds time) {
  std::string text = std::to_string(time.count() / 1000.0);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text + " s";
}

Outcome failed(const error_code& error, HttpFailure otherwise, milliseconds timeout) {
  Outcome outcome;
  const bool timed_out = error == beast::error::timeout;
  outcome.failure = timed_out && otherwise == HttpFailure::broken ? HttpFailure::timed_out : otherwise;
  if (timed_out) outcome.problem = "no answer within " + seconds_text(timeout);
  else if (error == http::error::end_of_stream || error == http::error::partial_message)
    outcome.problem = "the connection ended before the answer";
  else outcome.problem = error.message();
  return outcome;
}

bool is_whole(std::string_view text, int& value) {
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  return read.ec == std::errc() && read.ptr == end;
}

std::string host_and_port(const ServerAddress& server) {
  const std::string host = server.host.find(':') == std::string::npos ? server.host : "[" + server.host + "]";
  return host + ":" + std::to_string(server.port);
}

Request request_of(HttpCall& call) {
  Request request;
  request.version(11);
  request.method_string(call.method);
  request.target(call.server.prefix + call.path);
  request.set(http::field::host, host_and_port(call.server));
  request.set(http::field::user_agent, "weft");
  for (const auto& [name, value] : call.headers) request.set(name, value);
  request.body() = std::move(call.body);
  request.prepare_payload();
  return request;
}

// When the limit is over that began at `begin`; never with a limit of 0.
Clock::time_point deadline(Clock::time_point begin, milliseconds limit) {
  return limit.count() > 0 ? begin + limit : Clock::time_point::max();
}

void expire(beast::tcp_stream& stream, Clock::time_point when) {
  if (when == Clock::time_point::max()) stream.expires_never();
  else stream.expires_at(when);
}

}  // namespace

class HttpCalls::Core {
 public:
  Id start(HttpCall call, HttpReceiver receiver) {
    const Id id = next_++;
    ++pending_;
    net::post(io_, [this, id, call = std::move(call), receiver = std::move(receiver)]() mutable {
      auto running = std::make_shared<Running>();
      running->receiver = std::move(receiver);
      running_.emplace(id, running);
      net::co_spawn(io_, perform(running, std::move(call)),
                    [this, id, running](std::exception_ptr thrown, Outcome outcome) {
                      --pending_;
                      running_.erase(id);
                      if (thrown) outcome = {HttpFailure::broken, "out of memory"};
                      if (!stopped_ && !running->cancelled) running->receiver.end(outcome.failure, outcome.problem);
                    });
    });
    return id;
  }

  void cancel(Id id) {
    net::dispatch(io_, [this, id] {
      const auto found = running_.find(id);
      if (found == running_.end()) return;
      found->second->cancelled = true;
      if (found->second->connection) found->second->connection->stream.close();
    });
  }

  void post(std::function<void()> work) {
    ++pending_;
    net::post(io_, [this, work = std::move(work)] {
      --pending_;
      if (!stopped_) work();
    });
  }

  void after(milliseconds pause, std::function<void()> work) {
    const auto timer = std::make_shared<net::steady_timer>(io_, pause);
    ++pending_;
    timer->async_wait([this, timer, work = std::move(work)](const error_code&) {
      --pending_;
      if (!stopped_) work();
    });
  }

  void run() {
    const auto guard = net::make_work_guard(io_);
    while (!stopped_) io_.run_one();
  }

  int run_to_end(bool ended_by_signals) {
    int interrupted = 0;
    net::signal_set signals(io_);
    if (ended_by_signals) {
      signals.add(SIGINT), signals.add(SIGTERM);
      signals.async_wait([&](const error_code& error, int signal) {
        if (!error) interrupted = signal;
      });
    }
    while (pending_ > 0 && !stopped_ && interrupted == 0) io_.run_one();
    stopped_ = true;
    signals.clear();
    return interrupted;
  }

  void stop() {
    stopped_ = true;
    net::post(io_, [] {});  // wakes run()
  }

 private:
  static auto token(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

  net::awaitable<Outcome> perform(std::shared_ptr<Running> running, HttpCall call) {
    const std::string address = host_and_port(call.server);
    Request request = request_of(call);
    for (bool first = true; !running->cancelled; first = false) {
      running->connection = first ? take_resting(address) : nullptr;
      const bool used = running->connection != nullptr;
      error_code error;
      if (!used) {
        running->connection = std::make_unique<Connection>(io_);
        co_await connect(*running->connection, call, error);
      }
      if (error) co_return failed(error, HttpFailure::unreachable, call.connect_timeout);
      if (running->cancelled) break;
      Outcome outcome = co_await talk(*running, request, call);
      // The server may have closed a connection at rest; that says nothing about this request.
      if (used && outcome.failure == HttpFailure::broken && !outcome.answered) continue;
      if (outcome.keep && !running->cancelled) rest(address, std::move(running->connection));
      co_return outcome;
    }
    co_return Outcome{HttpFailure::broken, "cancelled"};
  }

  net::awaitable<void> connect(Connection& connection, const HttpCall& call, error_code& error) {
    expire(connection.stream, deadline(Clock::now(), call.connect_timeout));
    // Names are looked up one after the other, so numbers do not wait for them.
    const auto number = net::ip::make_address(call.server.host, error);
    if (!error) {
      co_await connection.stream.async_connect({number, static_cast<uint16_t>(call.server.port)}, token(error));
    } else {
      tcp::resolver resolver(io_);
      const auto found =
          co_await resolver.async_resolve(call.server.host, std::to_string(call.server.port), token(error));
      if (error) co_return;
      co_await connection.stream.async_connect(found, token(error));
    }
    if (!error) watch_peer(connection.stream.socket().native_handle());
  }

  net::awaitable<Outcome> talk(Running& running, Request& request, const HttpCall& call) {
    beast::tcp_stream& stream = running.connection->stream;
    beast::flat_buffer& buffer = running.connection->buffer;
    const auto begin = Clock::now(), last = deadline(begin, call.timeout);
    const bool head_first = deadline(begin, call.head_timeout) < last;
    expire(stream, head_first ? deadline(begin, call.head_timeout) : last);
    error_code sent, error;
    co_await http::async_write(stream, request, token(sent));
    std::optional<http::response_parser<ReplyBody>> parsers;
    int status = 0;
    do {  // what a server says before its answer (100, 103) has a head alone
      parsers.emplace();
      parsers->body_limit(boost::none);
      parsers->eager(true);
      // A server may refuse a request before it has read all of it; then the answer is there in spite of the error.
      co_await http::async_read_header(stream, buffer, *parsers, token(error));
      if (error)
        co_return failed(sent ? sent : error, HttpFailure::broken, head_first ? call.head_timeout : call.timeout);
      status = static_cast<int>(parsers->get().result_int());
    } while (status >= 100 && status < 200 && status != 101);
    if (status < 200)  // nobody asked for another protocol
      co_return Outcome{HttpFailure::broken, "the answer's status is " + std::to_string(status), true};
    http::response_parser<ReplyBody>& parser = *parsers;
    expire(stream, last);
    HttpReplyHead head{status, {}};
    for (const auto& field : parser.get())
      head.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    if (!running.cancelled && !stopped_) running.receiver.head(std::move(head));
    size_t bytes = 0;
    for (;;) {
      bytes += parser.get().body().size();
      if (call.most_bytes > 0 && bytes > call.most_bytes)
        co_return Outcome{HttpFailure::too_large,
                          "the answer has more than " + std::to_string(call.most_bytes) + " bytes", true};
      if (std::string piece = std::exchange(parser.get().body(), {}); !piece.empty() && !running.cancelled && !stopped_)
        running.receiver.data(std::move(piece));
      if (running.cancelled || parser.is_done()) break;
      co_await http::async_read_some(stream, buffer, parser, token(error));
      if (error) {
        Outcome outcome = failed(error, HttpFailure::broken, call.timeout);
        outcome.answered = true;
        co_return outcome;
      }
    }
    stream.expires_never();
    co_return Outcome{HttpFailure::none, {}, true, !sent && parser.keep_alive()};
  }

  std::unique_ptr<Connection> take_resting(const std::string& address) {
    drop_old();
    const auto found = resting_.find(address);
    if (found == resting_.end()) return nullptr;
    std::unique_ptr<Connection> connection = std::move(found->second.back());
    found->second.pop_back();
    if (found->second.empty()) resting_.erase(found);
    return connection;
  }
  void rest(const std::string& address, std::unique_ptr<Connection> connection) {
    drop_old();
    connection->rests_since = Clock::now();
    auto& all = resting_[address];
    if (all.size() >= kResting) all.erase(all.begin());
    all.push_back(std::move(connection));
  }
  // The oldest lie in front.
  void drop_old() {
    const auto oldest = Clock::now() - kLongestRest;
    for (auto& [address, all] : resting_)
      all.erase(all.begin(), std::ranges::find_if(all, [&](const auto& c) { return c->rests_since > oldest; }));
    std::erase_if(resting_, [](const auto& entry) { return entry.second.empty(); });
  }

  net::io_context io_{1};
  std::atomic<Id> next_{1};
  std::atomic<int> pending_{0};  // calls, timers and posted work
  std::atomic<bool> stopped_{false};
  // On the thread of the calls; destroyed before the context that they are of.
  std::unordered_map<Id, std::shared_ptr<Running>> running_;
  std::map<std::string, std::vector<std::unique_ptr<Connection>>> resting_;
};

const std::string* HttpReplyHead::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (lower_case(name) == lower_case_name) return &value;
  return nullptr;
}

std::string ServerAddress::text() const { return "http://" + host_and_port(*this) + prefix; }

Result<ServerAddress> parse_server_url(std::string_view url) {
  const auto wrong = [&](const std::string& why) {
    return fail(Code::invalid_argument, "the URL ", url, " ", why, "; it must be like http://HOST:PORT");
  };
  constexpr std::string_view kScheme = "http://";
  if (url.starts_with("https://")) return wrong("is one of https, which is not spoken here");
  if (!url.starts_with(kScheme)) return wrong("does not begin with http://");
  const bool printable = std::ranges::all_of(url, [](char c) { return c > ' ' && c <= '~'; });
  if (!printable || url.find_first_of("@?#\\\"<>") != std::string_view::npos)
    return wrong("holds a user, a query or a character that it must not");
  std::string_view rest = url.substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view name = rest.substr(0, slash), prefix = rest.substr(slash);
  ServerAddress address;
  const size_t bracket = name.starts_with('[') ? std::min(name.find(']'), name.size()) : 0;
  if (const size_t colon = name.find(':', bracket); colon != std::string_view::npos) {
    if (!is_whole(name.substr(colon + 1), address.port) || address.port < 1 || address.port > 65535)
      return wrong("has no port between 1 and 65535 behind its host");
    name = name.substr(0, colon);
  }
  if (name.starts_with('[') && name.ends_with(']')) name = name.substr(1, name.size() - 2);
  if (name.empty() || name.find_first_of("[]") != std::string_view::npos) return wrong("names no host");
  while (prefix.ends_with('/')) prefix.remove_suffix(1);
  if (prefix.ends_with("/v1")) prefix.remove_suffix(3);
  address.host = name, address.prefix = prefix;
  return address;
}

HttpCalls::HttpCalls() : core_(std::make_shared<Core>()) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;  // a connection takes one
  ::setrlimit(RLIMIT_NOFILE, &files);
}
HttpCalls::~HttpCalls() = default;

HttpCalls::Id HttpCalls::start(HttpCall call, HttpReceiver receiver) {
  return core_->start(std::move(call), std::move(receiver));
}
void HttpCalls::cancel(Id id) { core_->cancel(id); }
void HttpCalls::post(std::function<void()> work) { core_->post(std::move(work)); }
void HttpCalls::after(milliseconds pause, std::function<void()> work) { core_->after(pause, std::move(work)); }
void HttpCalls::run() { core_->run(); }
int HttpCalls::run_to_end(bool ended_by_signals) { return core_->run_to_end(ended_by_signals); }
void HttpCalls::stop() { core_->stop(); }

}  // namespace weft
