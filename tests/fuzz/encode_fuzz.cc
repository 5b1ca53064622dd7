// Texts through a real tokenizer's shape: ids of the vocabulary, the same text back from decode() and, piece by piece,
// from the detokenizer; any ids at all decode to UTF-8.
#include <algorithm>

#include "base/json.h"
#include "target.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

using namespace weft;

namespace {

std::shared_ptr<const Tokenizer> tokenizer() {
  static const auto read = Tokenizer::from_folder(std::string(WEFT_TEST_DATA) + "/golden/llama-3.1");
  require(read.ok(), "the tokenizer of the tests loads");
  return *read;
}

bool is_utf8(const std::string& text) {
  const auto read = parse_json(json_quote(text));  // json_quote replaces what is none
  return read.ok() && read->as_string() == text;
}

std::string in_pieces(const std::vector<int32_t>& ids, bool skip) {
  Detokenizer stream(tokenizer(), skip);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    require(is_utf8(piece), "a piece ends in no character");
    text += piece;
  }
  return text + stream.finish();
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {"Why is grass green? 12345 +-*/",
          "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
          "ünïcödé 日本語 \xf0\x9f\x98\x80\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9",
          "\t\t  \r\n\n\n   x  ",
          "don't I'LL we've",
          std::string("\0\1\2\x7f", 4)};
}
std::vector<std::string> fuzz_words() {
  return {"<|eot_id|>", "<|im_start|>", "<|", "|>", "'s", "\xcc\x81", "\xe2\x80\x8b", "\xef\xbb\xbf", " ", "\n"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = copy_of(data, size);
  for (const bool special : {false, true}) {
    const auto ids = tokenizer()->encode(text, {.add_special_tokens = special, .parse_special = special});
    require(ids.ok() == is_utf8(text), "what is UTF-8 is encoded, and nothing else");
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) require(id >= 0 && id < tokenizer()->vocab_size(), "an id is one of the vocabulary");
    require(ids->size() <= text.size() + 2, "no token is without a byte");
    for (const bool skip : {false, true})
      require(in_pieces(*ids, skip) == tokenizer()->decode(*ids, skip), "pieces together are the whole");
    if (!special) require(tokenizer()->decode(*ids, false) == text, "a byte-level vocabulary gives the text back");
  }
  std::vector<int32_t> ids;  // any
  for (size_t i = 0; i + 1 < size; i += 2) ids.push_back(static_cast<int16_t>(data[i] | data[i + 1] << 8));
  const std::string decoded = tokenizer()->decode(ids, false);
  require(is_utf8(decoded), "any ids decode to UTF-8");
  require(in_pieces(ids, false) == decoded, "pieces together are the whole, of any ids");
  return 0;
}
