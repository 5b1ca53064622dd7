// A connection, as a coroutine on the server's thread.
//
// It never reads ahead while a response is being made. A few times a second the socket is checked for whether the
// client is still there (see look_at_client): a response that nobody waits for must not keep the engine busy, and a
// client that closed only its sending side must still get its response.
#include "server/http_session.h"

#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <chrono>

#include "base/json.h"
#include "base/log.h"

namespace weft {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = net::ip::tcp;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kWatchQueue = 64;
constexpr size_t kLargeBody = size_t{1} << 20;
// A handler that has been told to stop gets this long to say so itself.
constexpr std::chrono::milliseconds kGrace{1000};

auto token(boost::system::error_code& error) { return net::redirect_error(net::use_awaitable, error); }

std::string in_seconds(std::chrono::milliseconds time) {
  return Json(static_cast<double>(time.count()) / 1000).dump() + " s";
}

}  // namespace

HttpWorld::HttpWorld(HttpLimits wanted, HttpHandlers calls)
    : limits(wanted), handlers(std::move(calls)), pool(limits.handlers, limits.handlers_per_client, limits.queued,
                                                       [this](const auto& answer) { run_handler(answer); }),
      watch(1, 0, kWatchQueue, [this](const auto& answer) { run_handler(answer); }),
      answerers(static_cast<size_t>(limits.answerers)) {}

bool HttpWorld::answer(std::function<void()> work) {
  const std::lock_guard lock(closing_);
  if (!closed_) net::post(answerers, std::move(work));
  return !closed_;
}

void HttpWorld::post(std::function<void()> work) {
  const std::lock_guard lock(closing_);
  if (!closed_) net::post(io, std::move(work));
}

void HttpWorld::close() {
  const std::lock_guard lock(closing_);
  closed_ = true;
}

void HttpWorld::run_handler(const std::shared_ptr<HttpAnswer>& answer) const noexcept {
  try {
    try {
      handlers.handler(answer);
    } catch (const std::bad_alloc&) {
      answer->post([answer] { answer->fail("out of memory", true); });
    } catch (const std::exception& thrown) {
      answer->post([answer, problem = std::string(thrown.what())] { answer->fail(problem.c_str(), false); });
    }
  } catch (const std::exception&) {
    answer->give_up();
  }
}

// ---- what must be undone, whatever happens

// Of the sessions that wait for a request.
class HttpSession::Idle {
 public:
  explicit Idle(HttpSession& session)
      : session_(session), place_(session.world_.idle.insert(session.world_.idle.end(), &session)) {
    session.idle_ = true;
  }
  ~Idle() {
    session_.idle_ = false;
    session_.world_.idle.erase(place_);
  }
  Idle(const Idle&) = delete;
  Idle& operator=(const Idle&) = delete;

 private:
  HttpSession& session_;
  const std::list<HttpSession*>::iterator place_;
};

// What a body takes of the bytes of all bodies.
class HttpSession::BodyAccount {
 public:
  BodyAccount(HttpWorld& world, const std::string& client) : world_(world), client_(client) {}
  ~BodyAccount() {
    set(0);
    world_.freed_much |= largest_ >= kLargeBody;
  }
  BodyAccount(const BodyAccount&) = delete;
  BodyAccount& operator=(const BodyAccount&) = delete;
  void set(size_t bytes) {
    if (bytes == held_) return;
    const auto own = world_.bodies_of.try_emplace(client_, 0).first;
    world_.body_bytes += bytes - held_, own->second += bytes - held_, held_ = bytes;
    largest_ = std::max(largest_, held_);
    if (own->second == 0) world_.bodies_of.erase(own);
  }
  // Whether all bodies, and this client's, are within their bounds: one client leaves a quarter to the others.
  bool fits() const {
    const size_t all = world_.limits.all_body_bytes;
    const auto own = world_.bodies_of.find(client_);
    return world_.body_bytes <= all && (own == world_.bodies_of.end() || own->second <= all - all / 4);
  }

