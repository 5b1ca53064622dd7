// HTTP over Boost.Asio and Beast, both included here and in http_client.cc alone.
//
// One thread runs all connections, each a coroutine; a few handler threads run the handler (JSON, templates,
// tokenizing), whose answers come back as work posted to the first thread. So nothing of a connection is shared between
// threads but Core::post.
//
// A connection never reads ahead while a response is being made. A few times a second the socket is checked for whether
// the client is still there (see Session::look_at_client): a response that nobody waits for must not keep the engine
// busy, and a client that closed only its sending side must still get its response.
#include "server/http_server.h"

#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cctype>
#include <charconv>
#include <cstring>
#include <mutex>
#include <optional>
#include <unordered_set>

#include "base/log.h"
#include "base/thread_team.h"
#include "server/http_answer.h"

namespace weft {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = net::ip::tcp;
using beast::error_code;
using Clock = std::chrono::steady_clock;

namespace {

class Session;

}  // namespace

// What outlives the sessions: the reactor, the limits, the list of connections.
class HttpServer::Core : public std::enable_shared_from_this<HttpServer::Core> {
 public:
  Core(HttpLimits limits, HttpHandler handler, Refusal refuse)
      : limits(limits), handler(std::move(handler)), refuse(std::move(refuse)), io(1), acceptor(io), accept_pause(io),
        drain_timer(io), pool(limits.handlers) {}

  Status listen(const std::string& host, int port_number);
  net::awaitable<void> accept_loop();
  bool run(bool use_signals);
  void stop();  // any thread
  std::function<void()> on_drain;
  void begin_drain();  // on the server's thread, as all below
  void end_drain();
  void left(Session* session);
  void wait_for_signal();

  void post(std::function<void()> work) {
    const std::lock_guard lock(closing);
    if (!closed) net::post(io, std::move(work));
  }

  const HttpLimits limits;
  const HttpHandler handler;
  const Refusal refuse;
  net::io_context io;
  tcp::acceptor acceptor;
  net::steady_timer accept_pause, drain_timer;
  std::optional<net::signal_set> signals;
  net::thread_pool pool;
  std::unordered_set<Session*> sessions;
  std::atomic<int> connections{0};
  int port = 0;
  size_t body_bytes = 0;  // of all requests being read or answered
  bool draining = false, forced = false;

