// Drafts against the reference's values (tests/data/README.md): what an EAGLE-3 head and the layers for multi-token
// prediction make of a prompt, whole and in chunks, and the chain of drafts behind it.
//
// e: the largest error in units of the expected values' standard deviation. WEFT_DRAFT_CASES and WEFT_DRAFT_TARGETS
// name folders with further cases of the same form and their targets.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "drafts/draft_pair.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

constexpr double kTolerance = 1e-4;

struct Expected {
  std::map<std::string, std::map<std::string, std::vector<float>>> numbers;  // by prompt and name
  std::map<std::string, std::map<std::string, std::vector<int32_t>>> ids;
  std::string target;
};

Expected read_expected(const std::string& folder) {
  Expected expected;
  const std::string path = folder + "/expected.safetensors";
  const auto file = MappedFile::open(path);
  EXPECT_TRUE(file.ok()) << path;
  const auto tensors = parse_safetensors(file->bytes(), path);
  EXPECT_TRUE(tensors.ok());
  for (const TensorInfo& tensor : *tensors) {
    const size_t dot = tensor.name.rfind('.');
    const std::string prompt = tensor.name.substr(0, dot), what = tensor.name.substr(dot + 1);
    if (tensor.type == StorageType::i64) {
      std::vector<int64_t> wide(static_cast<size_t>(tensor.values()));
      std::memcpy(wide.data(), tensor.data.data(), wide.size() * sizeof(int64_t));
      expected.ids[prompt][what].assign(wide.begin(), wide.end());
    } else {
      expected.numbers[prompt][what] = read_all(tensor).value();
    }
  }
  uint64_t length = 0;
  std::memcpy(&length, file->bytes().data(), sizeof length);
  const auto header = parse_json({reinterpret_cast<const char*>(file->bytes().data()) + sizeof length, length});
  if (const Json* metadata = header->find("__metadata__"))
    if (const Json* target = metadata->find("target")) expected.target = target->as_string();
  return expected;
}

// Rows of `got` against rows first, first + 1, ... of `want`.
double error_of(const std::vector<float>& want, int first, const float* got, int rows, int cols, int64_t ld) {
  double largest = 0;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) {
      const double error =
          std::abs(static_cast<double>(want[static_cast<size_t>(first + r) * cols + c]) - got[r * ld + c]);
      largest = std::max(largest, std::isfinite(error) ? error : 1e30);
    }
  return largest / deviation(want);
}

std::unique_ptr<DraftPair> load(const std::string& target, const SpeculationOptions& options, int threads, bool all,
                                ModelOptions model_options = {}) {
  auto pair = DraftPair::load(target, options, threads, all, std::move(model_options));
  EXPECT_TRUE(pair.ok()) << pair.error().to_string();
  return pair.ok() ? std::move(pair).value() : nullptr;
}

SpeculationOptions eagle3(const std::string& folder) { return {.method = DraftMethod::eagle3, .model = folder}; }

// Prompts of the case, each in a slot, in steps of `chunk` tokens.
struct EagleCase {
  std::string folder, target;
  bool own_features = true;  // false: the target's weights are other ones, so the file's features are taken
};

void check_prompts(const EagleCase& c, int chunk, int threads) {
  const Expected expected = read_expected(c.folder);
  auto pair = load(c.target, eagle3(c.folder), threads, true);
  ASSERT_TRUE(pair);
  const int vocab = pair->drafter().model().vocab;
  for (const auto& [prompt, ids] : expected.ids) {
    const auto& numbers = expected.numbers.at(prompt);
    const std::vector<int32_t>&tokens = ids.at("input_ids"), &next = ids.at("draft_input_ids");
    const std::vector<float>& features = numbers.at("features");
    const auto count = static_cast<int>(tokens.size());
    for (int first = 0; first < count; first += chunk) {
      const int end = std::min(count, first + chunk), cols = pair->taps();
      const Sequence s{.slot = 1,
                       .tokens = {tokens.begin() + first, tokens.begin() + end},
                       .next = {next.begin() + first, next.begin() + end},
                       .first = first};
      std::vector<float> given;
      if (!c.own_features) given.assign(features.begin() + first * cols, features.begin() + end * cols);
      pair->step({s}, given);
      if (c.own_features) {
        EXPECT_LE(error_of(features, first, pair->executor().taps(), end - first, cols, pair->executor().taps_ld()),
                  kTolerance)
            << prompt << " features";
      }
      const ModelDrafter::Scores scores = pair->drafter().scores(0, 0);
      ASSERT_EQ(scores.rows, end - first);
      ASSERT_EQ(scores.position, first);
      EXPECT_LE(error_of(numbers.at("draft_logits"), first, scores.logits, scores.rows, vocab, scores.logits_ld),
                kTolerance)
          << prompt << " from " << first;
      EXPECT_LE(
          error_of(numbers.at("draft_hidden"), first, scores.state, scores.rows, scores.state_cols, scores.state_ld),
          kTolerance)
          << prompt << " from " << first;
    }
  }
}