 private:
  HttpWorld& world_;
  const std::string& client_;
  size_t held_ = 0, largest_ = 0;
};

class HttpSession::Answering {
 public:
  Answering(HttpSession& session, std::shared_ptr<HttpAnswer> answer)
      : session_(session), answer_(session.answer_ = std::move(answer)) {}
  ~Answering() {
    session_.answer_ = nullptr;
    answer_->end(Ending::client_left);  // no effect on a complete answer
    answer_->detach();
  }
  Answering(const Answering&) = delete;
  Answering& operator=(const Answering&) = delete;

 private:
  HttpSession& session_;
  const std::shared_ptr<HttpAnswer> answer_;
};

// ---- a connection

HttpSession::HttpSession(tcp::socket socket, std::string peer, const std::shared_ptr<HttpWorld>& world)
    : world_(*world), weak_world_(world), peer_(std::move(peer)), stream_(std::move(socket)),
      buffer_(std::max<size_t>(2 * world_.limits.head_bytes, 64 * 1024)), wake_(world_.io), deadline_(world_.io) {}

net::awaitable<void> HttpSession::run() {
  Error ignored;
  stream_.socket().set_option(tcp::no_delay(true), ignored);
  bool out_of_memory = false;
  try {
    while (co_await next_request()) {
    }
  } catch (const std::bad_alloc&) {
    out_of_memory = true;
  }
  if (out_of_memory) {
    log_warning("connection_failed", " peer=", peer_, " problem=\"out of memory\"");
    ended_idle_ = false;
    if (!begun_) co_await refuse(503, kOutOfMemory);
  }
  co_await linger();
}

void HttpSession::begin_drain() {
  if (answer_) answer_->close_after();
  else if (idle_) stream_.cancel();
}

void HttpSession::end_drain() {
  if (!answer_) return stream_.cancel();
  try {  // a handler that has not begun will not be run, so it cannot say so
    if (answer_->handling() == HttpAnswer::Handling::waiting)
      answer_->refuse(world_.handlers.refuse(503, "the server is shutting down"));
  } catch (const std::exception&) {
    answer_->give_up();
  }
  answer_->end(Ending::shutdown);
}

bool HttpSession::evict() {
  int unread = 0;
  if (!idle_ || evicted_ || ::ioctl(stream_.socket().native_handle(), FIONREAD, &unread) != 0 || unread > 0)
    return false;
  evicted_ = true;
  stream_.cancel();
  return true;
}

// After `time` what is being read is cancelled, and late_ says why.
void HttpSession::begin_deadline(std::chrono::milliseconds time) {
  late_ = false;
  stream_.expires_never();
  deadline_.expires_after(time);
  deadline_.async_wait([weak = weak_from_this(), round = ++deadline_round_](const Error& error) {
    const auto self = weak.lock();
    if (error || !self || self->deadline_round_ != round) return;
    self->late_ = true;
    self->stream_.cancel();
  });
}

void HttpSession::end_deadline() {
  ++deadline_round_;
  deadline_.cancel();
}

// False: none came.
net::awaitable<bool> HttpSession::wait_for_request() {
  Error error;
  const Idle idle(*this);
  if (world_.draining) co_return false;
  begin_deadline(world_.limits.idle);
  const size_t got = co_await stream_.async_read_some(buffer_.prepare(4096), token(error));
  end_deadline();
  buffer_.commit(got);
  co_return !error && !evicted_;
}

