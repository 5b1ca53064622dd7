#include "support/answers.h"

#include <bit>
#include <condition_variable>
#include <mutex>
#include <sstream>

#include "base/check.h"

namespace weft::testing {
namespace {

// Waits until a number of requests have ended.
class Countdown {
 public:
  void add() {
    const std::lock_guard lock(mutex_);
    ++open_;
  }
  void done() {
    const std::lock_guard lock(mutex_);
    --open_;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return open_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int open_ = 0;
};

void take(const Event& event, Answer& answer) {
  const auto index = static_cast<size_t>(event.choice);
  if (answer.choices.size() <= index) answer.choices.resize(index + 1);
  Choice& choice = answer.choices[index];
  choice.text += event.text;
  choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
  choice.logits.insert(choice.logits.end(), event.logits.begin(), event.logits.end());
  if (event.finish != FinishReason::none) choice.finish = event.finish, choice.stop_reason = event.stop_reason;
  if (event.prompt) answer.prompt = *event.prompt;
  if (event.prompt_logits) answer.prompt_logits = *event.prompt_logits;
  if (event.error) answer.error = event.error->to_string();
  if (event.last_of_request) answer.usage = event.usage;
}

void print(std::ostream& out, const TokenInfo& token) {
  const auto number = [&](float value) { out << std::hex << std::bit_cast<uint32_t>(value) << std::dec; };
  out << ' ' << token.token;
  if (token.logprob) out << ':', number(*token.logprob), out << '#' << token.rank;
  for (const TokenLogprob& other : token.top) out << '/' << other.token << '=', number(other.logprob);
}

// A request that goes away in the middle of its answer. It is cancelled from the submitting thread, after its first
// token was seen.
class Mate {
 public:
  Mate(Engine& engine, Request request, Countdown& countdown) : engine_(engine) {
    request.max_tokens = 64, request.stop.clear(), request.sampling.min_tokens = 0, request.n = 1;
    countdown.add();
    auto id = engine_.submit(std::move(request), [this, &countdown](const Event& event) {
      {
        const std::lock_guard lock(mutex_);
        started_ = true;
        changed_.notify_all();
      }
      if (event.last_of_request) countdown.done();
    });
    WEFT_CHECK(id.ok()) << id.error().to_string();
    id_ = *id;
  }
  void cancel() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return started_; });
    lock.unlock();
    engine_.cancel(id_);
  }

 private:
  Engine& engine_;
  RequestId id_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
};

}  // namespace

std::vector<int32_t> Choice::ids() const {
  std::vector<int32_t> list;
  for (const TokenInfo& token : tokens) list.push_back(token.token);
  return list;
}

std::string Answer::exact_text() const {
  std::ostringstream out;
  out << "error " << json_quote(error) << " prompt_tokens " << usage.prompt_tokens << " completion_tokens "
      << usage.completion_tokens << "\nprompt";
  for (const TokenInfo& token : prompt) print(out, token);
  const auto bits = [&](const std::vector<float>& values) {
    uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    for (const float value : values) hash = (hash ^ std::bit_cast<uint32_t>(value)) * 0x100000001b3;
    out << " logits " << values.size() << ':' << hash;
  };
  bits(prompt_logits);
  for (const Choice& choice : choices) {
    out << "\nchoice " << name(choice.finish) << ' ' << choice.stop_reason.dump() << ' ' << json_quote(choice.text);
    for (const TokenInfo& token : choice.tokens) print(out, token);
    bits(choice.logits);
  }
  return out.str();
}

std::vector<Answer> ask(Engine& engine, const std::vector<Request>& requests, const AskOptions& options) {
  std::vector<Answer> answers(requests.size());
  Countdown countdown;
  std::vector<std::unique_ptr<Mate>> mates;
  if (options.together) engine.hold();
  for (int i = 0; i < options.cancelled_mates; ++i)
    mates.push_back(std::make_unique<Mate>(engine, requests[static_cast<size_t>(i) % requests.size()], countdown));
  for (size_t i = 0; i < requests.size(); ++i) {
    const size_t index = options.backwards ? requests.size() - 1 - i : i;
    Answer& answer = answers[index];
    countdown.add();
    auto id = engine.submit(requests[index], [&answer, &countdown](const Event& event) {
      take(event, answer);
      if (event.last_of_request) countdown.done();
    });
    if (!id.ok()) answer.error = id.error().to_string(), countdown.done();
  }
  if (options.together) engine.release();
  for (const auto& mate : mates) mate->cancel();
  countdown.wait();
  return answers;
}

Answer ask(Engine& engine, const Request& request) { return ask(engine, std::vector<Request>{request})[0]; }

std::vector<Result<ScoreResult>> score(Engine& engine, const std::vector<Request>& requests) {
  std::vector<Result<ScoreResult>> results(requests.size(), Result<ScoreResult>(ScoreResult{}));
  Countdown countdown;
  engine.hold();
  for (size_t i = 0; i < requests.size(); ++i) {
    Result<ScoreResult>& result = results[i];
    countdown.add();
    auto id = engine.submit_score(requests[i], [&result, &countdown](Result<ScoreResult> got) {
      result = std::move(got);
      countdown.done();
    });
    if (!id.ok()) result = id.error(), countdown.done();
  }
  engine.release();
  countdown.wait();
  return results;
}

}  // namespace weft::testing
