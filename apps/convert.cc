// `weft convert`: a model in another file format.
#include "api/convert.h"

#include <cstdio>

#include "checkpoint/gguf_blocks.h"
#include "commands.h"
#include "terminal.h"

namespace weft {

Status convert_command(const Arguments& arguments) {
  WEFT_TRY(const ConvertReport report, convert_model(arguments.model, arguments.out,
                                                     {.dtype = arguments.widen_to, .progress = terminal_progress()}));
  char line[128];
  std::snprintf(line, sizeof line, "%d tensors, %.1f MB\n", report.tensors, static_cast<double>(report.bytes) / 1e6);
  print_out(line);
  for (const std::string& note : report.notes) print_out(note + "\n");
  return {};
}

// `weft quantize` with a GGUF file as its result.
Status write_quantized_gguf(const Arguments& arguments) {
  const std::optional<StorageType> blocks = encoded_type(arguments.gguf_type);
  if (!blocks)
    return fail(Code::invalid_argument, arguments.out,
                " is to be a GGUF file: --type says what it stores (Q8_0, Q4_K "
                "or Q6_K), and --bits is of folders");
  ConvertOptions options{.blocks = blocks, .threads = arguments.engine.threads};
  options.load_mode = arguments.engine.load_mode, options.progress = terminal_progress();
  WEFT_TRY(const ConvertReport report, convert_model(arguments.model, arguments.out, options));
  char line[128];
  std::snprintf(line, sizeof line, "%d of %d tensors in blocks, %.1f MB\n", report.encoded, report.tensors,
                static_cast<double>(report.bytes) / 1e6);
  print_out(line);
  for (const std::string& note : report.notes) print_out(note + "\n");
  return {};
}

}  // namespace weft
