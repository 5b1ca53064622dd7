// Measures the n-gram drafter: indexing a prompt, and a proposal per step in a long text. Prints one JSON object per
// line.
//
//   bench_ngram [tokens=32768]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "spec/ngram_drafter.h"

namespace weft::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Words as often as in natural text (Zipf's law), or one word for ever, or lines that come again and again.
std::vector<int32_t> text(const char* kind, size_t count) {
  std::mt19937 random(1);
  std::vector<int32_t> tokens(count);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (size_t i = 0; i < count; ++i) {
    switch (kind[0]) {
      case 'w': tokens[i] = static_cast<int32_t>(std::exp(uniform(random) * std::log(30000.0))); break;
      case 'o': tokens[i] = 7; break;
      default: tokens[i] = i >= 100 && i % 100 < 90 ? tokens[i - 100] : static_cast<int32_t>(random() % 1000);
    }
  }
  return tokens;
}

void measure(const char* kind, size_t count, bool shared) {
  constexpr size_t kSteps = 2000;
  const std::vector<int32_t> tokens = text(kind, count + kSteps);
  SpeculationOptions options;
  options.ngram_shared = shared;
  NgramDrafter drafter(options);
  const std::array<uint64_t, 4> salt{};
  if (shared) {  // a full store
    for (size_t i = 0; i * tokens.size() < 2 * NgramDrafter::kSharedTokens; ++i) {
      drafter.open(0, salt);
      drafter.close(0, tokens, 0);
    }
  }
  double index = 1e30;
  std::vector<double> propose;
  size_t drafted = 0;
  std::vector<int32_t> drafts;
  for (int round = 0; round < 5; ++round) {
    drafter.open(0, salt);
    drafts.clear();
    const double begin = now();
    drafter.propose({.tokens = {tokens.data(), count}}, 8, drafts);
    index = std::min(index, now() - begin);
    if (round < 4) continue;
    for (size_t i = 1; i <= kSteps; ++i) {
      drafts.clear();
      const double start = now();
      drafter.propose({.tokens = {tokens.data(), count + i}}, 8, drafts);
      const double seconds = now() - start;
      propose.push_back(seconds), drafted += drafts.size();
    }
  }
  std::sort(propose.begin(), propose.end());
  std::printf(
      "{\"bench\": \"ngram\", \"text\": \"%s\", \"shared\": %s, \"tokens\": %zu, \"index_ms\": %.3f, \"propose_us\": "
      "%.2f, "
      "\"propose_us_p99\": %.2f, \"drafts_per_step\": %.2f}\n",
      kind, shared ? "true" : "false", count, index * 1e3, propose[kSteps / 2] * 1e6, propose[kSteps * 99 / 100] * 1e6,
      static_cast<double>(drafted) / kSteps);
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  const size_t tokens = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 32768;
  for (const char* kind : {"words", "one", "lines"}) {
    for (const bool shared : {false, true}) weft::bench::measure(kind, tokens, shared);
  }
  return 0;
}
