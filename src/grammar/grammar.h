// Guided decoding: which tokens may come next so that the text stays inside a JSON schema, a regular expression, a
// grammar or a list of choices. llguidance does the work behind bridge/: an Earley parser over derivatives of regular
// expressions walks a trie of the vocabulary, so there is no table per grammar and vocabulary, and a first mask is
// ready within milliseconds.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "forms/reasoning.h"

struct WeftTokenizer;
struct WeftGrammarFactory;
struct WeftGrammar;

namespace weft {

class StopFlag;

struct GrammarSpec {
  enum class Kind : unsigned char {
    json_object,     // any JSON object; `text` is not used
    json_schema,     // `text`: the schema as JSON
    regex,           // `text`: a regular expression that the whole answer matches
    ebnf,            // `text`: GBNF / EBNF ("root ::= ...") or Lark ("start: ...")
    choice,          // `choices`: the answer is one of them, to the letter
    structural_tag,  // `text`: JSON with "format" (xgrammar's tree), or "structures" and "triggers" (the older form)
  };
  Kind kind = Kind::json_object;
  std::string text;
  std::vector<std::string> choices;
  // JSON kinds: white space between tokens of the text. False: at most one space or a line break with its indentation.
  bool compact_json = false;
  // Where the answer begins. The grammar holds behind "</think>"; inside the thinking all text is allowed, but no
  // special token and no end of the answer.
  Thinking thinking = Thinking::none;
  // JSON schemas: a keyword that cannot be enforced is an error; otherwise it becomes a warning.
  bool strict_schemas = false;

  bool operator==(const GrammarSpec&) const = default;
};

struct GrammarLimits {
  size_t text_bytes = 1u << 20;  // size of a schema, expression or grammar
  int nesting = 128;             // of JSON in a schema, and of groups in an expression or grammar
  uint64_t parser_items = 50'000;
  uint64_t lexer_states = 250'000;
  uint64_t lexer_cost = 1'000'000;  // cost of building the expressions of one grammar
  size_t memory = 256u << 20;       // bytes of heap that a compilation may take at its peak
  // Processor time of one fill, accept or may_end, which ends up to 20 ms later; ten times as much for the mask that is
  // tried when it is compiled.
  uint64_t step_ms = 50;
};

// The state of one answer. One thread at a time; independent of the factory's life. A call that takes more than
// GrammarLimits::step_ms fails, and so does every call after it.
class Grammar {
 public:
  ~Grammar();
  Grammar(const Grammar&) = delete;
  Grammar& operator=(const Grammar&) = delete;

  // Sets bit i%32 of word i/32 for every token id i that may come next, and clears all others, up to the end of
  // `bitmask` (rows past the vocabulary are never allowed). End ids are allowed exactly if the answer may stop here.
  // Once the grammar has finished, only the end ids are allowed.
  Status fill(std::span<uint32_t> bitmask);
  // Advances by a token; invalid_argument if the grammar does not allow it (the state is then unchanged).
  Status accept(int32_t token);
  // An end id was accepted, or nothing but an end id can follow.
  bool is_finished() const;
  // An end id would be accepted now.
  bool may_end() const;
  // Takes back the last n accepted tokens (an accepted end id counts as one).
  Status rollback(size_t n);
  std::unique_ptr<Grammar> clone() const;
  // Heap memory when it was compiled; masks let it grow.
  size_t bytes() const { return report_->bytes; }
  // What of the schemas is not enforced, such as "uniqueItems at #/properties/tags is not enforced".
  const std::vector<std::string>& warnings() const { return report_->warnings; }

 private:
  friend class GrammarFactory;
  struct Report {
    size_t bytes = 0;
    std::vector<std::string> warnings;
  };
  Grammar(WeftGrammar* state, std::shared_ptr<const Report> report) : state_(state), report_(std::move(report)) {}
  WeftGrammar* state_;
  std::shared_ptr<const Report> report_;
};

// One per tokenizer and model. Thread-safe. The trie is built at the first compile (about 0.1 s per 100,000 tokens) or
// by warm_up.
class GrammarFactory {
 public:
  // `tokenizer`: Tokenizer::handle(). `vocab_rows`: rows of the model's logits. `end_ids`: the ids that end an answer.
  GrammarFactory(std::shared_ptr<const WeftTokenizer> tokenizer, int32_t vocab_rows, std::vector<int32_t> end_ids,
                 GrammarLimits limits = {});
  ~GrammarFactory();

  Status warm_up() const;
  // invalid_argument for what is wrong and unsupported for what is not enforced; the message names the keyword or the
  // place. resource_exhausted for more memory than the limit. Takes milliseconds; a hostile grammar runs into the
  // limits within a few seconds. `processor_seconds`, if given, becomes the processor time that it took. `stop`, if
  // given, is looked at between its parts: cancelled or deadline_exceeded once it is set.
  Result<std::unique_ptr<Grammar>> compile(const GrammarSpec& spec, double* processor_seconds = nullptr,
                                           const StopFlag* stop = nullptr) const;

 private:
  Result<const WeftGrammarFactory*> factory() const;

  std::shared_ptr<const WeftTokenizer> tokenizer_;
  int32_t vocab_rows_;
  std::vector<int32_t> end_ids_;
  GrammarLimits limits_;
  mutable std::mutex mutex_;
  mutable WeftGrammarFactory* factory_ = nullptr;
};

}  // namespace weft
