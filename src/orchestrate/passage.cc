// See the header.
#include "orchestrate/passage.h"

#include <algorithm>
#include <cctype>
#include <span>

#include "base/log.h"
#include "server/context_servers.h"
#include "server/errors.h"
#include "server/http_answer.h"
#include "server/http_client.h"

namespace weft {

namespace {

using std::chrono::milliseconds;

constexpr size_t kMostReply = size_t{1} << 30;  // bytes of an answer that is no stream, or of an event
constexpr milliseconds kBlocksTimeout{2000};    // for the names of a prompt's blocks; then it goes without
constexpr int64_t kBytesPerToken = 4;           // about, where a prompt's tokens are not known

// What a client says about its request that concerns the server. All else stays here: keys are this program's and the
// server's own, and Weft- headers are for the front to send.
constexpr const char* kPassedOn[] = {"content-type", "accept", "x-request-id", "traceparent", "tracestate"};
// Of an answer: those of a connection, and what the answer to the client has anyway.
constexpr const char* kNotPassedBack[] = {"connection", "keep-alive", "transfer-encoding", "te",
                                          "trailer",    "upgrade",    "proxy-connection",  "content-length",
                                          "date",       "server",     "content-type"};

template <size_t kCount>
bool one_of(const std::string& name, const char* const (&names)[kCount]) {
  return std::ranges::find(names, name) != std::end(names);
}

// A path whose %XX were decoded.
std::string encoded_path(const std::string& path) {
  std::string text;
  for (const unsigned char c : path) {
    if (std::isalnum(c) || std::string_view("/-._~!$&'()*+,;=:@").find(static_cast<char>(c)) != std::string_view::npos)
      text += static_cast<char>(c);
    else text += {'%', "0123456789ABCDEF"[c >> 4], "0123456789ABCDEF"[c & 15]};
  }
  return text;
}

// To name the blocks of a prompt with images a server would have to decode them.
bool mentions_media(const std::string& body) {
  return body.find("\"image") != std::string::npos || body.find("\"video") != std::string::npos;
}

}  // namespace

Passage::Passage(const PassageWorld& world, std::shared_ptr<Exchange> exchange, std::string route, bool generation)
    : world_(world), exchange_(std::move(exchange)), route_name_(std::move(route)) {
  HttpRequest& request = exchange_->request();
  method_ = request.method, path_ = encoded_path(request.path), body_ = std::move(request.body);
  if (!request.query.empty()) path_ += "?" + request.query;
  for (const auto& [name, value] : request.headers)
    if (one_of(name, kPassedOn)) headers_.emplace_back(name, value);
  headers_.insert(headers_.end(), world.options.headers.begin(), world.options.headers.end());
  needs_.generation = generation;
  needs_.prompt_tokens = static_cast<int64_t>(body_.size()) / kBytesPerToken;
}

void Passage::start(const PassageWorld& world, std::shared_ptr<Exchange> exchange, std::string route, bool generation) {
  const std::shared_ptr<Passage> self(new Passage(world, std::move(exchange), std::move(route), generation));
  self->exchange_->post([self] {
    self->exchange_->on_end([weak = std::weak_ptr(self), &calls = self->world_.calls](Ending why) {
      calls.post([weak, why] {
        if (const auto held = weak.lock()) held->abandon(why);
      });
    });
  });
  world.calls.post([self] { self->route_request(); });
}

void Passage::route_request() {
  if (ended_) return;
  if (needs_.generation && world_.servers.wants_blocks() && !mentions_media(body_)) ask_for_blocks();
  else attempt();
}

// ---- where to

void Passage::ask_for_blocks() {
  const auto server = world_.servers.least_loaded();
  if (!server) return attempt();
  HttpCall call{.server = *server, .method = "POST", .path = "/block_keys", .headers = headers_, .body = body_};
  call.connect_timeout = call.timeout = kBlocksTimeout;
  call.most_bytes = kMostReplyBytes;
  call_ = world_.calls.start(std::move(call),
                             collect_reply(std::make_shared<HttpReply>(), [self = shared_from_this()](HttpReply reply) {
                               self->call_ = 0;
                               if (self->ended_) return;
                               self->take_blocks(reply.status, reply.body);
                               self->attempt();
                             }));
}

// Of an answer that is not as it should be nothing is taken: the request is then routed by load.
void Passage::take_blocks(int status, const std::string& body) {
  const auto json = parse_json(body);
  if (status != 200 || !json.ok()) return;
  const Json *size = json->find("tokens_per_block"), *prompts = json->find("prompts");
  if (!size || !size->is_integer() || !prompts || !prompts->is_array() || prompts->items().empty()) return;
  int64_t tokens = 0;
  for (const Json& prompt : prompts->items())
    if (const Json* count = prompt.find("tokens"); count && count->is_integer()) tokens += count->as_integer();
  const Json* keys = prompts->items().front().find("keys");  // of several prompts the first one decides
  for (const Json& key : keys && keys->is_array() ? keys->items() : Json::Array()) {
    const auto name = key.is_string() ? read_block_name(key.as_string()) : Result<BlockName>(BlockName{});
    if (!name.ok() || !key.is_string()) return;
    needs_.blocks.push_back(*name);
  }
  needs_.tokens_per_block = static_cast<int>(size->as_integer());
  needs_.prompt_tokens = tokens;
}

milliseconds Passage::time_left() const {
  if (world_.options.request_timeout.count() == 0) return milliseconds(0);
  const auto used = std::chrono::duration_cast<milliseconds>(Clock::now() - begin_);
  return std::max(milliseconds(1), world_.options.request_timeout - used);
}

HttpCall Passage::call_to(const ServerList::Ticket& ticket) const {
  HttpCall call{.server = ticket.address(), .method = method_, .path = path_, .headers = headers_, .body = body_};
  std::string context;
  for (const std::string& address : ticket.context_servers()) context += (context.empty() ? "" : ",") + address;
  if (!context.empty()) {
    call.headers.emplace_back(kContextServersHeader, context);
    if (!world_.options.transfer_secret.empty())
      call.headers.emplace_back(kContextProofHeader, context_proof(world_.options.transfer_secret, context));
  }
  call.connect_timeout = world_.options.connect_timeout, call.head_timeout = world_.options.first_byte_timeout;
  call.timeout = time_left();
  return call;
}

void Passage::attempt() {
  ticket_ = world_.servers.choose(needs_);
  if (!ticket_) return fail_with(503, world_.servers.why_none(needs_.generation));
  if (!needs_.blocks.empty()) world_.metrics.count_routed(needs_.prompt_tokens, ticket_->cached_tokens());
  send();
}

void Passage::send() {
  const auto self = shared_from_this();
  call_ = world_.calls.start(call_to(*ticket_), {[self](HttpReplyHead head) { self->on_head(std::move(head)); },
                                                 [self](std::string piece) { self->on_data(std::move(piece)); },
                                                 [self](HttpFailure failure, const std::string& problem) {
                                                   self->call_ = 0;
                                                   self->on_end(failure, problem);
                                                 }});
}

// Gives the request to another server, if it may have one more and one is up.
bool Passage::try_another() {
  if (forwarded_ || retries_ >= world_.options.max_retries) return false;
  needs_.avoid.insert(ticket_->url());
  auto other = world_.servers.choose(needs_);
  if (!other) return false;
  ++retries_;
  world_.metrics.count_retry();
  if (call_ != 0) world_.calls.cancel(std::exchange(call_, 0));
  head_ = {}, reply_.clear(), streams_ = false;
  ticket_ = std::move(other);
  send();
  return true;
}

// ---- the answer

void Passage::on_head(HttpReplyHead head) {
  if (ended_) return;
  head_ = std::move(head);
  // Busy, or being ended, or not able to compute any more.
  if ((head_.status == 429 || head_.status == 503) && try_another()) return;
  const std::string* const type = head_.header("content-type");
  streams_ = head_.status == 200 && type && type->starts_with("text/event-stream");
  if (streams_) exchange_->post([exchange = exchange_] { exchange->expect_events(); });
}

void Passage::on_data(std::string piece) {
  if (ended_) return;
  const size_t before = reply_.size();
  reply_ += piece;
  if (streams_) forward_events(before);
  if (reply_.size() <= kMostReply) return;
  world_.calls.cancel(std::exchange(call_, 0));
  fail_with(502, "the server " + ticket_->url() + (streams_ ? " sent an event" : " gave an answer") + " of more than " +
                     std::to_string(kMostReply) + " bytes");
}

// Whole events alone, so that a comment of this server's own can stand between any two pieces.
void Passage::forward_events(size_t before) {
  const size_t from = before > 0 ? before - 1 : 0;  // an end in front of it would have been found
  const size_t last = std::string_view(reply_).substr(from).rfind("\n\n");
  if (last == std::string::npos) return;
  std::string events = reply_.substr(0, from + last + 2);
  reply_.erase(0, events.size());
  if (!std::exchange(forwarded_, true)) {
    world_.metrics.observe_first_byte(std::chrono::duration<double>(Clock::now() - begin_).count());
    ticket_->prompt_done();
  }
  exchange_->post([exchange = exchange_, events = std::move(events)] { exchange->send(events); });
}

void Passage::on_end(HttpFailure failure, const std::string& problem) {
  if (ended_) return;
  if (failure == HttpFailure::none) {
    if (!streams_) return respond();
    ended_ = true;
    count(200);
    ticket_.reset();
    exchange_->post([exchange = exchange_, rest = std::move(reply_)] {
      exchange->send(rest);
      exchange->finish();
    });
    return;
  }
  const milliseconds limit = world_.options.request_timeout;
  const bool over = limit.count() > 0 && Clock::now() - begin_ >= limit - milliseconds(1);
  std::string why = (failure == HttpFailure::unreachable ? "it cannot be reached: " : "") + problem;
  if (over) why = "no answer within " + Json(static_cast<double>(limit.count()) / 1000).dump() + " s";
  static WarningLimit failures;
  failures.warn("server_failed", " url=", ticket_->url(), " problem=", json_quote(why));
  const bool timed_out = failure == HttpFailure::timed_out;
  ticket_->failed(why, !timed_out);
  if (!over && try_another()) return;
  std::string message =
      "the server " + ticket_->url() + (forwarded_ ? " did not end its answer (" : " did not answer (") + why + ")";
  if (!forwarded_ && retries_ > 0) message += ", and " + std::to_string(retries_) + " before it did not either";
  fail_with(timed_out ? 504 : 502, message);
}

// A whole answer, with its status and its head.
void Passage::respond() {
  ended_ = true;
  count(head_.status);
  world_.metrics.observe_first_byte(std::chrono::duration<double>(Clock::now() - begin_).count());
  ticket_.reset();
  HttpResponse response{head_.status, std::move(reply_), "", {}};
  if (const std::string* type = head_.header("content-type")) response.content_type = *type;
  for (const auto& [name, value] : head_.headers)
    if (!one_of(lower_case(name), kNotPassedBack)) response.headers.emplace_back(name, value);
  exchange_->post([exchange = exchange_, response = std::move(response)]() mutable {
    if (!exchange->streaming()) return exchange->respond(std::move(response));
    // The head of a stream has gone out while the first server was silent, and the second has an error to tell.
    exchange->send("data: " + response.body + "\n\ndata: [DONE]\n\n");
    exchange->finish();
  });
}

void Passage::fail_with(int status, const std::string& message) {
  ended_ = true;
  count(status);
  ticket_.reset();
  exchange_->post([exchange = exchange_, status, message] {
    if (!exchange->streaming()) return exchange->respond(error_response(status, message));
    exchange->send("data: " + error_json(status, message).dump() + "\n\ndata: [DONE]\n\n");
    exchange->finish();
  });
}

void Passage::count(int status) { world_.metrics.count_response(route_name_, status); }

// The client has left, or this server ends: the server that computes the answer need not go on.
void Passage::abandon(Ending why) {
  if (ended_) return;
  if (call_ != 0) world_.calls.cancel(std::exchange(call_, 0));
  if (why == Ending::shutdown) return fail_with(503, "the server is shutting down");
  ended_ = true;
  ticket_.reset();
}

}  // namespace weft