void check_chain(const EagleCase& c, int threads) {
  const Expected expected = read_expected(c.folder);
  auto pair = load(c.target, eagle3(c.folder), threads, false);
  ASSERT_TRUE(pair);
  // All prompts in one step, and again with fewer drafts, which shows the logits of each.
  for (int drafts = 4; drafts > 0; --drafts) {
    std::vector<Sequence> sequences;
    std::vector<float> features;
    for (const auto& [prompt, ids] : expected.ids) {
      sequences.push_back({.slot = static_cast<Slot>(sequences.size()),
                           .tokens = ids.at("input_ids"),
                           .next = ids.at("draft_input_ids"),
                           .drafts = drafts});
      sequences.back().noise.temperature = 0;
      const std::vector<float>& own = expected.numbers.at(prompt).at("features");
      if (!c.own_features) features.insert(features.end(), own.begin(), own.end());
    }
    const std::vector<std::vector<int32_t>> got = pair->step(sequences, features);
    int s = 0;
    for (const auto& [prompt, ids] : expected.ids) {
      const std::vector<int32_t>& chain = ids.at("chain_token_ids");
      EXPECT_EQ(got[s], std::vector<int32_t>(chain.begin(), chain.begin() + drafts)) << prompt;
      const ModelDrafter::Scores scores = pair->drafter().scores(0, s++);
      if (drafts == 1) continue;  // the first pass keeps the last row's logits alone
      EXPECT_LE(error_of(expected.numbers.at(prompt).at("chain_logits"), drafts - 1, scores.logits, 1,
                         pair->drafter().model().vocab, scores.logits_ld),
                kTolerance)
          << prompt << " draft " << drafts;
    }
  }
}

void check(const EagleCase& c) {
  check_prompts(c, 100, 1);
  check_prompts(c, 7, 3);
  check_chain(c, 1);
  check_chain(c, 3);
}

// The rounds of a whole answer, three drafts each: the accepted rows come with the target's states again, as they do
// when decoding.
void check_rounds(const EagleCase& c) {
  const auto file = read_json_file(c.folder + "/expected.json");
  ASSERT_TRUE(file.ok());
  const Expected expected = read_expected(c.folder), answers = read_expected(c.target);
  auto pair = load(c.target, eagle3(c.folder), 2, false);
  ASSERT_TRUE(pair);
  for (const auto& [prompt, ids] : expected.ids) {
    std::vector<int32_t> tokens = ids.at("input_ids");
    const std::vector<int32_t>& greedy = answers.ids.at(prompt).at("greedy");
    tokens.insert(tokens.end(), greedy.begin(), greedy.end());
    int done = 0;
    for (const Json& round : file->find("prompts")->find(prompt)->find("rounds_K3")->items()) {
      const auto last = static_cast<int>(round.find("last_token_index")->as_integer());
      std::vector<int32_t> want;
      for (const Json& draft : round.find("drafts")->items()) want.push_back(static_cast<int32_t>(draft.as_integer()));
      Sequence s{.tokens = {tokens.begin() + done, tokens.begin() + last},
                 .next = {tokens.begin() + done + 1, tokens.begin() + last + 1},
                 .first = done,
                 .drafts = static_cast<int>(want.size())};
      s.noise.temperature = 0;
      EXPECT_EQ(pair->step({s})[0], want) << prompt << " behind token " << last;
      done = last;
    }
    EXPECT_GT(done, 20);
  }
}

TEST(Eagle3, RoundsOfAnAnswer) { check_rounds({test_data("drafts/eagle3-llama-3.1"), test_data("golden/llama-3.1")}); }

TEST(Eagle3, AuthorsNames) { check({test_data("drafts/eagle3-llama-3.1"), test_data("golden/llama-3.1")}); }

// Their targets' weights are rounded in tests/data, which the features are not.
TEST(Eagle3, SpeculatorsNames) {
  check({test_data("drafts/eagle3-qwen3-moe-speculators"), test_data("golden/qwen3-moe"), false});
}
TEST(Eagle3, WiderThanTheTarget) {
  check({test_data("drafts/eagle3-deepseek-v3"), test_data("golden/deepseek-v3"), false});
}

