// What quantisation costs in accuracy: the distributions of the next token over a text of the repository, against those
// of the same model without quantisation. Prints one JSON object per way of loading: mean and largest Kullback-Leibler
// divergence in nats, how often the likeliest token is the same, perplexity, and the bytes of the weights.
//
//   bench_accuracy MODEL TEXT_FILE [tokens=512]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <future>

#include "api/engine.h"
#include "base/files.h"

namespace weft::bench {
namespace {

struct Distributions {
  std::vector<int32_t> ids;
  int64_t vocab = 0;
  std::vector<float> logits;  // [ids, vocab]
  int64_t weight_bytes = 0;
};

struct Way {
  ComputeType dtype;
  Quantize quantize;
};

Result<Distributions> distributions(const std::string& model, const Way& way, const std::string& text, int tokens) {
  EngineOptions options;
  options.dtype = way.dtype, options.quantize = way.quantize;
  options.max_seq_len = tokens;
  WEFT_TRY(const std::unique_ptr<Engine> engine, Engine::load(model, options));
  Request request;
  request.prompt = text;
  WEFT_TRY(std::vector<int32_t> ids, engine->prompt_tokens(request));
  ids.resize(std::min(ids.size(), static_cast<size_t>(tokens)));
  Request score;
  score.prompt_token_ids = ids;
  std::promise<Result<ScoreResult>> promise;
  WEFT_TRY(const RequestId id, engine->submit_score(std::move(score), [&](Result<ScoreResult> result) {
    promise.set_value(std::move(result));
  }));
  (void)id;
  WEFT_TRY(ScoreResult result, promise.get_future().get());
  const auto found = result.tensors.find("logits");
  if (found == result.tensors.end()) return fail(Code::unsupported, "the model gives no logits");
  return Distributions{std::move(ids), found->second.shape.back(),
                       std::get<std::vector<float>>(std::move(found->second.data)), engine->info().weight_bytes};
}

// Log-softmax of a row, in double precision.
std::vector<double> log_softmax(const float* logits, int64_t count) {
  const double largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - largest);
  std::vector<double> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = logits[i] - largest - std::log(sum);
  return out;
}

void compare(const Way& way, const Distributions& base, const Distributions& other) {
  double divergence = 0, worst = 0, nll = 0;
  int same = 0;
  const int64_t rows = static_cast<int64_t>(base.ids.size());
  for (int64_t r = 0; r < rows; ++r) {
    const auto p = log_softmax(base.logits.data() + r * base.vocab, base.vocab),
               q = log_softmax(other.logits.data() + r * base.vocab, base.vocab);
    double row = 0;
    for (size_t i = 0; i < p.size(); ++i) row += std::exp(p[i]) * (p[i] - q[i]);
    divergence += row, worst = std::max(worst, row);
    same += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    if (r + 1 < rows) nll -= q[static_cast<size_t>(base.ids[static_cast<size_t>(r + 1)])];
  }
  std::printf(
      "{\"bench\":\"accuracy\",\"dtype\":\"%s\",\"quantize\":\"%s\",\"tokens\":%ld,\"kl_mean\":%.5f,\"kl_max\":%.4f,"
      "\"same_top_pct\":%.1f,"
      "\"perplexity\":%.3f,\"weight_bytes\":%ld}\n",
      name_of(way.dtype), name_of(way.quantize), static_cast<long>(rows), divergence / static_cast<double>(rows), worst,
      100.0 * same / static_cast<double>(rows), std::exp(nll / static_cast<double>(std::max<int64_t>(rows - 1, 1))),
      static_cast<long>(other.weight_bytes));
  std::fflush(stdout);
}

Status run(const std::string& model, const std::string& text_file, int tokens) {
  WEFT_TRY(const std::string text, read_file(text_file));
  std::vector<Way> ways;
  for (const Quantize quantize : {Quantize::none, Quantize::int8, Quantize::int4})
    for (const ComputeType dtype : {ComputeType::bfloat16, ComputeType::float32}) ways.push_back({dtype, quantize});
  WEFT_TRY(const Distributions base, distributions(model, ways[0], text, tokens));
  for (const Way& way : ways) {
    WEFT_TRY(const Distributions other, distributions(model, way, text, tokens));
    compare(way, base, other);
  }
  return {};
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_accuracy MODEL TEXT_FILE [tokens=512]\n");
    return 2;
  }
  const weft::Status status = weft::bench::run(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 512);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().to_string().c_str());
  return status.ok() ? 0 : 1;
}
