// Parameters of logits processors, as a request brings them, through the C interface of a plugin (examples/
// logits_processor): a processor of a kind that is there, or an error about the field.
#include <cmath>

#include "base/json.h"
#include "runtime/logits_plugin.h"
#include "target.h"

using namespace weft;

namespace {

constexpr int kVocabulary = 64;

const ProcessorKinds& kinds() {
  static const auto loaded = load_logits_plugin(WEFT_TOKEN_LISTS);
  require(loaded.ok() && loaded->size() == 2, "the plugin of the examples loads");
  return *loaded;
}

void run(const NamedProcessor& one, const std::vector<int32_t>& tokens) {
  std::vector<float> logits(kVocabulary, 1);
  const SlotView view{tokens, 1};
  ProcessorRow row{logits, view, one.processor.get(), {}};
  if (one.kind->batched()) one.kind->process_rows({&row, 1});
  else row.status = one.processor->process(logits, view);
  require(row.status.ok(), "a processor that was made works");
  for (const float logit : logits) require(logit == 1 || logit == -INFINITY, "logits are kept or forbidden");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {R"([{"name":"ban_tokens","params":{"tokens":[1,2]}},{"name":"force_tokens","params":{"tokens":[5]}}])",
          R"([{"name":"ban_tokens","params":{"tokens":[]}}])",
          R"([{"name":"force_tokens","params":{"tokens":[63,64]}}])", R"([{"name":"none","params":null}])",
          R"([{"name":"ban_tokens"}])"};
}
std::vector<std::string> fuzz_words() {
  return {"\"params\":", "\"tokens\":[", "ban_tokens", "force_tokens", "-1", "63",      "64",
          "2147483648",  "1e3",          "null",       "{}",           "[]", "\\u0000", "\"x\""};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto list = parse_json(copy_of(data, size));
  if (!list.ok() || !list->is_array()) return 0;
  std::vector<ProcessorChoice> choices;
  for (const Json& item : list->items()) {
    const Json *name = item.find("name"), *params = item.find("params");
    if (name && name->is_string()) choices.push_back({name->as_string(), params ? params->dump() : "null"});
  }
  const auto made = create_processors(kinds(), choices, kVocabulary);
  if (!made.ok()) {
    require(made.error().param().starts_with("logits_processors["), "an error names the field");
    return require_message(made.error()), 0;
  }
  require(made->size() == choices.size(), "every choice is a processor");
  for (const NamedProcessor& one : *made)
    for (const std::vector<int32_t>& tokens : {std::vector<int32_t>{1}, {1, 5, 6}}) run(one, tokens);
  return 0;
}