TEST(Eagle3, FurtherCases) {
  const char *cases = std::getenv("WEFT_DRAFT_CASES"), *targets = std::getenv("WEFT_DRAFT_TARGETS");
  if (!cases || !targets) GTEST_SKIP() << "WEFT_DRAFT_CASES and WEFT_DRAFT_TARGETS are not set";
  int checked = 0;
  for (const auto& entry : std::filesystem::directory_iterator(cases)) {
    if (!is_file(entry.path() / "expected.safetensors")) continue;
    const std::string target = read_expected(entry.path()).target;
    if (target.empty()) continue;
    SCOPED_TRACE(entry.path());
    check({entry.path(), std::string(targets) + "/" + target}), ++checked;
    check_rounds({entry.path(), std::string(targets) + "/" + target});
  }
  EXPECT_GT(checked, 0);
}

// ---- Multi-token prediction -----------------------------------------------------------------------------------------

void check_mtp(const std::string& folder, int chunk, int threads) {
  const Expected expected = read_expected(folder);
  auto pair = load(folder, {.method = DraftMethod::mtp}, threads, true);
  ASSERT_TRUE(pair);
  const int vocab = pair->drafter().model().vocab;
  const auto depths = static_cast<int>(pair->drafter().model().stages.size());
  for (const auto& [prompt, ids] : expected.ids) {
    const std::vector<int32_t>& tokens = ids.at("input_ids");
    // The tokens behind the prompt as far as the deepest layer needs them.
    std::vector<int32_t> all = tokens;
    all.insert(all.end(), ids.at("greedy").begin(), ids.at("greedy").begin() + depths);
    const auto count = static_cast<int>(tokens.size());
    std::vector<int> checked(depths);
    for (int first = 0; first < count; first += chunk) {
      const int end = std::min(count, first + chunk);
      // `next` is longer than the rows only where the prompt ends.
      const int known = end == count ? end + depths : end + 1;
      pair->step({{.slot = 2,
                   .tokens = {tokens.begin() + first, tokens.begin() + end},
                   .next = {all.begin() + first + 1, all.begin() + known},
                   .first = first}});
      for (int depth = 0; depth < depths; ++depth) {
        const std::string name = depth == 0 ? "mtp_logits" : "mtp" + std::to_string(depth + 1) + "_logits";
        const ModelDrafter::Scores scores = pair->drafter().scores(depth, 0);
        if (scores.rows == 0) continue;
        EXPECT_EQ(scores.position, checked[depth]);
        checked[depth] = scores.position + scores.rows;
        EXPECT_LE(error_of(expected.numbers.at(prompt).at(name), scores.position, scores.logits, scores.rows, vocab,
                           scores.logits_ld),
                  kTolerance)
            << prompt << " depth " << depth << " from " << scores.position;
      }
    }
    for (int depth = 0; depth < depths; ++depth) EXPECT_EQ(checked[depth], count) << prompt << " depth " << depth;
  }
}

TEST(Mtp, TwoLayersInFp8) {
  for (const int chunk : {100, 7, 1}) check_mtp(test_data("drafts/mtp2-deepseek-v3-fp8"), chunk, chunk == 7 ? 3 : 1);
}

// The rounds of trained layers, from WEFT_DRAFT_CASES: one layer is run three times.
TEST(Mtp, FurtherRounds) {
  const char* cases = std::getenv("WEFT_DRAFT_CASES");
  if (!cases) GTEST_SKIP() << "WEFT_DRAFT_CASES is not set";
  const std::string folder = std::string(cases) + "/deepseek-v3-mtp-trained";
  const auto file = read_json_file(folder + "/expected.json");
  ASSERT_TRUE(file.ok());
  auto pair = load(folder, {.method = DraftMethod::mtp}, 2, false);
  ASSERT_TRUE(pair);
  const auto ids = [](const Json& list) {
    std::vector<int32_t> values;
    for (const Json& id : list.items()) values.push_back(static_cast<int32_t>(id.as_integer()));
    return values;
  };
  for (const Json& prompt : file->find("prompts")->items()) {
    std::vector<int32_t> tokens = ids(*prompt.find("prompt_token_ids"));
    const std::vector<int32_t> greedy = ids(*prompt.find("greedy_64"));
    tokens.insert(tokens.end(), greedy.begin(), greedy.end());
    int done = 0;
    for (const Json& round : prompt.find("mtp_rounds_K3")->items()) {
      const auto last = static_cast<int>(round.find("last_token_index")->as_integer());
      Sequence s{.tokens = {tokens.begin() + done, tokens.begin() + last},
                 .next = {tokens.begin() + done + 1, tokens.begin() + last + 1},
                 .first = done,
                 .drafts = 3};
      s.noise.temperature = 0;
      std::vector<int32_t> want;
      for (const Json& step : round.find("draft_steps")->items())
        want.push_back(static_cast<int32_t>(step.find("proposed_token_id")->as_integer()));
      EXPECT_EQ(pair->step({s})[0], want) << prompt.find("prompt")->as_string() << " behind token " << last;
      done = last;
    }
  }
}

}  // namespace
}  // namespace weft::testing
