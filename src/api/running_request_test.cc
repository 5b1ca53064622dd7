// Outputs of several tokens, as speculation brings them, without an engine: whatever the pieces, the events of a
// request add up to the same answer, and what lies behind its end is not counted.
#include "api/running_request.h"

#include <gtest/gtest.h>

#include <new>

namespace weft {
namespace {

using Ids = std::vector<int32_t>;

// Tokens 0 to 25 are letters; then the two bytes of "é", a full stop, and two special tokens.
constexpr int32_t kLead = 26, kTrail = 27, kDot = 28, kEnd = 29, kMark = 30;
constexpr size_t kVocabulary = 31;

std::shared_ptr<const Tokenizer> make_letters() {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2", vocabulary.pre = "qwen2";
  for (char c = 'a'; c <= 'z'; ++c) vocabulary.tokens.emplace_back(1, c);
  for (const char* token : {"Ã", "©", ".", "<end>", "<mark>"}) vocabulary.tokens.emplace_back(token);
  vocabulary.token_types.assign(kVocabulary, 1);
  vocabulary.token_types[kEnd] = vocabulary.token_types[kMark] = 3;
  auto tokenizer = Tokenizer::from_gguf(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  return std::move(tokenizer).value();
}

std::shared_ptr<const Tokenizer> letters() {
  static const std::shared_ptr<const Tokenizer> tokenizer = make_letters();
  return tokenizer;
}

Ids ids(const std::string& text) {
  Ids all;
  for (const char c : text) all.push_back(c == '.' ? kDot : c - 'a');
  return all;
}

// An output with a logprob and a row of logits per token; all but the last of its tokens were drafts.
SequenceOutput output(const Ids& tokens, int drafted, FinishReason reason = FinishReason::none) {
  SequenceOutput out;
  out.tokens = tokens;
  for (const int32_t token : tokens) {
    out.logprobs.push_back({{token, -0.5f, 1}, {token, -0.5f, 1}});
    for (size_t i = 0; i < kVocabulary; ++i) out.outputs.push_back(static_cast<float>(token));
  }
  out.reason = reason;
  out.drafted = drafted, out.accepted = static_cast<int>(tokens.size()) - 1;
  return out;
}

// The answer that the events add up to.
struct Sum {
  std::string text;
  Ids tokens;
  std::vector<float> logits;
  size_t logprobs = 0;
  FinishReason finish = FinishReason::none;
  Json stop_reason;
  Usage usage;
  bool last = false;
};

class Answering {
 public:
  explicit Answering(RunningRequest::Setup setup) {
    setup.prompt = std::vector<int32_t>{0, 1};
    sums.resize(static_cast<size_t>(setup.shown));
    request = std::make_unique<RunningRequest>(std::move(setup), letters(), [this](const Event& event) {
      Sum& sum = sums.at(static_cast<size_t>(event.choice));
      sum.text += event.text;
      for (const TokenInfo& token : event.tokens) sum.tokens.push_back(token.token), sum.logprobs += !!token.logprob;
      sum.logits.insert(sum.logits.end(), event.logits.begin(), event.logits.end());
      if (event.finish != FinishReason::none) sum.finish = event.finish, sum.stop_reason = event.stop_reason;
      sum.usage = event.usage, sum.last = event.last_of_request;
    });
  }
  bool push(const SequenceOutput& out, int choice = 0) { return request->on_output(choice, out); }
  // What must hold of every choice: as many logprobs and rows of logits as tokens, each token with its own.
  void check(const Sum& sum) const {
    EXPECT_EQ(sum.logprobs, sum.tokens.size());
    ASSERT_EQ(sum.logits.size(), sum.tokens.size() * kVocabulary);
    for (size_t i = 0; i < sum.tokens.size(); ++i)
      EXPECT_EQ(sum.logits[i * kVocabulary], static_cast<float>(sum.tokens[i]));
  }

  std::vector<Sum> sums;
  std::unique_ptr<RunningRequest> request;
};

RunningRequest::Setup stopping_at(std::vector<std::string> stop, bool include = false) {
  RunningRequest::Setup setup;
  setup.stop = std::move(stop), setup.include_stop = include;
  return setup;
}

TEST(RunningRequest, DraftsAreCounted) {
  Answering run({});
  EXPECT_TRUE(run.push(output(ids("a"), 0)));
  EXPECT_TRUE(run.push(output(ids("bcd"), 4)));
  EXPECT_TRUE(run.push(output(ids("e"), 4)));
  EXPECT_FALSE(run.push(output(ids("fg"), 1, FinishReason::length)));
  const Sum& sum = run.sums[0];
  EXPECT_EQ(sum.text, "abcdefg");
  EXPECT_EQ(sum.finish, FinishReason::length);
  EXPECT_EQ(sum.usage.completion_tokens, 7);
  EXPECT_EQ(sum.usage.draft_tokens, 9);
  EXPECT_EQ(sum.usage.accepted_tokens, 3);
  EXPECT_TRUE(sum.last);
  run.check(sum);
}

// A stop string inside an output: the tokens behind it are not part of the answer, in no respect.
TEST(RunningRequest, StopStringInTheMiddle) {
  for (const bool include : {false, true}) {
    Answering run(stopping_at({"cd"}, include));
    EXPECT_TRUE(run.push(output(ids("ab"), 3)));
    EXPECT_FALSE(run.push(output(ids("cdefg"), 4)));
    const Sum& sum = run.sums[0];
    EXPECT_EQ(sum.text, include ? "abcd" : "ab");
    EXPECT_EQ(sum.tokens, ids("abcd"));
    EXPECT_EQ(sum.finish, FinishReason::stop);
    EXPECT_EQ(sum.stop_reason, Json("cd"));
    EXPECT_EQ(sum.usage.completion_tokens, 4);
    EXPECT_EQ(sum.usage.draft_tokens, 7);
    EXPECT_EQ(sum.usage.accepted_tokens, 3) << "one of the first output, two that were delivered of the second";
    EXPECT_TRUE(sum.last);
    run.check(sum);
    EXPECT_FALSE(run.push(output(ids("x"), 0))) << "it has its end";
    EXPECT_EQ(run.sums[0].tokens, ids("abcd"));
  }
}

// The scheduler had found an end behind the stop string, by length or by a stop token: the string was first.
TEST(RunningRequest, StopStringBeforeAnotherEnd) {
  for (const FinishReason reason : {FinishReason::length, FinishReason::stop}) {
    RunningRequest::Setup setup = stopping_at({"b"});
    setup.request_stop_ids = {kDot};
    Answering run(std::move(setup));
    SequenceOutput out = output(ids("abc."), 3, reason);
    if (reason == FinishReason::stop) out.stop_id = kDot;
    EXPECT_FALSE(run.push(out));
    EXPECT_EQ(run.sums[0].tokens, ids("ab"));
    EXPECT_EQ(run.sums[0].finish, FinishReason::stop);
    EXPECT_EQ(run.sums[0].stop_reason, Json("b"));
    EXPECT_EQ(run.sums[0].usage.completion_tokens, 2);
    run.check(run.sums[0]);
  }
}

// A stop token stands last in its output. It is listed and counted; it has text with include_stop only.
TEST(RunningRequest, StopTokenLast) {
  for (const bool include : {false, true}) {
    RunningRequest::Setup setup = stopping_at({}, include);
    setup.request_stop_ids = {kDot};
    Answering run(std::move(setup));
    SequenceOutput out = output(ids("ab."), 4, FinishReason::stop);
    out.stop_id = kDot, out.accepted = 3;  // the stop token was a draft, too
    EXPECT_FALSE(run.push(out));
    const Sum& sum = run.sums[0];
    EXPECT_EQ(sum.text, include ? "ab." : "ab");
    EXPECT_EQ(sum.tokens, ids("ab."));
    EXPECT_EQ(sum.stop_reason, Json(28));
    EXPECT_EQ(sum.usage.completion_tokens, 3);
    EXPECT_EQ(sum.usage.accepted_tokens, 3);
    run.check(sum);
  }
}

// A stop string that names a special token: the token ends the sequence, and the name is the reason.
TEST(RunningRequest, SpecialStopLast) {
  RunningRequest::Setup setup = stopping_at({"<mark>"});
  setup.request_stop_ids = {kMark}, setup.special_stops = {{kMark, 0}};
  Answering run(std::move(setup));
  Ids tokens = ids("abc");
  tokens.push_back(kMark);
  SequenceOutput out = output(tokens, 3, FinishReason::stop);
  out.stop_id = kMark;
  EXPECT_FALSE(run.push(out));
  EXPECT_EQ(run.sums[0].text, "abc");
  EXPECT_EQ(run.sums[0].tokens, tokens);
  EXPECT_EQ(run.sums[0].stop_reason, Json("<mark>"));
  run.check(run.sums[0]);
}

// Characters of two tokens, and beginnings of stop strings: what is held back comes later or never, and never twice.
// Every way to cut the answer into outputs gives the answer of single tokens.
TEST(RunningRequest, EveryCutGivesTheSameAnswer) {
  Ids tokens = ids("ab");
  for (const int32_t id : {kLead, kTrail, 2, 3, kLead, kTrail, 2, 3, 4, 5}) tokens.push_back(id);  // "abécdécdef"
  const std::vector<std::string> stops[] = {{}, {"écde"}, {"é"}, {"cdé", "zz"}, {"cdx"}, {"f"}, {"abécdécdefg"}};
  for (const std::vector<std::string>& stop : stops) {
    const auto answer = [&](unsigned cuts) {
      Answering run(stopping_at(stop));
      for (size_t begin = 0, i = 1; i <= tokens.size(); ++i) {
        if (i < tokens.size() && (cuts >> (i - 1) & 1) == 0) continue;
        const Ids piece(tokens.begin() + static_cast<ptrdiff_t>(begin), tokens.begin() + static_cast<ptrdiff_t>(i));
        begin = i;
        if (!run.push(output(piece, 16, i == tokens.size() ? FinishReason::length : FinishReason::none))) break;
      }
      EXPECT_TRUE(run.sums[0].last);
      EXPECT_EQ(run.sums[0].usage.completion_tokens, static_cast<int>(run.sums[0].tokens.size()));
      EXPECT_LE(run.sums[0].usage.accepted_tokens, run.sums[0].usage.completion_tokens);
      run.check(run.sums[0]);
      return run.sums[0];
    };
    const unsigned every = (1u << (tokens.size() - 1)) - 1;
    const Sum single = answer(every);
    for (unsigned cuts = 0; cuts < every; ++cuts) {
      const Sum other = answer(cuts);
      ASSERT_EQ(other.text, single.text) << cuts;
      ASSERT_EQ(other.tokens, single.tokens) << cuts;
      ASSERT_EQ(other.finish, single.finish) << cuts;
      ASSERT_EQ(other.stop_reason, single.stop_reason) << cuts;
    }
  }
}

// The rows of the prompt's logits stand in front of those of the first tokens.
TEST(RunningRequest, LogitsOfThePrompt) {
  RunningRequest::Setup setup = stopping_at({"b"});
  setup.prompt_results = true, setup.context_logits = 2 * kVocabulary;
  Answering run(std::move(setup));
  SequenceOutput out = output(ids("abc"), 2);
  out.outputs.insert(out.outputs.begin(), 2 * kVocabulary, -1.0f);
  EXPECT_FALSE(run.push(out));
  run.check(run.sums[0]);
  EXPECT_EQ(run.sums[0].tokens, ids("ab"));
}

// Choices end apart, and usage is the request's.
TEST(RunningRequest, Choices) {
  RunningRequest::Setup setup = stopping_at({"c"});
  setup.choices = setup.shown = 2;
  Answering run(std::move(setup));
  EXPECT_TRUE(run.push(output(ids("ab"), 2), 0));
  EXPECT_FALSE(run.push(output(ids("bcd"), 2), 1));
  EXPECT_FALSE(run.push(output(ids("acb"), 3), 0));
  EXPECT_EQ(run.sums[0].text, "aba");
  EXPECT_EQ(run.sums[1].text, "b");
  const Usage& usage = run.sums[0].usage;
  EXPECT_EQ(usage.completion_tokens, 6);
  EXPECT_EQ(usage.draft_tokens, 7);
  EXPECT_EQ(usage.accepted_tokens, 1 + 2 + 2);
}

// A hypothesis of a beam search comes as one output, without drafts.
TEST(RunningRequest, Beams) {
  Answering run({});
  SequenceOutput out = output(ids("abc"), 0, FinishReason::length);
  out.accepted = 0, out.outputs.clear();
  EXPECT_FALSE(run.push(out));
  EXPECT_EQ(run.sums[0].text, "abc");
  EXPECT_EQ(run.sums[0].usage.completion_tokens, 3);
  EXPECT_EQ(run.sums[0].usage.draft_tokens, 0);
  EXPECT_EQ(run.sums[0].usage.accepted_tokens, 0);
  EXPECT_TRUE(run.sums[0].logits.empty());
}

TEST(RunningRequest, AnErrorHasNoTokens) {
  Answering run({});
  EXPECT_TRUE(run.push(output(ids("ab"), 1)));
  SequenceOutput out = output(ids("cd"), 1, FinishReason::error);
  out.error = "a processor failed", out.accepted = 0;
  EXPECT_FALSE(run.push(out));
  EXPECT_EQ(run.sums[0].tokens, ids("ab"));
  EXPECT_EQ(run.sums[0].finish, FinishReason::error);
  run.check(run.sums[0]);
}

// The engine gives an output with an error in the place of one that failed.
TEST(RunningRequest, AnEventThatFoundNoMemoryIsDeliveredBeforeTheError) {
  RunningRequest::Setup setup;
  setup.prompt = std::vector<int32_t>{0, 1};
  std::vector<Event> events;
  int failures = 2;
  RunningRequest request(std::move(setup), letters(), [&](const Event& event) {
    if (failures-- > 0) throw std::bad_alloc();
    events.push_back(event);
  });
  EXPECT_THROW(request.on_output(0, output(ids("ab"), 0)), std::bad_alloc);
  SequenceOutput error;
  error.reason = FinishReason::error, error.error = "out of memory", error.error_code = Code::resource_exhausted;
  EXPECT_THROW(request.on_output(0, error), std::bad_alloc);
  EXPECT_FALSE(request.on_output(0, error));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].text, "ab");
  EXPECT_FALSE(events[0].last_of_request);
  ASSERT_TRUE(events[1].error.has_value());
  EXPECT_EQ(events[1].error->code(), Code::resource_exhausted);
  EXPECT_TRUE(events[1].last_of_request);
}

}  // namespace
}  // namespace weft
