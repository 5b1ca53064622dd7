// See the header. Asio and Beast, as in http_server.cc: each request is a coroutine that takes a connection from those
// at rest, or opens one.
#include "server/http_client.h"

#include <netinet/tcp.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
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
#include <optional>
#include <utility>
#include <vector>

namespace weft {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = net::ip::tcp;
using beast::error_code;

namespace {

constexpr std::chrono::seconds kConnectTimeout{10};

using Request = http::request<http::string_body>;

struct Connection {
  explicit Connection(net::io_context& io) : stream(io) {}
  beast::tcp_stream stream;
  beast::flat_buffer buffer;
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

HttpReply failure(const error_code& error, HttpReply::Failure otherwise, std::chrono::seconds timeout) {
  HttpReply reply;
  const bool timed_out = error == beast::error::timeout;
  const bool answering = timed_out && otherwise == HttpReply::Failure::broken;
  reply.failure = answering ? HttpReply::Failure::timed_out : otherwise;
  if (timed_out) reply.problem = "no answer within " + std::to_string(timeout.count()) + " s";
  else if (error == http::error::end_of_stream || error == http::error::partial_message)
    reply.problem = "the connection ended before the answer";
  else reply.problem = error.message();
  return reply;
}

bool is_whole(std::string_view text, int& value) {
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  return read.ec == std::errc() && read.ptr == end;
}

}  // namespace

class HttpClient::Core {
 public:
  Core(ServerAddress server, HttpHeaders headers, std::chrono::seconds timeout)
      : server_(std::move(server)), headers_(std::move(headers)), timeout_(timeout) {}

  void send(http::verb method, const std::string& path, std::string body, Done done) {
    Request request(method, server_.prefix + path, 11);
    const std::string host = server_.host.find(':') == std::string::npos ? server_.host : "[" + server_.host + "]";
    request.set(http::field::host, host + ":" + std::to_string(server_.port));
    request.set(http::field::user_agent, "weft");
    for (const auto& [name, value] : headers_) request.set(name, value);
    if (method == http::verb::post) request.set(http::field::content_type, "application/json");
    request.body() = std::move(body);
    request.prepare_payload();
    ++pending_;
    net::co_spawn(io_, exchange(std::move(request)),
                  [this, done = std::move(done)](std::exception_ptr thrown, HttpReply reply) {
                    --pending_;
                    if (thrown)
                      reply = failure({}, HttpReply::Failure::broken, timeout_), reply.problem = "out of memory";
                    if (!stopped_) done(std::move(reply));
                  });
  }

  void after(std::chrono::milliseconds pause, std::function<void()> work) {
    const auto timer = std::make_shared<net::steady_timer>(io_, pause);
    ++pending_;
    timer->async_wait([this, timer, work = std::move(work)](const error_code&) {
      --pending_;
      if (!stopped_) work();
    });
  }

  bool run() {
    bool interrupted = false;
    net::signal_set signals(io_, SIGINT, SIGTERM);
    signals.async_wait([&](const error_code& error, int) {
      if (!error) interrupted = true;
    });
    while (pending_ > 0 && !stopped_ && !interrupted) io_.run_one();
    stopped_ = true;
    signals.clear();
    return !interrupted;
  }
  void stop() { stopped_ = true; }

 private:
  static auto token(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

  net::awaitable<HttpReply> exchange(Request request) {
    for (bool first = true;; first = false) {
      const bool used = first && !resting_.empty();
      std::unique_ptr<Connection> connection;
      if (used) connection = std::move(resting_.back()), resting_.pop_back();
      else connection = std::make_unique<Connection>(io_);
      error_code error;
      if (!used) co_await connect(*connection, error);
      if (error) co_return failure(error, HttpReply::Failure::unreachable, kConnectTimeout);
      bool keep = false;
      HttpReply reply = co_await talk(*connection, request, keep);
      // The server may have closed a connection at rest; that says nothing about this request.
      if (used && reply.failure == HttpReply::Failure::broken) continue;
      if (keep) resting_.push_back(std::move(connection));
      co_return reply;
    }
  }

  net::awaitable<void> connect(Connection& connection, error_code& error) {
    tcp::resolver resolver(io_);
    const auto found = co_await resolver.async_resolve(server_.host, std::to_string(server_.port), token(error));
    if (error) co_return;
    connection.stream.expires_after(kConnectTimeout);
    co_await connection.stream.async_connect(found, token(error));
    if (!error) watch_peer(connection.stream.socket().native_handle());
  }

  net::awaitable<HttpReply> talk(Connection& connection, Request& request, bool& keep) {
    beast::tcp_stream& stream = connection.stream;
    if (timeout_.count() > 0) stream.expires_after(timeout_);
    else stream.expires_never();
    error_code sent, error;
    co_await http::async_write(stream, request, token(sent));
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    // A server may refuse a request before it has read all of it; then the answer is there in spite of the error.
    co_await http::async_read(stream, connection.buffer, parser, token(error));
    if (error) co_return failure(sent ? sent : error, HttpReply::Failure::broken, timeout_);
    keep = !sent && parser.keep_alive();
    stream.expires_never();
    HttpReply reply;
    reply.status = static_cast<int>(parser.get().result_int());
    const auto later = parser.get()[http::field::retry_after];
    if (!is_whole({later.data(), later.size()}, reply.retry_after_s)) reply.retry_after_s = 0;
    reply.body = std::move(parser.get().body());
    co_return reply;
  }

  const ServerAddress server_;
  const HttpHeaders headers_;
  const std::chrono::seconds timeout_;
  net::io_context io_{1};
  std::vector<std::unique_ptr<Connection>> resting_;  // destroyed before the context that they are of
  int pending_ = 0;                                   // requests and timers
  bool stopped_ = false;
};

std::string ServerAddress::text() const {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return "http://" + name + ":" + std::to_string(port) + prefix;
}

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

HttpClient::HttpClient(ServerAddress server, HttpHeaders headers, std::chrono::seconds timeout)
    : core_(std::make_unique<Core>(std::move(server), std::move(headers), timeout)) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;  // a connection takes one
  ::setrlimit(RLIMIT_NOFILE, &files);
}
HttpClient::~HttpClient() = default;

void HttpClient::get(const std::string& path, Done done) { core_->send(http::verb::get, path, {}, std::move(done)); }
void HttpClient::post(const std::string& path, std::string body, Done done) {
  core_->send(http::verb::post, path, std::move(body), std::move(done));
}
void HttpClient::after(std::chrono::milliseconds pause, std::function<void()> work) {
  core_->after(pause, std::move(work));
}
bool HttpClient::run() { return core_->run(); }
void HttpClient::stop() { core_->stop(); }

}  // namespace weft
