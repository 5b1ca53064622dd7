// Drafts without a model: what followed the last tokens when they stood in the text before (prompt lookup), and, if
// asked for, in answers of sequences with the same salt that have ended. docs/speculation.md has the rules.
#pragma once

#include <memory>
#include <vector>

#include "core/speculation.h"
#include "spec/answer_store.h"
#include "spec/drafter.h"
#include "spec/ngram_index.h"

namespace weft {

class NgramDrafter : public Drafter {
 public:
  // Tokens of ended answers that are kept, of all salts together.
  static constexpr size_t kSharedTokens = size_t{1} << 20;

  // Of the options the ngram_ ones count; 1 <= ngram_min <= ngram_max <= NgramIndex::kLongestMatch.
  explicit NgramDrafter(const SpeculationOptions& options, size_t shared_tokens = kSharedTokens);

  void open(Slot slot, const std::array<uint64_t, 4>& salt) override;
  void close(Slot slot, std::span<const int32_t> tokens, int prompt_tokens) override;
  // Tokens that were there at the last call since open() must be the same again. Allocates only when the text has
  // outgrown the slot's index, which then doubles; that costs as much as indexing the whole text.
  void propose(const DraftContext& context, int most, std::vector<int32_t>& drafts) override;

 private:
  struct Text {
    NgramIndex index;
    size_t indexed = 0;  // tokens whose place is in the index
    std::array<uint64_t, 4> salt{};
  };
  Text& text_of(Slot slot);
  static void catch_up(Text& text, std::span<const int32_t> tokens);
  static NgramIndex::Matches find(const Text& text, std::span<const int32_t> tokens);

  const int shortest_, longest_;
  std::vector<Text> slots_;
  std::unique_ptr<AnswerStore> answers_;  // null: not asked for
};

}  // namespace weft