 private:
  std::mutex closing;
  bool closed = false;
};

namespace {

using Parser = http::request_parser<http::string_body>;

// The transport's own verdict on a request's head: the status of an error, or 0 to go on.
struct Verdict {
  int status = 0;
  std::string message;
};

// Is there a well-formed version, whichever it is, at the end of the first line?
bool has_version(const beast::flat_buffer& buffer) {
  const std::string_view text(static_cast<const char*>(buffer.data().data()), buffer.data().size());
  const std::string_view line = text.substr(0, text.find("\r\n"));
  const size_t size = line.size();
  return size >= 8 && line.substr(size - 8, 5) == "HTTP/" && std::isdigit(static_cast<unsigned char>(line[size - 3])) &&
         line[size - 2] == '.' && std::isdigit(static_cast<unsigned char>(line[size - 1]));
}

bool valid_host(std::string_view host) {
  return std::all_of(host.begin(), host.end(),
                     [](unsigned char c) { return std::isalnum(c) || std::strchr("-._:[]%", c) != nullptr; });
}

Verdict judge_head(const Parser::value_type& head, const HttpLimits& limits) {
  if (head.version() / 10 != 1) return {505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  if (std::distance(head.begin(), head.end()) > limits.head_fields) return {431, "too many header fields"};
  const auto hosts = head.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && head.version() >= 11)) return {400, "a request must have one Host header"};
  if (hosts == 1 && !valid_host(head[http::field::host])) return {400, "the Host header is not valid"};
  if (const auto coding = head[http::field::transfer_encoding]; !coding.empty() && lower_case(coding) != "chunked")
    return {501, "the only transfer encoding supported is chunked"};
  if (head.count(http::field::transfer_encoding) > 1) return {400, "more than one Transfer-Encoding header"};
  if (const auto coding = head[http::field::content_encoding]; !coding.empty() && lower_case(coding) != "identity")
    return {415, "compressed request bodies are not supported"};
  if (const auto expect = head[http::field::expect]; !expect.empty() && lower_case(expect) != "100-continue")
    return {417, "the only expectation supported is 100-continue"};
  if (head.target().empty() ||
      (head.target()[0] != '/' && head.target() != "*" && head.target().find("://") == std::string_view::npos))
    return {400, "the request target is not valid"};
  return {};
}

// "%2F" becomes "/"; a % without two hexadecimal digits behind it stays.
std::string percent_decoded(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* const digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2) {
      decoded += static_cast<char>(value);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

HttpRequest to_request(Parser::value_type&& message) {
  HttpRequest request;
  request.method = message.method() == http::verb::head ? "GET" : std::string(message.method_string());
  std::string_view target(message.target().data(), message.target().size());
  if (const size_t scheme = target.find("://");
      scheme != std::string_view::npos && target[0] != '/') {  // absolute form: served here
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  const size_t question = target.find('?');
  request.path = percent_decoded(target.substr(0, question));
  if (question != std::string_view::npos) request.query = target.substr(question + 1);
  for (const auto& field : message)
    request.headers.emplace_back(lower_case({field.name_string().data(), field.name_string().size()}),
                                 std::string(field.value()));
  request.body = std::move(message.body());
  return request;
}

// One connection.
class Session : public std::enable_shared_from_this<Session> {
 public:
  // The core's parts that a session uses (Core itself is private to HttpServer).
  struct Shared {
    const HttpLimits& limits;
    const HttpHandler& handler;
    const HttpServer::Refusal& refuse;
    net::io_context& io;
    net::thread_pool& pool;
    size_t& all_body_bytes;
    const bool& draining;
    std::function<void(std::function<void()>)> post;
  };

  Session(tcp::socket socket, Shared shared)
      : shared_(std::move(shared)), stream_(std::move(socket)),
        buffer_(std::max<size_t>(2 * shared_.limits.head_bytes, 64 * 1024)), wake_(shared_.io) {}

  net::awaitable<void> run() {
    error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    while (co_await next_request()) {
    }
    co_await linger();
  }

  // The server drains: an idle connection ends now, a busy one after its response.
  void begin_drain() {
    if (answer_) answer_->form.keep_alive = answer_->streaming() && answer_->form.keep_alive;
    else if (idle_) stream_.cancel();
  }
  // The time for draining is over: ends what is still running.
  void end_drain() {
    if (answer_) answer_->end(Ending::shutdown);
    else stream_.cancel();
  }

 private:
  auto token(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

  // Reads a request and answers it. False: the connection is to be closed.
  net::awaitable<bool> next_request() {
    error_code error;
    if (buffer_.size() == 0) {
      idle_ = true;
      if (shared_.draining) co_return false;
      stream_.expires_after(shared_.limits.idle);
      const size_t got = co_await stream_.async_read_some(buffer_.prepare(4096), token(error));
      buffer_.commit(got);
      if (error) co_return false;
      idle_ = false;
    }
    Parser parser;
    parser.header_limit(static_cast<std::uint32_t>(shared_.limits.head_bytes));
    parser.body_limit(shared_.limits.body_bytes);
    stream_.expires_after(shared_.limits.head);
    co_await http::async_read_header(stream_, buffer_, parser, token(error));
    if (error) co_return co_await refuse(error, parser);
    if (const Verdict verdict = judge_head(parser.get(), shared_.limits); verdict.status != 0)
      co_return co_await refuse(verdict.status, verdict.message);
    size_t held = 0;
    const bool complete = co_await read_body(parser, held);
    const bool answered = complete && co_await answer(parser);
    shared_.all_body_bytes -= held;
    co_return answered;
  }

  // `held`: how much of all_body_bytes this body takes. False: the body was refused, or the client left.
  net::awaitable<bool> read_body(Parser& parser, size_t& held) {
    error_code error;
    stream_.expires_after(shared_.limits.body);
    if (!parser.is_done() && parser.get().count(http::field::expect) != 0 && buffer_.size() == 0) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await net::async_write(stream_, net::buffer(kContinue), token(error));
      if (error) co_return false;
    }
    while (!parser.is_done()) {
      co_await http::async_read_some(stream_, buffer_, parser, token(error));
      if (error) co_return co_await refuse(error, parser);
      const size_t size = parser.get().body().size();
      shared_.all_body_bytes += size - held;
      held = size;
      if (shared_.all_body_bytes > shared_.limits.all_body_bytes)
        co_return co_await refuse(503, "too much data in requests at the moment; try again later");
    }
    co_return true;
  }

  // Runs the handler and sends its answer. True: the connection can be used again.
  net::awaitable<bool> answer(Parser& parser) {
    const bool http11 = parser.get().version() >= 11;
    auto answer = std::make_shared<HttpAnswer>(shared_.post, [this] { wake_.cancel(); }, shared_.limits.unsent_bytes);
    answer->form.keep_alive = parser.get().keep_alive() && !shared_.draining;
    answer->form.chunked = http11;
    answer->form.head_only = parser.get().method() == http::verb::head;
    answer->request() = to_request(parser.release());
    answer_ = answer;
    bool probed = false;
    if (!look_at_client(*answer, probed)) {  // the client has left already: the handler need not run
      answer->end(Ending::client_left);
    } else if (shared_.draining) {
      answer->respond(shared_.refuse(503, "the server is shutting down"));
    } else {
      net::post(shared_.pool, [answer, handler = &shared_.handler, refuse = &shared_.refuse] {
        run_handler(answer, *handler, *refuse);
      });
    }
    const bool sent = co_await send_answer(*answer, probed);
    answer_ = nullptr;
    if (!sent) answer->end(Ending::client_left);
    answer->detach();
    co_return sent && answer->form.keep_alive;
  }

  static void run_handler(const std::shared_ptr<HttpAnswer>& answer, const HttpHandler& handler,
                          const HttpServer::Refusal& refuse) {
    step_back_from_compute();
    std::string problem;
    try {
      handler(answer);
      return;
    } catch (const std::exception& thrown) {  // out of memory, most likely
      problem = thrown.what();
    }
    answer->post([answer, &refuse, problem] { answer->respond(refuse(500, "the request failed: " + problem)); });
  }

  // Sends the response as it is made, until it is complete. False: the client has left, or does not read.
  net::awaitable<bool> send_answer(HttpAnswer& answer, bool probed) {
    error_code error;
    const auto begin = Clock::now();
    auto last_write = begin;
    for (;;) {
      if (answer.too_slow()) {
        log_warning("client_too_slow", " unsent_bytes_over=", shared_.limits.unsent_bytes);
        co_return false;
      }
      if (answer.has_unsent()) {
        const std::string bytes = answer.take_unsent();
        if (!co_await write(bytes)) co_return false;
        last_write = Clock::now();
        continue;
      }
      if (answer.done()) co_return true;
      wake_.expires_after(shared_.limits.tick);
      co_await wake_.async_wait(token(error));
      if (error) continue;  // woken: there is something to send
      if (!look_at_client(answer, probed)) co_return false;
      const auto now = Clock::now();
      if (answer.expects_events() && !answer.streaming() && now - begin > shared_.limits.stream_head)
        answer.begin_stream();
      if (answer.streaming() && now - last_write > shared_.limits.ping) answer.send(": ping\n\n");
    }
  }

  net::awaitable<bool> write(const std::string& bytes) {
    error_code error;
    // One part at a time, so that the time-out is for a client that reads nothing, not for one that reads slowly.
    for (size_t at = 0; at < bytes.size();) {
      stream_.expires_after(shared_.limits.write);
      at += co_await stream_.async_write_some(net::buffer(bytes.data() + at, bytes.size() - at), token(error));
      if (error) co_return false;
    }
    co_return true;
  }

  // Is anybody waiting for the answer? A closed sending side may be the whole connection's end or only its half; data
  // sent to a closed connection comes back as a reset. So something harmless is sent: a comment in a stream, else one
  // byte of urgent data, which does not become part of what the client reads.
  bool look_at_client(HttpAnswer& answer, bool& probed) {
    pollfd ask{stream_.socket().native_handle(), POLLRDHUP, 0};
    if (::poll(&ask, 1, 0) <= 0) return true;
    if (ask.revents & (POLLERR | POLLHUP | POLLNVAL)) return false;
    if ((ask.revents & POLLRDHUP) && !probed) {
      probed = true;
      if (answer.streaming()) answer.send(": ping\n\n");
      else ::send(ask.fd, "", 1, MSG_OOB | MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return true;
  }

  // Always false, as the connection cannot be used any more.
  net::awaitable<bool> refuse(int status, const std::string& message) {
    const HttpResponse response = shared_.refuse(status, message);
    HttpHeaders headers = response.headers;
    headers.emplace_back("Content-Length", std::to_string(response.body.size()));
    const std::string bytes =
        http_head(response.status, response.content_type, headers, false) + "\r\n" + response.body;
    co_await write(bytes);
    refused_ = true;
    co_return false;
  }
  net::awaitable<bool> refuse(const error_code& error, const Parser& parser) {
    if (error == http::error::end_of_stream || error == net::error::operation_aborted) co_return false;
    if (error == beast::error::timeout) co_return false;  // the stream has closed the socket
    if (error == http::error::partial_message) co_return co_await refuse(400, "the request is incomplete");
    if (error == http::error::body_limit && parser.chunked() &&
        parser.get().body().size() < shared_.limits.body_bytes / 2)
      co_return co_await refuse(400, "a chunk's size is out of range");
    if (error == http::error::body_limit)
      co_return co_await refuse(413,
                                "the body may be at most " + std::to_string(shared_.limits.body_bytes) + " bytes long");
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      if (parser.get().target().empty()) co_return co_await refuse(414, "the request target is too long");
      co_return co_await refuse(
          431, "the headers may be at most " + std::to_string(shared_.limits.head_bytes) + " bytes long");
    }
    if (error == http::error::bad_version && has_version(buffer_))
      co_return co_await refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    if (error.category() != http::make_error_code(http::error::bad_value).category()) co_return false;  // the network's
    co_return co_await refuse(400, "not a valid HTTP request: " + error.message());
  }

  // Closing a socket that has unread input resets the connection, and the client may lose the answer; so the input is
  // read away first, within bounds.
  net::awaitable<void> linger() {
    error_code error;
    if (idle_ || !stream_.socket().is_open()) co_return;
    stream_.socket().shutdown(tcp::socket::shutdown_send, error);
    if (error) co_return;
    std::string scrap(64 * 1024, '\0');
    size_t left = refused_ ? size_t{256} << 20 : size_t{1} << 20;
    stream_.expires_after(refused_ ? std::chrono::seconds(5) : std::chrono::seconds(2));
    while (left > 0) {
      const size_t got = co_await stream_.async_read_some(net::buffer(scrap), token(error));
      if (error) break;
      left -= std::min(left, got);
    }
  }

  const Shared shared_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  net::steady_timer wake_;
  std::shared_ptr<HttpAnswer> answer_;  // while one is being made
  bool idle_ = false, refused_ = false;
};

}  // namespace

Status HttpServer::Core::listen(const std::string& host, int port_number) {
  if (port_number < 0 || port_number > 65535)
    return fail(Code::invalid_argument, "port must be between 0 and 65535, got ", port_number).about("port");
  error_code error;
  tcp::resolver resolver(io);
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
  return {};
}

net::awaitable<void> HttpServer::Core::accept_loop() {
  while (acceptor.is_open()) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(net::redirect_error(net::use_awaitable, error));
    if (draining) break;
    if (error) {  // out of descriptors, or the client left already
      accept_pause.expires_after(std::chrono::milliseconds(20));
      co_await accept_pause.async_wait(net::redirect_error(net::use_awaitable, error));
      continue;
    }
    if (connections >= limits.connections) {
      HttpResponse response = refuse(503, "too many connections; try again later");
      response.headers.emplace_back("Content-Length", std::to_string(response.body.size()));
      const std::string bytes =
          http_head(response.status, response.content_type, response.headers, false) + "\r\n" + response.body;
      ::send(socket.native_handle(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      continue;
    }
    auto session = std::make_shared<Session>(std::move(socket),
                                             Session::Shared{limits, handler, refuse, io, pool, body_bytes, draining,
                                                             [core = weak_from_this()](std::function<void()> work) {
                                                               if (const auto held = core.lock())
                                                                 held->post(std::move(work));
                                                             }});
    sessions.insert(session.get());
    ++connections;
    net::co_spawn(io, session->run(), [this, session](std::exception_ptr) { left(session.get()); });
  }
}

void HttpServer::Core::left(Session* session) {
  sessions.erase(session);
  --connections;
  if (draining && sessions.empty()) {
    drain_timer.cancel();
    if (signals) signals->cancel();
  }
}

void HttpServer::Core::wait_for_signal() {
  signals->async_wait([this](const error_code& error, int number) {
    if (error) return;
    log_info("signal", " number=", number, draining ? " action=end_at_once" : " action=drain");
    if (draining) {
      forced = true;
      io.stop();
      return;
    }
    begin_drain();
    if (!sessions.empty()) wait_for_signal();
  });
}

void HttpServer::Core::stop() {
  post([self = shared_from_this()] { self->begin_drain(); });
}

void HttpServer::Core::begin_drain() {
  if (draining) return;
  draining = true;
  if (on_drain) on_drain();
  error_code ignored;
  acceptor.close(ignored);
  accept_pause.cancel();
  for (Session* session : sessions) session->begin_drain();
  if (sessions.empty()) {
    if (signals) signals->cancel();
    return;
  }
  drain_timer.expires_after(limits.drain);
  drain_timer.async_wait([this](const error_code& error) {
    if (!error) end_drain();
  });
}

void HttpServer::Core::end_drain() {
  for (Session* session : sessions) session->end_drain();
  // Every answer has been written to its connection by now. Clients get three seconds to read it, then the server
  // stops.
  drain_timer.expires_after(std::chrono::seconds(3));
  drain_timer.async_wait([this](const error_code& error) {
    if (!error) io.stop();
  });
}

bool HttpServer::Core::run(bool use_signals) {
  if (use_signals) {
    signals.emplace(io, SIGINT, SIGTERM);
    wait_for_signal();
  }
  net::co_spawn(io, accept_loop(), net::detached);
  io.run();
  if (forced) pool.stop();
  pool.join();
  {
    const std::lock_guard lock(closing);
    closed = true;
  }
  io.restart();
  io.poll();  // what was posted meanwhile; nothing comes after
  return !forced;
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const std::string& host, int port, HttpLimits limits,
                                                       HttpHandler handler, Refusal refuse) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) ==
      0) {  // as many descriptors as we are allowed; some are kept for the rest of the process
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur != RLIM_INFINITY)
      limits.connections = std::max(
          1, std::min<int>(limits.connections, static_cast<int>(std::min<rlim_t>(files.rlim_cur, 1 << 20)) - 64));
  }
  auto core = std::make_shared<Core>(limits, std::move(handler), std::move(refuse));
  WEFT_RETURN_IF_ERROR(core->listen(host, port));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(core)));
}

HttpServer::~HttpServer() = default;
int HttpServer::port() const { return core_->port; }
void HttpServer::on_drain(std::function<void()> callback) { core_->on_drain = std::move(callback); }
bool HttpServer::run(bool signals) { return core_->run(signals); }
void HttpServer::stop() { core_->stop(); }
int HttpServer::connections() const { return core_->connections; }

}  // namespace weft
