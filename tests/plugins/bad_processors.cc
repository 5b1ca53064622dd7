// A plugin that misbehaves in every way that the interface lets it, for the tests.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "weft/logits_processor.h"

namespace {

int32_t create(const char*, int32_t, void** processor, char*, size_t) {
  *processor = nullptr;
  return 0;
}

int32_t refuse_without_reason(const char*, int32_t, void**, char*, size_t) { return 7; }

int64_t generated(const weft_logits_row* row) { return row->token_count - row->prompt_count; }

void fail_at_third(weft_logits_row* row) {
  if (generated(row) < 2) return;
  row->status = 1;
  std::snprintf(row->error, row->error_size, "no third token");
}

// Half of the rows fail, by their prompt's length.
void fail_odd_prompts(weft_logits_row* rows, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (rows[i].prompt_count % 2 == 0) continue;
    rows[i].status = 1;
    std::memset(rows[i].error, 'x', rows[i].error_size);  // no 0 at the end
  }
}

void throw_at_third(weft_logits_row* row) {
  if (generated(row) >= 2) throw std::runtime_error("out of luck");
}

void nan_at_third(weft_logits_row* row) {
  if (generated(row) >= 2) row->logits[3] = NAN;
}

void infinite(weft_logits_row* rows, size_t count) {
  for (size_t i = 0; i < count; ++i) rows[i].logits[0] = INFINITY;
}

void forbid_all(weft_logits_row* row) {
  for (int32_t i = 0; i < row->vocab_size; ++i) row->logits[i] = -INFINITY;
}

const weft_logits_processor kProcessors[] = {
    {"fail_at_third", create, fail_at_third, nullptr, nullptr},
    {"fail_odd_prompts", create, nullptr, fail_odd_prompts, nullptr},
    {"throw_at_third", create, throw_at_third, nullptr, nullptr},
    {"nan_at_third", create, nan_at_third, nullptr, nullptr},
    {"infinite", create, nullptr, infinite, nullptr},
    {"forbid_all", create, forbid_all, nullptr, nullptr},
    {"refuse", refuse_without_reason, forbid_all, nullptr, nullptr},
};
#ifdef WRONG_ABI
const weft_logits_plugin_table kTable = {WEFT_LOGITS_ABI + 1, 7, kProcessors};
#elif defined(NO_APPLY)
const weft_logits_processor kIncomplete = {"half", create, nullptr, nullptr, nullptr};
const weft_logits_plugin_table kTable = {WEFT_LOGITS_ABI, 1, &kIncomplete};
#else
const weft_logits_plugin_table kTable = {WEFT_LOGITS_ABI, 7, kProcessors};
#endif

}  // namespace

#ifndef NO_ENTRY
const weft_logits_plugin_table* weft_logits_plugin(void) { return &kTable; }
#else
extern "C" __attribute__((visibility("default"))) const void* something_else() { return &kTable; }
#endif
