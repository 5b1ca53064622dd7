#include "grammar/grammar.h"

#include <sstream>

#include "base/bridge_call.h"

namespace weft {
namespace {

std::vector<std::string> take_lines(WeftBytes bytes) {
  std::vector<std::string> lines;
  std::istringstream text(bridge::take(bytes));
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

WeftGrammarLimits bridge_limits(const GrammarLimits& limits) {
  return {limits.text_bytes,         static_cast<size_t>(limits.nesting),
          limits.parser_items,       limits.lexer_states,
          limits.lexer_cost,         limits.memory,
          limits.step_ms * 1'000'000};
}

}  // namespace

Grammar::~Grammar() {
  if (state_) weft_grammar_free(state_);
}

Status Grammar::fill(std::span<uint32_t> bitmask) {
  WeftError error;
  if (weft_grammar_mask(state_, bitmask.data(), bitmask.size(), &error)) return {};
  return bridge::take(error);
}

Status Grammar::accept(int32_t token) {
  WeftError error;
  if (token >= 0 && weft_grammar_accept(state_, static_cast<uint32_t>(token), &error)) return {};
  if (token < 0) return fail(Code::invalid_argument, "token id ", token);
  return bridge::take(error);
}

bool Grammar::is_finished() const { return weft_grammar_is_finished(state_); }
bool Grammar::may_end() const { return weft_grammar_may_end(state_); }

Status Grammar::rollback(size_t n) {
  WeftError error;
  if (weft_grammar_rollback(state_, n, &error)) return {};
  return bridge::take(error);
}

std::unique_ptr<Grammar> Grammar::clone() const {
  std::unique_ptr<Grammar> clone(new Grammar(nullptr, report_));
  clone->state_ = weft_grammar_clone(state_);
  return clone;
}

GrammarFactory::GrammarFactory(std::shared_ptr<const WeftTokenizer> tokenizer, int32_t vocab_rows,
                               std::vector<int32_t> end_ids, GrammarLimits limits)
    : tokenizer_(std::move(tokenizer)), vocab_rows_(vocab_rows), end_ids_(std::move(end_ids)), limits_(limits) {}

GrammarFactory::~GrammarFactory() {
  if (factory_) weft_grammar_factory_free(factory_);
}

Result<const WeftGrammarFactory*> GrammarFactory::factory() const {
  const std::lock_guard lock(mutex_);
  if (!factory_) {
    const std::vector<uint32_t> ends(end_ids_.begin(), end_ids_.end());
    const WeftGrammarLimits limits = bridge_limits(limits_);
    WeftError error;
    factory_ = weft_grammar_factory_new(tokenizer_.get(), static_cast<uint32_t>(vocab_rows_), ends.data(), ends.size(),
                                        &limits, &error);
    if (!factory_) return bridge::take(error);
  }
  return static_cast<const WeftGrammarFactory*>(factory_);
}

Status GrammarFactory::warm_up() const {
  WEFT_TRY([[maybe_unused]] const WeftGrammarFactory* made, factory());
  return {};
}

Result<std::unique_ptr<Grammar>> GrammarFactory::compile(const GrammarSpec& spec, double* processor_seconds,
                                                         const StopFlag* stop) const {
  WEFT_TRY(const WeftGrammarFactory* made, factory());
  std::string text = spec.text;
  if (spec.kind == GrammarSpec::Kind::choice) {
    Json choices = Json::array();
    for (const std::string& choice : spec.choices) choices.push_back(choice);
    text = choices.dump();
  }
  const WeftGrammarLimits limits = bridge_limits(limits_);
  WeftError error;
  WeftGrammarReport report;
  WeftGrammar* state = weft_grammar_new(made, static_cast<uint32_t>(spec.kind), text.data(), text.size(),
                                        spec.compact_json, static_cast<uint32_t>(spec.thinking), spec.strict_schemas,
                                        &limits, &report, &error, stop ? stop->byte() : nullptr);
  const auto free_state = [](WeftGrammar* one) { weft_grammar_free(one); };
  std::unique_ptr<WeftGrammar, decltype(free_state)> owned(state);
  auto kept = std::make_shared<Grammar::Report>(Grammar::Report{report.bytes, take_lines(report.warnings)});
  if (processor_seconds) *processor_seconds = static_cast<double>(report.processor_ns) * 1e-9;
  if (!state) return bridge::take(error, stop);
  std::unique_ptr<Grammar> grammar(new Grammar(nullptr, std::move(kept)));
  grammar->state_ = owned.release();
  return grammar;
}

}  // namespace weft
