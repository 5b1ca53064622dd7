// Masks and accepted tokens of grammars whose cost grows with every token: each call ends in time, the answer that
// needs it fails, and others go on.
#include <ctime>

#include <algorithm>
#include <string>
#include <vector>

#include "grammar/grammar.h"
#include "test_vocabulary.h"

namespace weft {
namespace {

using Kind = GrammarSpec::Kind;

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Walk {
  size_t tokens = 0;   // accepted
  double longest = 0;  // processor time of a fill or accept
  Status end;          // what ended it
};

// Goes along `text` (again and again) for `most` tokens, with a mask in front of each.
Walk walk(Grammar& grammar, std::string_view text, size_t most) {
  Walk walked;
  std::vector<uint32_t> mask(Vocabulary::kRows / 32);
  const std::vector<int32_t> ids = Vocabulary::get().byte_ids();
  const auto timed = [&](auto&& call) {
    const double begin = thread_seconds();
    Status status = call();
    walked.longest = std::max(walked.longest, thread_seconds() - begin);
    return status;
  };
  while (walked.tokens < most) {
    // As in the engine: a mask that fails is reported by the next token.
    (void)timed([&] { return grammar.fill(mask); }).ok();
    const auto byte = static_cast<unsigned char>(text[walked.tokens % text.size()]);
    if (walked.end = timed([&] { return grammar.accept(ids[byte]); }); !walked.end.ok()) return walked;
    ++walked.tokens;
  }
  return walked;
}

std::unique_ptr<Grammar> compile(const GrammarSpec& wanted, uint64_t step_ms) {
  GrammarLimits limits;
  limits.step_ms = step_ms;
  auto grammar = Vocabulary::get().factory(limits)->compile(wanted);
  EXPECT_TRUE(grammar.ok()) << wanted.text << ": " << grammar.error().message();
  return grammar.ok() ? std::move(grammar).value() : nullptr;
}

// Without the limit, the first one takes 15 s for 80 tokens.
TEST(GrammarCost, AmbiguousRulesEndTheirOwnAnswer) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"start: x{1,2000}\nx: y{1,2000}\ny: \"a\" | \"b\" y", "a"},
      {"start: s\ns: s s s | \"a\" | \"b\"", "ab"},
      {"start: s\ns: \"a\" s? s?", "a"},
  };
  for (const auto& [text, written] : cases) {
    const auto start = compile(spec(Kind::ebnf, text), 1);
    ASSERT_TRUE(start);
    const auto bad = start->clone(), other = start->clone();
    const Walk walked = walk(*bad, written, 1000);
    EXPECT_LT(walked.longest, 0.5) << text;
    ASSERT_FALSE(walked.end.ok()) << text << ": " << walked.longest;
    EXPECT_EQ(walked.end.error().code(), Code::resource_exhausted);
    EXPECT_NE(walked.end.error().message().find("more than 1 ms of processor time"), std::string::npos)
        << walked.end.error().message();
    EXPECT_FALSE(bad->may_end());
    EXPECT_FALSE(bad->clone()->accept(0).ok());
    EXPECT_TRUE(walk(*other, written, 5).end.ok()) << text;
  }
}

// The parser's first row: 3000 items that each predict 3000 rules.
TEST(GrammarCost, ManyAmbiguousAlternativesAreRefused) {
  std::string text = "start: s\ns: \"a\"";
  for (int i = 0; i < 3000; ++i) text += " | s s s";
  const double begin = thread_seconds();
  double compilation = 0;
  const auto grammar = Vocabulary::get().factory()->compile(spec(Kind::ebnf, text), &compilation);
  EXPECT_LT(thread_seconds() - begin + compilation, 2.0);
  ASSERT_FALSE(grammar.ok());
  EXPECT_EQ(grammar.error().code(), Code::invalid_argument);
  EXPECT_NE(grammar.error().message().find("too ambiguous: the parser would begin with 300"), std::string::npos)
      << grammar.error().message();
}

// Processor time of a compilation, which must fail with these words, or succeed if there are none.
double compile_seconds(const GrammarSpec& wanted, const std::string& problem) {
  double taken = 0;
  const auto grammar = Vocabulary::get().factory()->compile(wanted, &taken);
  EXPECT_EQ(grammar.ok(), problem.empty()) << (grammar.ok() ? "" : grammar.error().message());
  if (grammar.ok()) return taken;
  EXPECT_EQ(grammar.error().code(), Code::invalid_argument);
  EXPECT_NE(grammar.error().message().find(problem), std::string::npos) << grammar.error().message();
  return taken;
}

// Work of the parser's that cannot be stopped and grows with the square of what there is: without a limit 60,000
// literals take 8 s, and 30,000 rules that may be empty 29 s.
TEST(GrammarCost, WhatIsTooLargeToPrepareIsRefused) {
  const auto literals = [](int n, const std::string& before) {
    std::string text = before + "\"x\"";
    for (int i = 0; i < n; ++i) text += "|\"" + std::to_string(i) + '"';
    return spec(Kind::ebnf, text);
  };
  const std::string many = "it has more than 30000 rules and terminals, and 30000 are allowed";
  EXPECT_LT(compile_seconds(literals(70'000, "start: "), many), 10);
  EXPECT_LT(compile_seconds(literals(20'000, "start: "), ""), 5);
  EXPECT_LT(compile_seconds(literals(70'000, "start: A\nA: "), ""), 5);  // one terminal
  const auto chain = [](int n) {
    std::string text = "start: r0\n";
    for (int i = 0; i < n; ++i) {
      const std::string next = "r" + std::to_string(i + 1);
      text += "r" + std::to_string(i) + ": " + next + " " + next + "\n";
    }
    return spec(Kind::ebnf, text + "r" + std::to_string(n) + ": \"a\"?\n");
  };
  // Two symbols in each rule, and two for its name.
  EXPECT_LT(compile_seconds(chain(25'000), "it comes to 25002 rules with 100006 symbols in them"), 5);
  EXPECT_LT(compile_seconds(chain(3000), ""), 5);
  const auto members = [](int n) {
    std::string text = "{\"properties\":{\"x\":{\"type\":\"string\"}";
    for (int i = 0; i < n; ++i) text += ",\"p" + std::to_string(i) + "\":{\"type\":\"string\"}";
    return spec(Kind::json_schema, text + "},\"type\":\"object\"}");
  };
  EXPECT_LT(compile_seconds(members(12'000), many), 10);
  EXPECT_LT(compile_seconds(members(3000), ""), 10);
}

TEST(GrammarCost, OrdinaryOnesAreFarFromTheLimit) {
  const std::vector<std::pair<GrammarSpec, std::string>> cases = {
      {spec(Kind::regex, "([a-z]{1,20} ){1,100}"), "some words "},
      {spec(Kind::json_schema, R"({"type":"array","items":{"type":"string"}})"), "[\"abc\",\"de\""},
      {spec(Kind::ebnf, "start: s\ns: \"(\" s \")\" | \"a\""), "("},
  };
  for (const auto& [wanted, written] : cases) {
    const auto grammar = compile(wanted, 50);
    ASSERT_TRUE(grammar);
    const Walk walked = walk(*grammar, written, written.size());
    EXPECT_TRUE(walked.end.ok()) << walked.end.error().message();
    EXPECT_LT(walked.longest, 0.05) << wanted.text;
  }
}

}  // namespace
}  // namespace weft
