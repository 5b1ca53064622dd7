// `weft quantize`: a checkpoint with weights of 8 or 4 bits from one with floats.
#include <cstdio>

#include "api/recorded_plan.h"
#include "base/files.h"
#include "divergence.h"
#include "plan/quantize_checkpoint.h"
#include "terminal.h"

namespace weft {
namespace {

// The distributions of the written model against those of the one it is from, over a text.
Status print_divergence(const Arguments& arguments, const EngineLoader& load) {
  WEFT_TRY(const std::string text, read_file(arguments.text_file));
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

}  // namespace

Status quantize_command(const Arguments& arguments, const EngineLoader& load) {
  if (arguments.engine.quantize != Quantize::none)
    return fail(Code::invalid_argument, "--quantize is for weights while they are loaded; --bits says what is written");
  if (!arguments.gguf_type.empty() || arguments.out.ends_with(".gguf")) {
    WEFT_RETURN_IF_ERROR(write_quantized_gguf(arguments));
    return arguments.text_file.empty() ? Status() : print_divergence(arguments, load);
  }
  WEFT_TRY(const RecordedPlan recorded, record_plan(arguments.model, arguments.engine));
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint,
           Checkpoint::open(arguments.model, arguments.engine.load_mode));
  WEFT_TRY(const QuantizeReport report, quantize_checkpoint(*checkpoint, recorded.plan, arguments.out,
                                                            {.bits = arguments.bits, .progress = terminal_progress()}));
  char line[256];
  std::snprintf(line, sizeof line, "%d matrices in %d bits, %.1f MB of weights instead of %.1f\n", report.matrices,
                arguments.bits, static_cast<double>(report.bytes_after) / 1e6,
                static_cast<double>(report.bytes_before) / 1e6);
  print_out(line);
  for (const std::string& name : report.kept) print_out("kept as it is: " + name + "\n");
  return arguments.text_file.empty() ? Status() : print_divergence(arguments, load);
}

}  // namespace weft
