#include "runtime/same_tokenizer.h"

#include <algorithm>
#include <map>

#include "base/files.h"
#include "base/json.h"

namespace weft {
namespace {

using Tokens = std::map<int64_t, std::string>;

std::string tokenizer_file(const Checkpoint& checkpoint) { return checkpoint.path() + "/tokenizer.json"; }

void add(const Json* id, const Json* text, Tokens& tokens) {
  if (id && text && id->is_integer() && text->is_string()) tokens[id->as_integer()] = text->as_string();
}

// model.vocab is an object (token: id), or for Unigram a list of [token, score].
Tokens tokens_of(const Json& file) {
  Tokens tokens;
  const Json* model = file.find("model");
  const Json* vocab = model ? model->find("vocab") : nullptr;
  if (vocab && vocab->is_object())
    for (const auto& [text, id] : vocab->members())
      if (id.is_integer()) tokens[id.as_integer()] = text;
  if (vocab && vocab->is_array())
    for (size_t i = 0; i < vocab->items().size(); ++i)
      if (const Json& entry = vocab->items()[i];
          entry.is_array() && !entry.items().empty() && entry.items()[0].is_string())
        tokens[static_cast<int64_t>(i)] = entry.items()[0].as_string();
  if (const Json* added = file.find("added_tokens"); added && added->is_array())
    for (const Json& entry : added->items()) add(entry.find("id"), entry.find("content"), tokens);
  return tokens;
}

Result<Tokens> read_tokens(const Checkpoint& checkpoint) {
  if (const GgufTokenizer* gguf = checkpoint.gguf_tokenizer()) {
    Tokens tokens;
    for (size_t i = 0; i < gguf->tokens.size(); ++i) tokens[static_cast<int64_t>(i)] = std::string(gguf->tokens[i]);
    return tokens;
  }
  if (!is_file(tokenizer_file(checkpoint))) return Tokens();
  WEFT_TRY(const std::string text, read_file(tokenizer_file(checkpoint), FileLimit::tokenizer));
  auto file = parse_json(text);
  if (!file.ok()) return std::move(file).error().with(tokenizer_file(checkpoint));
  return tokens_of(*file);
}

// Most often the one is a copy of the other.
bool same_file(const Checkpoint& a, const Checkpoint& b) {
  if (a.is_gguf() || b.is_gguf()) return false;
  const auto first = read_file(tokenizer_file(a), FileLimit::tokenizer),
             second = read_file(tokenizer_file(b), FileLimit::tokenizer);
  return first.ok() && second.ok() && *first == *second;
}

}  // namespace

Status check_same_tokens(const Checkpoint& draft, const Checkpoint& target) {
  if (same_file(draft, target)) return {};
  WEFT_TRY(const Tokens mine, read_tokens(draft));
  WEFT_TRY(const Tokens theirs, read_tokens(target));
  for (const auto& [id, text] : mine) {
    const auto found = theirs.find(id);
    if (found != theirs.end() && found->second != text)
      return fail(Code::invalid_argument, "its tokenizer is another one: token ", id, " is ", json_quote(text),
                  ", in the target's ", json_quote(found->second));
  }
  return {};
}

}  // namespace weft
