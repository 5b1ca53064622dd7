#include "api/convert.h"

#include <cstdio>

#include "api/convert_check.h"
#include "api/gguf_items.h"
#include "api/text_side.h"
#include "base/file_descriptor.h"
#include "base/files.h"
#include "base/folder.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_file.h"
#include "checkpoint/gguf_folder.h"
#include "models/models.h"
#include "text/gguf_tokenizer_files.h"

namespace weft {
namespace {

std::optional<StorageType> storage_of(std::optional<DType> type) {
  if (!type) return std::nullopt;
  return *type == DType::f16 ? StorageType::f16 : *type == DType::bf16 ? StorageType::bf16 : StorageType::f32;
}

Result<ConvertReport> to_folder(const Checkpoint& gguf, const std::string& out, const ConvertOptions& options) {
  WEFT_TRY(NewFolder folder, NewFolder::make(out));
  const GgufTokenizer& tokenizer = *gguf.gguf_tokenizer();
  ConvertReport report;
  if (tokenizer.model.empty() || tokenizer.model == "none" || tokenizer.model == "no_vocab")
    report.notes.emplace_back("the file has no tokenizer, so the folder has none");
  else WEFT_RETURN_IF_ERROR(write_tokenizer_files(vocabulary_of(tokenizer), templates_of(tokenizer), out));
  WEFT_TRY(const GgufFolderReport written,
           write_gguf_folder(gguf, out, {.widen = storage_of(options.dtype), .progress = options.progress}));
  report.tensors = written.tensors, report.bytes = written.bytes;
  if (written.widened > 0)
    report.notes.push_back(std::to_string(written.widened) + " tensors that were stored in blocks are " +
                           name(*options.dtype) + " now");
  folder.keep();
  return report;
}

// That the file, which llama.cpp's names for things made, computes what the model computes.
Status check_written(const Plan& model, const std::string& path) {
  WEFT_TRY(const std::shared_ptr<const Checkpoint> written, Checkpoint::open(path));
  WEFT_TRY(const Plan plan, models::build_plan(HfConfig::of(*written)));
  std::vector<float> divisors;
  if (const TensorInfo* const factors = written->rope_factors()) {
    WEFT_TRY(divisors, read_all(*factors));
  }
  if (const auto difference = plan_difference(model, plan, divisors))
    return fail(Code::unsupported,
                "config.json says something that GGUF files of this architecture cannot: ", *difference);
  return {};
}

Result<ConvertReport> to_gguf(const Checkpoint& checkpoint, const std::string& out, const ConvertOptions& options) {
  const HfConfig config = models::text_config(HfConfig::of(checkpoint));
  WEFT_RETURN_IF_ERROR(config.status());
  WEFT_TRY(const Plan plan, models::build_plan(HfConfig::of(checkpoint)));
  ConvertReport report;
  WEFT_TRY(GgufExtras extras, gguf_extras(checkpoint, static_cast<size_t>(config.count("vocab_size"))));
  WEFT_TRY(WrittenGguf written,
           write_gguf_file(checkpoint, config, extras.items, out,
                           {.blocks = options.blocks, .threads = options.threads, .progress = options.progress}));
  WEFT_RETURN_IF_ERROR(check_written(plan, written.writer.temporary()));
  WEFT_RETURN_IF_ERROR(written.writer.publish());
  report.tensors = written.report.tensors, report.bytes = written.report.bytes, report.notes = extras.notes;
  report.encoded = written.report.encoded;
  for (const std::string& other : written.report.others) report.notes.push_back("stored otherwise: " + other);
  if (written.report.inexact_norms > 0)
    report.notes.push_back(std::to_string(written.report.inexact_norms) +
                           " norms are rounded: the file has 1 + w in float32, which cannot hold every w");
  if (!written.report.skipped.empty())
    report.notes.push_back(std::to_string(written.report.skipped.size()) +
                           " tensors for multi-token prediction are left out");
  return report;
}

}  // namespace

Result<ConvertReport> convert_model(const std::string& model, const std::string& out, const ConvertOptions& options) {
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::open(model, options.load_mode));
  if (options.blocks) {
    if (!out.ends_with(".gguf")) return fail(Code::invalid_argument, "--type is of GGUF files; OUT must end in .gguf");
    return to_gguf(*checkpoint, out, options);
  }
  if (checkpoint->is_gguf() && out.ends_with(".gguf"))
    return fail(Code::invalid_argument, model, " is a GGUF file already; OUT must be a folder");
  if (!checkpoint->is_gguf() && !out.ends_with(".gguf"))
    return fail(Code::invalid_argument, model, " is a folder with safetensors already; OUT must end in .gguf");
  if (!checkpoint->is_gguf() && options.dtype)
    return fail(Code::invalid_argument, "--dtype is for GGUF files, whose tensors may be stored in blocks; ", model,
                " is a folder");
  if (!checkpoint->is_gguf()) return to_gguf(*checkpoint, out, options);
  return to_folder(*checkpoint, out, options);
}

}  // namespace weft
