// tokenizer.json, tokenizer.model (SentencePiece) and tekken.json: the first byte says which. What loads encodes to ids
// of its vocabulary, and its detokenizer gives piece by piece what decode() gives at once.
#include "target.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

using namespace weft;

namespace {

constexpr const char* kNames[] = {"tokenizer.json", "tokenizer.model", "tekken.json"};

// A folder for each kind.
const FuzzFolder& folder() {
  static const FuzzFolder made;
  static const bool filled = [] {
    for (const char* name : kNames) std::filesystem::create_directories(made.file(std::string("of-") + name));
    return true;
  }();
  return (void)filled, made;
}

void check(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const auto ids = tokenizer->encode(text, {.add_special_tokens = special, .parse_special = special});
    if (!ids.ok()) {
      require_message(ids.error());
      continue;
    }
    require(ids->size() <= 16 * text.size() + 64, "a text has about as many tokens as bytes");
    for (const int32_t id : *ids) require(id >= 0, "ids are not negative");
    Detokenizer stream(tokenizer, special);
    std::string pieces;
    for (const int32_t id : *ids) pieces += stream.push(id);
    pieces += stream.finish();
    require(pieces == tokenizer->decode(*ids, special), "pieces together are the whole");
  }
}

std::string small_json(const char* model) {
  return std::string(
             R"({"version":"1.0","added_tokens":[{"id":5,"content":"<s>","single_word":false,"lstrip":false,)"
             R"("rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":)"
             R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+|\\d{1,3}"},)"
             R"("behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false}]},)"
             R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>",)"
             R"("type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":)"
             R"({"id":"<s>","ids":[5],"tokens":["<s>"]}}},"decoder":{"type":"ByteLevel"},"model":)") +
         model + "}";
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      '\0' + small_json(R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"H":4},"merges":["a b"]})"),
      '\0' + small_json(R"({"type":"WordPiece","unk_token":"a","continuing_subword_prefix":"##",)"
                        R"("max_input_chars_per_word":100,"vocab":{"a":0,"##b":1,"Hello":2}})"),
      '\0' + small_json(R"({"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["▁",-2.0],["a",-3.5]],)"
                        R"("byte_fallback":true})"),
      '\0' + seed_file("golden/llama-3.1/tokenizer.json"),
      '\0' + seed_file("golden/bert-wordpiece-gamma/tokenizer.json"),
      '\1' + seed_file("tokenizers/bpe-equal-scores/tokenizer.model"),
      '\1' + seed_file("tokenizers/unigram-unused/tokenizer.model"),
      '\1' + seed_file("tokenizers/bpe-nfkc-cf/tokenizer.model"),
      '\2' + seed_file("tokenizers/tekken/tekken.json"),
  };
}
std::vector<std::string> fuzz_words() {
  return {"\"type\":",       "\"vocab\":",
          "\"merges\":",     "\"Replace\"",
          "\"Strip\"",       "\"Metaspace\"",
          "\"Precompiled\"", "\"Prepend\"",
          "\"Lowercase\"",   "\"BertNormalizer\"",
          "\"Digits\"",      "\"ByteFallback\"",
          "\"Fuse\"",        "\"Regex\":\"(a+)+$\"",
          "\"Regex\":\"\"",  "\"content\":\"\"",
          "\"prepend\":",    "\"ignore_merges\":true",
          "\"unk_token\":",  "null",
          "4294967295",      "\"default_vocab_size\":",
          "\"rank\":"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string file = copy_of(data, size);
  const std::string name = kNames[take_choice(file, 3)];
  folder().put("of-" + name + "/" + name, file);
  const auto tokenizer = Tokenizer::from_folder(folder().file("of-" + name));
  if (!tokenizer.ok()) return require_message(tokenizer.error()), 0;
  const int32_t end = (*tokenizer)->vocab_size();
  require(end >= 0, "a vocabulary has a size");
  for (const std::string_view text :
       {std::string_view("Hello, world 123  \n\n ünïcödé 日本 <|x|> </s>"), std::string_view("a\0b", 3),
        std::string_view("   "), std::string_view(file).substr(0, 64)})
    check(*tokenizer, text);
  for (const int32_t id : {-1, 0, 1, end / 2, end - 1, end, INT32_MAX}) {
    (*tokenizer)->token_bytes(id), (*tokenizer)->is_special(id);
    const std::string text = (*tokenizer)->token_text(id);
    require((id >= 0 && id < end) || text.empty(), "ids outside of the vocabulary have no text");
  }
  return 0;
}
