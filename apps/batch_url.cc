// See the header. Lines are sent in the file's order, so many at a time, and written in it as their answers come.
#include "batch_url.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <vector>

#include "batch_lines.h"
#include "http_lines.h"
#include "requests_file.h"
#include "server/http_client.h"
#include "terminal.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kTries = 3;     // of a line whose connection breaks
constexpr int kRefusals = 6;  // of a line by a busy server, with nothing else under way
constexpr milliseconds kProbePause{200}, kLongestPause{30'000};
constexpr size_t kMostAnswerBytes = size_t{1} << 30;  // several times what a server makes by default

class UrlBatch {
 public:
  UrlBatch(const Arguments& arguments, const ServerAddress& server, HttpHeaders headers, std::vector<RequestLine> lines,
           BatchOutput& output)
      : arguments_(arguments), url_(server.text()), lines_(std::move(lines)), output_(output), states_(lines_.size()),
        client_(server, std::move(headers), seconds(arguments.timeout_s), kMostAnswerBytes) {}

  Status run() {
    probe(Clock::now() + seconds(arguments_.wait_s));
    const int signal = client_.run_until_signal();
    if (!fatal_.ok()) return output_.ended_by(std::move(fatal_).error(), lines_.size());
    if (signal != 0) {
      Interrupts::note(signal);
      return output_.ended_by(interrupted_error(), lines_.size());
    }
    if (gone_)
      std::fprintf(stderr, "weft: %s went away (%s): %zu of %zu lines of %s have no answer, the first is line %d\n",
                   url_.c_str(), gone_->c_str(), lost_, lines_.size(), arguments_.requests.c_str(), first_lost_);
    return {};
  }

 private:
  struct State {
    std::optional<BatchOutcome> outcome;  // until it is written
    int breaks = 0, refusals = 0;
    bool done = false;
  };

  // Asks whether the server is ready until it is, or its time is over; then the lines go.
  void probe(Clock::time_point until) {
    client_.get("/ready", [this, until](const HttpReply& reply) {
      const bool reached = reply.failure == HttpReply::Failure::none;
      if (reached && reply.status != 503) return go_on();
      if (Clock::now() < until) return client_.after(kProbePause, [this, until] { probe(until); });
      const std::string why = reached ? error_of(reply, url_ + "/ready").message() : reply.problem;
      const std::string begin = reached ? " is not ready: " : " cannot be reached: ";
      const std::string end = arguments_.wait_s > 0 ? " (for " + std::to_string(arguments_.wait_s) + " s)" : "";
      stop(fail(Code::unavailable, url_, begin, why, end, end.empty() ? "; --wait S waits for a server to start" : ""));
    });
  }

  void stop(Error error) {
    fatal_ = std::move(error);
    client_.stop();
  }

  // Sends what may be sent, and writes what can be written.
  void go_on() {
    for (; under_way_ < arguments_.concurrency && next_ < lines_.size(); ++next_) {
      if (lines_[next_].error) fail_line(next_, *std::move(lines_[next_].error));
      else if (gone_) lose(next_);
      else ++under_way_, ask(next_);
    }
    for (; written_ < lines_.size() && states_[written_].done; ++written_) {
      const BatchOutcome outcome = *std::exchange(states_[written_].outcome, {});
      if (Status status = output_.write(output_line(lines_[written_], outcome)); !status.ok())
        return stop(std::move(status).error());
      lines_[written_].json = {};
      lines_[written_].request.reset();
    }
  }

  void ask(size_t index) {
    auto call = call_of(lines_[index]);
    if (!call.ok()) {
      --under_way_;
      return fail_line(index, std::move(call).error());
    }
    ++asking_;
    client_.post(call->path, std::move(call->body), [this, index, path = call->path](const HttpReply& reply) {
      --asking_;
      take(index, url_ + path, reply);
    });
  }

  void take(size_t index, const std::string& where, const HttpReply& reply) {
    using Failure = HttpReply::Failure;
    // A server that takes no more connections may still answer what it has (it is being ended).
    if (gone_ && (reply.failure != Failure::none || is_busy(reply))) {
      --under_way_;
      lose(index);
      return go_on();
    }
    if (reply.failure == Failure::unreachable) return wait_for_return(index, reply.problem);
    if (reply.failure == Failure::broken && ++states_[index].breaks < kTries) return ask_again(index);
    if (reply.failure == Failure::none) {
      away_since_.reset();
      if (reply.status == 401 || reply.status == 403)
        return stop(fail(Code::invalid_argument, error_of(reply, where).message(), "; give --api-key or WEFT_API_KEY"));
      if (is_busy(reply) && ask_later(index, reply)) return;
    }
    --under_way_;
    if (reply.failure == Failure::none) finish(index, outcome_of(lines_[index], reply, where));
    else if (reply.failure == Failure::broken)
      fail_line(index, fail(Code::unavailable, where, ": ", reply.problem, ", ", kTries, " times"));
    else if (reply.failure == Failure::too_large) fail_line(index, fail(Code::too_large, where, ": ", reply.problem));
    else fail_line(index, fail(Code::deadline_exceeded, where, ": ", reply.problem));
    go_on();
  }

  // A server that cannot be reached has --wait seconds to come back; then it is gone for all lines.
  void wait_for_return(size_t index, const std::string& problem) {
    if (!away_since_) away_since_ = Clock::now();
    if (Clock::now() - *away_since_ < seconds(arguments_.wait_s))
      return client_.after(kProbePause, [this, index] { ask_again(index); });
    gone_ = problem;
    --under_way_;
    lose(index);
    go_on();
  }

  // 429, or 503 without a reason that stays: a queue is full, or a model being loaded.
  static bool is_busy(const HttpReply& reply) {
    return reply.status == 429 || (reply.status == 503 && !is_final(reply));
  }

  // As an engine's full queue: while others of this file are under way, there will be room. False: not any more.
  bool ask_later(size_t index, const HttpReply& reply) {
    int& refusals = states_[index].refusals;
    if (asking_ == 0 && refusals >= kRefusals && Clock::now() - begin_ > seconds(arguments_.wait_s)) return false;
    const milliseconds asked = seconds(std::clamp(reply.retry_after_s, 0, 30));
    const milliseconds own = milliseconds(200) * (1 << std::min(refusals++, 8));
    client_.after(std::min(std::max(asked, own), kLongestPause), [this, index] { ask_again(index); });
    return true;
  }

  void ask_again(size_t index) {
    ask(index);
    if (states_[index].done) go_on();  // its files cannot be read any more
  }

  void fail_line(size_t index, Error error) {
    BatchOutcome outcome;
    outcome.error = std::move(error);
    finish(index, std::move(outcome));
  }
  void lose(size_t index) {
    if (lost_++ == 0) first_lost_ = lines_[index].number;
    first_lost_ = std::min(first_lost_, lines_[index].number);
    fail_line(index, fail(Code::unavailable, url_, " went away: ", *gone_));
  }
  void finish(size_t index, BatchOutcome outcome) {
    states_[index].outcome = std::move(outcome);
    states_[index].done = true;
  }

  const Arguments& arguments_;
  const std::string url_;
  std::vector<RequestLine> lines_;
  BatchOutput& output_;
  std::vector<State> states_;
  const Clock::time_point begin_ = Clock::now();
  size_t next_ = 0, written_ = 0;  // lines sent, lines written
  int under_way_ = 0;              // lines sent and not answered
  int asking_ = 0;                 // of them, those that the server has now
  std::optional<Clock::time_point> away_since_;
  std::optional<std::string> gone_;  // why no line is sent any more
  size_t lost_ = 0;
  int first_lost_ = 0;
  Status fatal_;
  HttpClient client_;  // last, so that nothing that it calls has ended before it
};

Result<HttpHeaders> headers_of(const Arguments& arguments) {
  const char* const environment = std::getenv("WEFT_API_KEY");
  const std::string key = !arguments.api_key.empty() ? arguments.api_key : environment ? environment : "";
  if (key.empty()) return HttpHeaders();
  if (std::ranges::any_of(key, [](char c) { return c < ' ' || c > '~'; }))
    return fail(Code::invalid_argument, "the API key holds a character that no header may hold");
  return HttpHeaders{{"Authorization", "Bearer " + key}};
}

// What a line must be whatever the model is; the rest is the server's to judge.
RequestRules lenient_rules() {
  RequestRules rules;
  rules.limits = RequestLimits::none();
  rules.images = rules.local_files = rules.chat_template = true;
  rules.encode = [](const std::string&) -> Result<std::vector<int32_t>> { return std::vector<int32_t>(); };
  rules.ignored = warn_once();
  return rules;
}

}  // namespace

Status batch_over_url(const Arguments& arguments) {
  WEFT_TRY(const ServerAddress server, parse_server_url(arguments.url));
  WEFT_TRY(HttpHeaders headers, headers_of(arguments));
  WEFT_TRY(std::vector<RequestLine> lines,
           read_requests(arguments.requests, RequestKind::batch_line, lenient_rules(), true));
  WEFT_TRY(BatchOutput output, BatchOutput::open(arguments.out));
  UrlBatch batch(arguments, server, std::move(headers), std::move(lines), output);
  WEFT_RETURN_IF_ERROR(batch.run());
  return output.finish();
}

}  // namespace weft
