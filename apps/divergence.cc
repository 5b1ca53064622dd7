#include "divergence.h"

#include <algorithm>
#include <cmath>

#include "score_prompt.h"

namespace weft {
namespace {

// Log-softmax of a row, in double precision.
std::vector<double> log_softmax(const float* logits, int64_t count) {
  const double largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - largest);
  std::vector<double> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = logits[i] - largest - std::log(sum);
  return out;
}

}  // namespace

Result<Distributions> distributions(const std::string& model, EngineOptions options, const std::string& text,
                                    int tokens, const EngineLoader& load) {
  options.max_seq_len = tokens;
  WEFT_TRY(const std::unique_ptr<Engine> engine, load(model, options, {}));
  Request request;
  request.prompt = text;
  WEFT_TRY(std::vector<int32_t> ids, engine->prompt_tokens(request));
  ids.resize(std::min(ids.size(), static_cast<size_t>(tokens)));
  Request score;
  score.prompt_token_ids = ids;
  WEFT_TRY(ScoreResult result, score_prompt(*engine, std::move(score)));
  const auto found = result.tensors.find("logits");
  if (found == result.tensors.end()) return fail(Code::unsupported, "the model gives no logits");
  return Distributions{std::move(ids), found->second.shape.back(),
                       std::get<std::vector<float>>(std::move(found->second.data)), engine->info().weight_bytes};
}

Divergence divergence(const Distributions& p, const Distributions& q) {
  Divergence result;
  double nll = 0;
  int same = 0;
  const auto rows = static_cast<int64_t>(p.ids.size());
  for (int64_t r = 0; r < rows; ++r) {
    const auto a = log_softmax(p.logits.data() + r * p.vocab, p.vocab),
               b = log_softmax(q.logits.data() + r * q.vocab, q.vocab);
    double row = 0;
    for (size_t i = 0; i < a.size(); ++i) row += std::exp(a[i]) * (a[i] - b[i]);
    result.mean += row, result.largest = std::max(result.largest, row);
    same += std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(b.begin(), b.end()) - b.begin();
    if (r + 1 < rows) nll -= b[static_cast<size_t>(p.ids[static_cast<size_t>(r + 1)])];
  }
  const auto count = static_cast<double>(std::max<int64_t>(rows, 1));
  result.mean /= count, result.same_top = same / count;
  result.perplexity = std::exp(nll / static_cast<double>(std::max<int64_t>(rows - 1, 1)));
  return result;
}

}  // namespace weft
