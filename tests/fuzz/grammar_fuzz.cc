// Schemas, regular expressions, grammars, choices and structural tags: what compiles gives masks; a token of a mask is
// accepted, one that is not is refused and changes nothing; taking back tokens gives the same mask again. The first
// byte says what it is, the second which tokens are taken.
#include <random>

#include "grammar/grammar.h"
#include "target.h"
#include "text/tokenizer.h"

using namespace weft;

namespace {

constexpr int kSpareRows = 3;  // rows of the logits beyond the vocabulary
constexpr int kSteps = 16;

struct Vocabulary {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<GrammarFactory> factory;
  size_t rows = 0;
};

const Vocabulary& vocabulary() {
  static const Vocabulary made = [] {
    const auto read = Tokenizer::from_folder(std::string(WEFT_TEST_DATA) + "/golden/llama-3.1");
    require(read.ok(), "the tokenizer of the tests loads");
    Vocabulary v{*read, nullptr, static_cast<size_t>((*read)->vocab_size() + kSpareRows)};
    GrammarLimits limits;
    limits.memory = 64u << 20;
    v.factory = std::make_unique<GrammarFactory>((*read)->handle(), static_cast<int32_t>(v.rows),
                                                 std::vector<int32_t>{(*read)->eos_id().value_or(0)}, limits);
    return v;
  }();
  return made;
}

using Mask = std::vector<uint32_t>;

bool allows(const Mask& mask, size_t id) { return mask[id / 32] >> (id % 32) & 1; }

std::vector<int32_t> allowed(const Mask& mask) {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < mask.size() * 32; ++id)
    if (allows(mask, id)) ids.push_back(static_cast<int32_t>(id));
  return ids;
}

Mask empty_mask() { return Mask((vocabulary().rows + 31) / 32); }

// Returns false at the end of the answer, or where the grammar has reached a limit.
bool step(Grammar& grammar, std::minstd_rand& random) {
  Mask mask = empty_mask(), again = empty_mask();
  if (!grammar.fill(mask).ok()) return false;
  const std::vector<int32_t> ids = allowed(mask);
  for (const int32_t id : ids)
    require(id < vocabulary().tokenizer->vocab_size(), "rows beyond the vocabulary are never allowed");
  const auto refused = static_cast<int32_t>(random() % vocabulary().rows);
  if (!allows(mask, static_cast<size_t>(refused))) {
    require(!grammar.accept(refused).ok(), "what the mask forbids is refused");
    if (!grammar.fill(again).ok()) return false;
    require(mask == again, "a refused token changes nothing");
  }
  if (ids.empty() || grammar.is_finished()) return false;
  const int32_t token = ids[random() % ids.size()];
  const Status accepted = grammar.accept(token);
  require(accepted.ok() || accepted.error().code() != Code::invalid_argument, "what the mask allows is accepted");
  if (!accepted.ok()) return false;
  if (random() % 4 == 0 && !grammar.is_finished()) {
    if (!grammar.rollback(1).ok() || !grammar.fill(again).ok()) return false;
    require(mask == again, "taking back a token gives the mask before it");
    return grammar.accept(token).ok();
  }
  return !grammar.is_finished();
}

GrammarSpec spec_of(std::string text) {
  GrammarSpec spec;
  spec.kind = static_cast<GrammarSpec::Kind>(take_choice(text, 6));
  const unsigned how = take_choice(text, 256);
  spec.compact_json = how & 1, spec.thinking = static_cast<Thinking>(how / 2 % 3), spec.strict_schemas = how & 8;
  if (spec.kind != GrammarSpec::Kind::choice) return spec.text = std::move(text), spec;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    spec.choices.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return spec;
}

std::string seed(GrammarSpec::Kind kind, const std::string& text) {
  return std::string{static_cast<char>(kind), '\x10'} + text;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  using Kind = GrammarSpec::Kind;
  return {
      seed(Kind::json_object, ""),
      seed(Kind::json_schema,
           R"({"type":"object","properties":{"a":{"type":"integer","minimum":1,"maximum":99,"multipleOf":3},)"
           R"("b":{"type":"array","items":{"enum":["x","y",1,null]},"minItems":1,"maxItems":4},)"
           R"("c":{"type":"string","pattern":"^[a-z]{2,5}$","minLength":2}},"required":["a"],)"
           R"("additionalProperties":false})"),
      seed(Kind::json_schema,
           R"({"$defs":{"n":{"type":["object","null"],"properties":{"next":{"$ref":"#/$defs/n"}}}},)"
           R"("anyOf":[{"$ref":"#/$defs/n"},{"type":"string","format":"date-time"},{"const":{"k":[1,2.5e3]}}]})"),
      seed(Kind::json_schema, R"({"allOf":[{"type":"number","exclusiveMinimum":0.5},{"maximum":1e3}],"not":{}})"),
      seed(Kind::json_schema, R"({"type":"object","patternProperties":{"^x":{"type":"boolean"}},"minProperties":1})"),
      seed(Kind::regex, R"((?:\d{4}-\d\d|[a-c]+(x|yz)*?)\s?.{0,9}[^\n"])"),
      seed(Kind::ebnf, "root ::= item+ \"end\" | [0-9a-fA-F]{2,4}\nitem ::= \"(\" root \")\" ws\nws ::= [ \\t\\n]*\n"),
      seed(Kind::ebnf, "start: expr\nexpr: NUMBER (\"+\" expr)?\nNUMBER: /[0-9]+/\n%ignore \" \"\n"),
      seed(Kind::choice, "yes\nno\nmaybe so"),
      seed(Kind::structural_tag,
           R"({"type":"structural_tag","format":{"type":"triggered_tags","triggers":["<f="],"tags":[{"begin":"<f=a>",)"
           R"("content":{"type":"json_schema","json_schema":{"type":"object"}},"end":"</f>"}]}})"),
      seed(Kind::structural_tag,
           R"({"type":"structural_tag","structures":[{"begin":"<x>","schema":{"type":"integer"},"end":"</x>"}],)"
           R"("triggers":["<x"]})"),
  };
}
std::vector<std::string> fuzz_words() {
  return {"\"type\":",
          "\"properties\":",
          "\"$ref\":\"#\"",
          "\"anyOf\":[",
          "\"oneOf\":[",
          "\"items\":",
          "\"prefixItems\":[",
          "\"multipleOf\":0.01",
          "\"maxItems\":100000",
          "\"minLength\":5000",
          "\"maxLength\":1",
          "\"minimum\":-1e30",
          "\"pattern\":\"",
          "\"format\":\"uuid\"",
          "\"enum\":[",
          "\"const\":",
          "\"uniqueItems\":true",
          "{1000}",
          "{0,}",
          "(?=a)",
          "\\p{L}",
          "\\b",
          "(?i)",
          "[^]",
          "root ::= ",
          " | ",
          "%json {",
          "%regex {",
          "start: ",
          "~2..5",
          "\"type\":\"sequence\"",
          "\"elements\":[",
          "\"type\":\"any_text\"",
          "\\1",
          ".*"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const GrammarSpec spec = spec_of(copy_of(data, size));
  const auto compiled = vocabulary().factory->compile(spec);
  if (!compiled.ok()) return require_message(compiled.error()), 0;
  const auto copy = (*compiled)->clone();
  Mask before = empty_mask(), after = empty_mask();
  const bool filled = copy->fill(before).ok();
  std::minstd_rand random(data[1] + 1u);
  for (int i = 0; i < kSteps && step(**compiled, random); ++i) {
  }
  if (filled && copy->fill(after).ok()) require(before == after, "a copy is independent");
  return 0;
}