// Reads a request and answers it. False: the connection is to be closed.
net::awaitable<bool> HttpSession::next_request() {
  Error error;
  if (buffer_.size() == 0) {
    ended_idle_ = true;
    if (!co_await wait_for_request()) co_return false;
    ended_idle_ = false;
  }
  begun_ = false;
  HttpParser parser;
  parser.header_limit(static_cast<std::uint32_t>(world_.limits.head_bytes));
  parser.body_limit(world_.limits.body_bytes);
  begin_deadline(world_.limits.head);
  co_await http::async_read_header(stream_, buffer_, parser, token(error));
  end_deadline();
  if (error) co_return co_await refuse(error, parser, "head");
  if (const HttpVerdict verdict = judge_head(parser.get(), world_.limits); verdict.status != 0)
    co_return co_await refuse(verdict.status, verdict.message);
  HttpRequest request = read_head(parser.get());
  request.peer = peer_;
  HttpAdmission admission;
  if (world_.handlers.admit) admission = world_.handlers.admit(request);
  if (admission.refusal && !parser.is_done()) {
    admission.refusal->headers.insert(admission.refusal->headers.end(), admission.headers.begin(),
                                      admission.headers.end());
    co_return co_await refuse(*std::move(admission.refusal));
  }
  BodyAccount account(world_, peer_);
  if (!co_await read_body(parser, account)) co_return false;
  HttpAnswer::Form form;
  form.keep_alive = parser.get().keep_alive() && !world_.draining;
  form.chunked = parser.get().version() >= 11;
  form.head_only = parser.get().method() == http::verb::head;
  form.headers = std::move(admission.headers);
  request.body = std::move(parser.get().body());
  co_return co_await answer(std::move(form), std::move(request), std::move(admission.refusal));
}

// How long after its head a body of which so much has come may take until more comes: each byte gives it the time that
// it takes at the lowest rate allowed (as Apache's RequestReadTimeout does with MinRate).
std::chrono::milliseconds HttpSession::body_time(size_t bytes) const {
  const HttpLimits& limits = world_.limits;
  if (limits.body_rate == 0) return limits.body;
  return std::min(limits.body, limits.body_grace + std::chrono::milliseconds(bytes * 1000 / limits.body_rate));
}

// False: the body was refused, or the client left.
net::awaitable<bool> HttpSession::read_body(HttpParser& parser, BodyAccount& account) {
  Error error;
  if (!parser.is_done() && parser.get().count(http::field::expect) != 0 && buffer_.size() == 0 &&
      !co_await write("HTTP/1.1 100 Continue\r\n\r\n"))
    co_return false;
  const auto begin = Clock::now();
  auto allowed = body_time(0);
  begin_deadline(allowed);
  while (!parser.is_done()) {
    co_await http::async_read_some(stream_, buffer_, parser, token(error));
    if (error) co_return co_await refuse(error, parser, "body");
    if (const auto more = body_time(parser.get().body().size()); more != allowed) {
      allowed = more;
      begin_deadline(allowed - std::chrono::floor<std::chrono::milliseconds>(Clock::now() - begin));
    }
    account.set(parser.get().body().size());
    if (!account.fits())
      co_return co_await refuse(503, "the bodies of all requests may be at most " +
                                         std::to_string(world_.limits.all_body_bytes) +
                                         " bytes long at a time, those of one client three quarters of it "
                                         "(--max-all-body-bytes); try again later");
  }
  end_deadline();
  co_return true;
}

// Runs the handler and sends its answer. True: the connection can be used again.
net::awaitable<bool> HttpSession::answer(HttpAnswer::Form form, HttpRequest request,
                                         std::optional<HttpResponse> refusal) {
  const std::shared_ptr<HttpAnswer> answer = make_answer(std::move(form));
  answer->request() = std::move(request);
  const Answering answering(*this, answer);
  HandlerPool* pool = nullptr;
  bool probed = false;
  if (!look_at_client(*answer, probed)) co_return false;  // the client has left already: the handler need not run
  if (refusal) answer->respond(*std::move(refusal));
  else if (world_.draining) answer->respond(world_.handlers.refuse(503, "the server is shutting down"));
  else pool = hand_over(answer);
  const bool sent = co_await send_answer(answer, pool, probed);
  co_return sent && answer->keep_alive();
}

