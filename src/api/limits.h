// What one request may ask for, checked before the work is done: one table, from which come the options of the command
// line (apps/arguments_engine.cc), the defaults, and docs/limits.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace weft {

struct RequestLimits {
  static RequestLimits none();  // all of them 0
  int64_t json_bytes = int64_t{96} << 20;
  int64_t prompts = 1024;
  int64_t choices = 128;
  int64_t sequences = 4096;
  int64_t prompt_bytes = int64_t{16} << 20;
  int64_t prompt_tokens = int64_t{8} << 20;
  int64_t list_items = int64_t{1} << 19;
  int64_t bad_words = 8192;
  int64_t bad_word_bytes = int64_t{256} << 10;
  int64_t stop_strings = 64;
  int64_t stop_bytes = int64_t{256} << 10;
  int64_t guide_bytes = int64_t{512} << 10;
  int64_t template_bytes = int64_t{256} << 10;
  int64_t logits = int64_t{1} << 24;
  int64_t answer_bytes = int64_t{256} << 20;
  int64_t request_bytes = int64_t{256} << 20;
};

struct RequestLimit {
  int64_t RequestLimits::*member;
  const char* flag;  // of the command line
  bool bytes;        // else a number of things
  const char* what;  // "prompts of a completion": what the limit is of
  int status;        // of an answer to a request beyond it
};
// In the order of docs/limits.md.
std::span<const RequestLimit> request_limits();

// ok, or the error for `amount` of what the limit `member` bounds; 0 is no limit. The message names the amount, the
// limit and its option. `field`: of the request.
Status check_limit(const RequestLimits& limits, int64_t RequestLimits::*member, int64_t amount,
                   const std::string& field);

}  // namespace weft
