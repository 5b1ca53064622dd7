// What quantisation costs in accuracy: the distributions of the next token over a text of the repository, against those
// of the same model without quantisation. Prints one JSON object per way of loading it, and one per other checkpoint of
// the model (folders of AWQ, GPTQ, NVFP4 ..., GGUF files): mean and largest Kullback-Leibler divergence in nats, how
// often the likeliest token is the same, perplexity, and the bytes of the weights.
//
//   bench_accuracy MODEL TEXT_FILE [tokens=512] [CHECKPOINT...]
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "api/engine.h"
#include "base/files.h"
#include "divergence.h"

namespace weft::bench {
namespace {

struct Way {
  std::string model;
  ComputeType dtype = ComputeType::bfloat16;
  Quantize quantize = Quantize::none;
};

Result<Distributions> distributions(const Way& way, const std::string& text, int tokens) {
  EngineOptions options;
  options.dtype = way.dtype, options.quantize = way.quantize;
  return weft::distributions(way.model, options, text, tokens, Engine::load);
}

void print(const Way& way, const Distributions& base, const Distributions& other) {
  const Divergence found = divergence(base, other);
  std::printf(
      "{\"bench\":\"accuracy\",\"model\":\"%s\",\"dtype\":\"%s\",\"quantize\":\"%s\",\"tokens\":%zu,\"kl_mean\":%.5f,"
      "\"kl_max\":%.4f,"
      "\"same_top_pct\":%.1f,\"perplexity\":%.3f,\"weight_bytes\":%ld}\n",
      way.model.c_str(), name_of(way.dtype), name_of(way.quantize), base.ids.size(), found.mean, found.largest,
      100.0 * found.same_top, found.perplexity, static_cast<long>(other.weight_bytes));
  std::fflush(stdout);
}

Status run(const std::string& model, const std::string& text_file, int tokens, const std::vector<std::string>& others) {
  WEFT_TRY(const std::string text, read_file(text_file));
  std::vector<Way> ways;
  for (const Quantize quantize : {Quantize::none, Quantize::int8, Quantize::int4})
    for (const ComputeType dtype : {ComputeType::bfloat16, ComputeType::float32})
      ways.push_back({model, dtype, quantize});
  for (const std::string& other : others) ways.push_back({.model = other});
  WEFT_TRY(const Distributions base, distributions(ways[0], text, tokens));
  for (const Way& way : ways) {
    WEFT_TRY(const Distributions other, distributions(way, text, tokens));
    if (other.ids != base.ids) return fail(Code::invalid_argument, way.model, " has other tokens for the text");
    print(way, base, other);
  }
  return {};
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_accuracy MODEL TEXT_FILE [tokens=512] [CHECKPOINT...]\n");
    return 2;
  }
  const weft::Status status =
      weft::bench::run(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 512, {argv + std::min(argc, 4), argv + argc});
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().to_string().c_str());
  return status.ok() ? 0 : 1;
}