std::shared_ptr<HttpAnswer> HttpSession::make_answer(HttpAnswer::Form form) {
  HttpAnswer::World world;
  world.start = [weak = weak_world_](std::function<void()> work) {
    const auto held = weak.lock();
    return held && held->answer(std::move(work));
  };
  world.wake = [weak = weak_world_, session = weak_from_this()] {
    const auto held = weak.lock();
    if (!held) return;
    held->post([session] {
      if (const auto self = session.lock()) self->wake_.cancel();
    });
  };
  world.unsent_limit = world_.limits.unsent_bytes;
  world.refuse = world_.handlers.refuse;
  return std::make_shared<HttpAnswer>(std::move(form), std::move(world));
}

// Gives the request to its handler, or refuses it. Returns the pool where the handler runs, if it does in one.
HandlerPool* HttpSession::hand_over(const std::shared_ptr<HttpAnswer>& answer) {
  const HttpPlace place = world_.handlers.place ? world_.handlers.place(answer->request()) : HttpPlace::pool;
  if (place == HttpPlace::at_once) {
    answer->handler_begins();
    world_.run_handler(answer);
    answer->handler_ends();
    return nullptr;
  }
  HandlerPool& pool = place == HttpPlace::watch ? world_.watch : world_.pool;
  if (pool.add(answer)) return &pool;
  answer->respond(world_.handlers.refuse(
      503, std::to_string(place == HttpPlace::watch ? kWatchQueue : world_.limits.queued) +
               " requests wait to be looked at, as many as may (--max-queued-requests); try again later"));
  return nullptr;
}

// Sends the response as it is made, until it is complete. False: the client has left, or does not read.
net::awaitable<bool> HttpSession::send_answer(const std::shared_ptr<HttpAnswer>& answer, HandlerPool* pool,
                                              bool probed) {
  Error error;
  const auto begin = Clock::now();
  auto last_write = begin;
  for (;;) {
    const HttpAnswer::Output output = answer->take();
    if (output.too_slow) {
      log_warning("client_too_slow", " peer=", peer_, " unsent_bytes_over=", world_.limits.unsent_bytes);
      co_return false;
    }
    if (output.broken && !answer->begun()) co_return co_await refuse(503, kOutOfMemory);
    if (output.broken) {
      log_warning("answer_broken", " path=", json_quote(answer->request().path), " problem=\"out of memory\"");
      co_return false;
    }
    if (!output.bytes.empty()) {
      begun_ = true;
      if (!co_await write(output.bytes)) co_return false;
      last_write = Clock::now();
      continue;
    }
    if (output.done) co_return true;
    check_time(*answer, pool, begin);
    wake_.expires_after(world_.limits.tick);
    co_await wake_.async_wait(token(error));
    if (error) continue;  // woken: there is something to send
    if (!look_at_client(*answer, probed)) co_return false;
    const auto now = Clock::now();
    // A stream begins where its events come from, so that it does not begin beside an answer of another kind.
    if (answer->expects_events() && !answer->streaming() && now - begin > world_.limits.stream_head)
      answer->post([answer] { answer->begin_stream(); });
    if (answer->streaming() && now - last_write > world_.limits.ping)
      answer->post([answer] { answer->send(": ping\n\n"); });
  }
}

