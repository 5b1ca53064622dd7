// `weft quantize`: a checkpoint with weights of 8, 4 or 3 bits from one with floats.
#include <algorithm>
#include <cstdio>

#include "api/recorded_plan.h"
#include "base/files.h"
#include "divergence.h"
#include "plan/calibration.h"
#include "plan/quantize_checkpoint.h"
#include "score_prompt.h"
#include "terminal.h"

namespace weft {
namespace {

constexpr int kCalibrationWindow = 512;  // tokens of a prompt

// The model reads the text in pieces.
Result<std::map<std::string, std::vector<float>>> calibrate(const Arguments& arguments, const EngineLoader& load) {
  if (arguments.bits == 8)
    return fail(Code::invalid_argument, "--calibration is for weights of 4 and 3 bits; leave it out for --bits 8");
  WEFT_TRY(const std::string text, read_file(arguments.calibration_file));
  EngineOptions options = arguments.engine;
  options.max_seq_len = kCalibrationWindow + 1;
  options.enable_block_reuse = false;  // all positions are computed
  options.trace = std::make_shared<PlanTrace>(std::vector<std::string>(), PlanTrace::Keep::square_sums);
  WEFT_TRY(const std::unique_ptr<Engine> engine, load(arguments.model, options, {}));
  Request whole;
  whole.prompt = text;
  WEFT_TRY(std::vector<int32_t> ids, engine->prompt_tokens(whole));
  ids.resize(std::min(ids.size(), static_cast<size_t>(arguments.calibration_tokens)));
  if (ids.empty()) return fail(Code::invalid_argument, arguments.calibration_file, " has no tokens");
  for (size_t first = 0; first < ids.size(); first += kCalibrationWindow) {
    const auto begin = ids.begin() + static_cast<ptrdiff_t>(first);
    Request piece;
    piece.prompt_token_ids = std::vector<int32_t>(
        begin, begin + static_cast<ptrdiff_t>(std::min<size_t>(kCalibrationWindow, ids.size() - first)));
    WEFT_TRY(const ScoreResult result, score_prompt(*engine, std::move(piece)));
  }
  return column_importance(*options.trace);
}

// The distributions of the written model against those of the one it is from, over a text.
Status print_divergence(const Arguments& arguments, const std::string& text, const EngineLoader& load) {
  WEFT_TRY(const Distributions before,
           distributions(arguments.model, arguments.engine, text, arguments.text_tokens, load));
  WEFT_TRY(const Distributions after,
           distributions(arguments.out, arguments.engine, text, arguments.text_tokens, load));
  const Divergence found = divergence(before, after);
  char line[256];
  std::snprintf(line, sizeof line,
                "over %zu tokens: Kullback-Leibler divergence %.5f nats on average, %.4f at most; the likeliest token "
                "is the same at %.1f %%; perplexity %.3f, before %.3f\n",
                before.ids.size(), found.mean, found.largest, 100 * found.same_top, found.perplexity,
                divergence(before, before).perplexity);
  print_out(line);
  return {};
}

// A folder in compressed-tensors' form.
Status write_quantized_folder(const Arguments& arguments, const EngineLoader& load) {
  WEFT_TRY(const RecordedPlan recorded, record_plan(arguments.model, arguments.engine));
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint,
           Checkpoint::open(arguments.model, arguments.engine.load_mode));
  QuantizeOptions options{.bits = arguments.bits, .progress = terminal_progress()};
  if (!arguments.calibration_file.empty()) {
    WEFT_TRY(options.importance, calibrate(arguments, load));
  }
  WEFT_TRY(const QuantizeReport report, quantize_checkpoint(*checkpoint, recorded.plan, arguments.out, options));
  char line[256];
  std::snprintf(line, sizeof line, "%d matrices in %d bits, %.1f MB of weights instead of %.1f\n", report.matrices,
                arguments.bits, static_cast<double>(report.bytes_after) / 1e6,
                static_cast<double>(report.bytes_before) / 1e6);
  print_out(line);
  if (!arguments.calibration_file.empty()) print_out(std::to_string(report.calibrated) + " of them calibrated\n");
  for (const std::string& name : report.kept) print_out("kept as it is: " + name + "\n");
  return {};
}

}  // namespace

Status quantize_command(const Arguments& arguments, const EngineLoader& load) {
  if (arguments.engine.quantize != Quantize::none)
    return fail(Code::invalid_argument, "--quantize is for weights while they are loaded; --bits says what is written");
  std::string text;  // before all the work
  if (!arguments.text_file.empty()) {
    WEFT_TRY(text, read_file(arguments.text_file));
    if (text.empty()) return fail(Code::invalid_argument, arguments.text_file, " is empty");
  }
  const bool gguf = !arguments.gguf_type.empty() || arguments.out.ends_with(".gguf");
  WEFT_RETURN_IF_ERROR(gguf ? write_quantized_gguf(arguments) : write_quantized_folder(arguments, load));
  return text.empty() ? Status() : print_divergence(arguments, text, load);
}

}  // namespace weft
