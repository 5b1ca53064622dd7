// The two messages between the scheduler and the workers, plain data both: StepBatch says what one step computes,
// StepResult what came out. Nothing else passes between them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/media_prompt.h"
#include "core/sampling_params.h"
#include "core/shared_tokens.h"

namespace weft {

// Index of a sequence's state on the workers (sampler state, last sampled token). At most max_batch_size are open.
using Slot = int32_t;

enum class TokenSource : uint8_t {
  host,  // StepBatch::tokens
  slot,  // the token that the slot's last step sampled (the host may not know it yet)
};

enum class LogitRows : uint8_t { none, first, last, all };

// With attention data parallelism every sequence has a home: the rank that computes its attention and keeps its cache.
// Blocks of different homes are different memory, numbered independently; what names a slot names its home too. Without
// it there is one home, 0.

// Opens a slot for a sequence that starts (or resumes after a preemption: then `output` is not empty).
struct SlotOpen {
  Slot slot = 0;
  std::shared_ptr<const SamplingParams> sampling;
  uint64_t seed = 0;  // the sequence's own
  SharedTokens prompt;
  std::vector<int32_t> output;               // tokens generated before the slot was opened
  std::vector<int32_t> token_types;          // of the prompt (encoders); empty: zeros
  std::shared_ptr<const MediaPrompt> media;  // null: text alone
  int adapter = -1;                          // its number in the AdapterTable; -1: the model as it is
  int max_outputs = 0;                       // the sequence ends with so many tokens of output
  std::array<uint64_t, 4> salt{};            // equal where sequences may know of each other
  int home = 0;                              // of the slot until it is closed
};

struct BlockCopy {
  int group = 0;
  int32_t from = 0, to = 0;
  int tokens = 0;  // the first this many tokens of the block
  int home = 0;
};

// The block's content is worthless and its memory counts no more: it may be given back to the system until it is used
// again.
struct BlockRelease {
  int group = 0;
  int32_t block = 0;
  int home = 0;
};

// From this step on, block number `number` (position / tokens_per_block) of the slot's sequence is `block`.
struct TableEntry {
  int group = 0;
  Slot slot = 0;
  int32_t number = 0, block = 0;
};

// A worker executes steps in the order of submission, and within a step: closes, opens, copies in their order,
// releases, table entries, rows.
//
// Pipeline stages have several steps in flight: a step enters the first stage when the one before has left it, whose
// tokens are sampled behind the last stage only. What a step needs of earlier ones it says: it begins once all steps up
// to `after` are finished, that is, sampled. So slots that a step closes have no row in an unfinished one, and the last
// token and the drafts of a row that goes on from them are there. Copies and releases are each stage's own, when the
// step gets there: stages behind it may still read these blocks for earlier steps. With one stage every step is
// finished before the next begins.
//
// Speculation: a row of one token may have the worker check drafts behind it, those that the worker proposed at the end
// of the sequence's last step (RowResult::drafts). Where each row then begins is known to the worker alone, from what
// it has sampled; `first` is the least that it can be. A row with nothing left to compute (the sequence has reached
// max_outputs) is left out.
//
// Block tables live on the workers, one per slot and cache group, and a step brings what has changed in them: new
// blocks, and blocks that were replaced (two sequences had computed the same one). So a step of decode rows is small
// however long the sequences are. Nothing is ever taken out of a table: whatever a row reads was sent since its slot
// was opened, and entries that no row reads any more (behind a window, of a closed slot) are overwritten when their
// place is needed again.
struct StepBatch {
  // One sequence's share of the step: tokens at positions first, first + 1, ..., first + tokens - 1.
  struct Row {
    Slot slot = 0;
    int first = 0, tokens = 0;
    TokenSource source = TokenSource::host;
    LogitRows logits = LogitRows::none;  // rows of the head's output that are wanted
    bool sample = false;                 // sample a token from the last row's logits
    bool prompt_logprobs = false;        // logprobs of the prompt's tokens from these rows (logits == all)
    bool context_logits = false;         // the rows themselves go to RowResult::outputs
    bool generation_logits = false;      // and then the row that the token is sampled from
    int guide = -1;   // index into `masks` of the grammar's mask for the sampled token; those behind drafts follow it
    int drafts = 0;   // checked behind the row's token, at most
    int propose = 0;  // drafts for the next step, made behind this one; at most
  };
  uint64_t step = 0;
  uint64_t after = 0;                  // this step begins when that one is finished; 0: at any time
  std::vector<SlotOpen> opens;         // before the step
  std::vector<Slot> closes;            // before the opens
  std::vector<BlockCopy> copies;       // before the step
  std::vector<BlockRelease> releases;  // after the copies
  std::vector<TableEntry> entries;     // before the rows
  std::vector<Row> rows;               // by home, 0's first
  std::vector<int32_t> tokens;         // of the rows with source host, in order of rows
  int total_tokens() const {
    int sum = 0;
    for (const Row& row : rows) sum += row.tokens + row.drafts;
    return sum;
  }
  void clear() {
    after = 0;
    opens.clear(), closes.clear(), copies.clear(), releases.clear(), entries.clear(), rows.clear(), tokens.clear();
  }
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  int rank = 0;  // 1: no token is before it in the order (descending logprob, then ascending id); 0: not known
  bool operator==(const TokenLogprob&) const = default;
};

struct RowResult {
  Slot slot = 0;
  std::vector<int32_t> tokens;  // sampled in this step: accepted drafts and one more; empty if the row did not sample
  int drafted = 0;              // drafts that were checked
  std::vector<int32_t> drafts;  // proposed for the sequence's next step
  // Per sampled token, when asked for: its logprob first, then the k best in descending order (ties: lower id first).
  std::vector<std::vector<TokenLogprob>> logprobs;
  // Per row of a prompt_logprobs row: the same for the prompt's next token.
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  std::vector<float> outputs;  // rows of the head's output as they are: context_logits, then generation_logits
  // Of a row that scores, where the drafts of a model are asked for: per depth what it makes of the row's tokens.
  struct DraftScores {
    int depth = 0;     // of multi-token prediction, from 0 on
    int position = 0;  // of the target's row that the first one belongs to
    int rows = 0;
    std::vector<float> logits, states;  // [rows, ...]
  };
  std::vector<DraftScores> draft_scores;
  // not empty: this row failed (numbers that are not finite, a failing processor); others are fine
  std::string error;
  Code error_code = Code::internal;  // of it; resource_exhausted: memory ran out
};

struct StepResult {
  uint64_t step = 0;
  std::vector<RowResult> rows;  // as StepBatch::rows
};

}  // namespace weft