// A handler that has had its time is told; if it does not end then, its client is, and its thread is replaced.
void HttpSession::check_time(HttpAnswer& answer, HandlerPool* pool, Clock::time_point begin) {
  const auto limit = world_.limits.handler;
  const auto handling = answer.handling();
  if (!pool || limit.count() == 0 || handling == HttpAnswer::Handling::done) return;
  const auto now = Clock::now();
  if (handling == HttpAnswer::Handling::waiting) {
    if (now - begin <= limit) return;
    answer.stop(StopReason::out_of_time);
    return answer.refuse(world_.handlers.refuse(503, "the server was too busy to look at the request within " +
                                                         in_seconds(limit) + " (--handler-timeout); try again later"));
  }
  const auto ran = now - answer.handler_began();
  if (ran <= limit) return;
  if (answer.stop_flag()->reason() == StopReason::none) ++world_.overdue;
  answer.stop(StopReason::out_of_time);
  if (ran <= limit + kGrace) return;
  pool->replace(answer);
  answer.refuse(world_.handlers.refuse(503, "the request took longer to prepare than this server allows: " +
                                                in_seconds(limit) + " (--handler-timeout)"));
}

net::awaitable<bool> HttpSession::write(const std::string& bytes) {
  Error error;
  // One part at a time, so that the time-out is for a client that reads nothing, not for one that reads slowly.
  for (size_t at = 0; at < bytes.size();) {
    stream_.expires_after(world_.limits.write);
    at += co_await stream_.async_write_some(net::buffer(bytes.data() + at, bytes.size() - at), token(error));
    if (error) co_return false;
  }
  co_return true;
}

// Is anybody waiting for the answer? A closed sending side may be the whole connection's end or only its half; data
// sent to a closed connection comes back as a reset. So something harmless is sent: a comment in a stream, else one
// byte of urgent data, which does not become part of what the client reads.
bool HttpSession::look_at_client(HttpAnswer& answer, bool& probed) {
  pollfd ask{stream_.socket().native_handle(), POLLRDHUP, 0};
  if (::poll(&ask, 1, 0) <= 0) return true;
  if (ask.revents & (POLLERR | POLLHUP | POLLNVAL)) return false;
  if ((ask.revents & POLLRDHUP) && !probed) {
    probed = true;
    if (answer.streaming()) answer.post([self = answer.shared_from_this()] { self->send(": ping\n\n"); });
    else ::send(ask.fd, "", 1, MSG_OOB | MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  return true;
}

// ---- refusals, after which the connection cannot be used any more: they are always false

net::awaitable<bool> HttpSession::refuse(HttpResponse response) {
  const std::string bytes = http_message(response);
  refused_ = begun_ = true;
  co_await write(bytes);
  co_return false;
}

net::awaitable<bool> HttpSession::refuse(int status, const std::string& message) {
  co_return co_await refuse(world_.handlers.refuse(status, message));
}

// `late`: what has not come in time, if that was the error.
net::awaitable<bool> HttpSession::refuse(const Error& error, const HttpParser& parser, const char* late) {
  const bool head = late == std::string_view("head");
  if (std::exchange(late_, false)) {
    ++world_.timeouts;
    if (const size_t bytes = parser.get().body().size(); !head && body_time(bytes) < world_.limits.body)
      co_return co_await refuse(408, "the request's body came too slowly: " + std::to_string(bytes) + " bytes within " +
                                         in_seconds(body_time(bytes)) + ", and at least " +
                                         std::to_string(world_.limits.body_rate) +
                                         " a second must come behind the first " +
                                         in_seconds(world_.limits.body_grace) + " (--min-body-rate)");
    co_return co_await refuse(408, std::string("the request's ") + late + " did not come within " +
                                       in_seconds(head ? world_.limits.head : world_.limits.body) + " (--" + late +
                                       "-timeout)");
  }
  if (error == http::error::end_of_stream || error == net::error::operation_aborted) co_return false;
  const HttpVerdict verdict = judge_error(error, parser, buffer_, world_.limits);
  if (verdict.status == 0) co_return false;
  co_return co_await refuse(verdict.status, verdict.message);
}

// Closing a socket that has unread input resets the connection, and the client may lose the answer; so the input is
// read away first, within bounds.
net::awaitable<void> HttpSession::linger() {
  Error error;
  if (ended_idle_ || !stream_.socket().is_open()) co_return;
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

}  // namespace weft
