// An example of a plugin, with two logits processors that take a list of token ids:
//
//   {"name": "ban_tokens", "params": {"tokens": [7, 9]}}     never generates these tokens; works row by row
//   {"name": "force_tokens", "params": {"tokens": [5, 6]}}   begins with exactly these; works on a whole step's rows
//
// README.md beside this file shows how to load and select them.
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "weft/logits_processor.h"

namespace {

struct TokenList {
  std::vector<int32_t> tokens;
};

const char* skip_space(const char* at) {
  while (std::isspace(static_cast<unsigned char>(*at))) ++at;
  return at;
}

// Reads {"tokens": [1, 2, ...]} and nothing else; a real plugin would use a JSON library. False: it is something else.
bool read_tokens(const char* at, std::vector<int32_t>& tokens) {
  for (const char* word : {"{", "\"tokens\"", ":", "["}) {
    at = skip_space(at);
    if (std::strncmp(at, word, std::strlen(word)) != 0) return false;
    at += std::strlen(word);
  }
  for (at = skip_space(at); *at != ']'; at = skip_space(at)) {
    if (!tokens.empty()) {
      if (*at != ',') return false;
      at = skip_space(at + 1);
    }
    char* end = nullptr;
    const long id = std::strtol(at, &end, 10);
    if (end == at || id < 0 || id > INT32_MAX) return false;
    tokens.push_back(static_cast<int32_t>(id));
    at = end;
  }
  at = skip_space(at + 1);
  return *at == '}' && *skip_space(at + 1) == 0;
}

int32_t create(const char* params, int32_t vocab_size, void** processor, char* error, size_t error_size) {
  TokenList list;
  if (!read_tokens(params, list.tokens)) {
    std::snprintf(error, error_size, "params must be {\"tokens\": [token ids]}");
    return 1;
  }
  for (const int32_t token : list.tokens) {
    if (token < vocab_size) continue;
    std::snprintf(error, error_size, "token %d is outside the vocabulary of %d", token, vocab_size);
    return 1;
  }
  *processor = new TokenList(std::move(list));
  return 0;
}

void destroy(void* processor) { delete static_cast<TokenList*>(processor); }

void ban(weft_logits_row* row) {
  for (const int32_t token : static_cast<const TokenList*>(row->processor)->tokens) row->logits[token] = -INFINITY;
}

// Which token comes next follows from how many there are, so nothing has to be remembered between the calls.
void force(weft_logits_row* rows, size_t count) {
  for (weft_logits_row* row = rows; row != rows + count; ++row) {
    const std::vector<int32_t>& tokens = static_cast<const TokenList*>(row->processor)->tokens;
    const int64_t generated = row->token_count - row->prompt_count;
    if (generated >= static_cast<int64_t>(tokens.size())) continue;
    for (int32_t token = 0; token < row->vocab_size; ++token)
      if (token != tokens[static_cast<size_t>(generated)]) row->logits[token] = -INFINITY;
  }
}

const weft_logits_processor kProcessors[] = {
    {"ban_tokens", create, ban, nullptr, destroy},
    {"force_tokens", create, nullptr, force, destroy},
};
const weft_logits_plugin_table kTable = {WEFT_LOGITS_ABI, 2, kProcessors};

}  // namespace

const weft_logits_plugin_table* weft_logits_plugin(void) { return &kTable; }
