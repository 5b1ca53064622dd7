// Scoring without generation: what goes in (a text, a pair of texts, tokens) and what comes out of the head, by its
// kind.
#pragma once

#include <cstdint>
#include <vector>

#include "api/engine.h"
#include "api/image_prompt.h"
#include "base/json.h"
#include "core/step.h"
#include "plan/plan.h"

namespace weft {

class Tokenizer;

struct ScorePrompt {
  std::vector<int32_t> tokens;
  std::vector<int32_t> types;  // of the tokens; empty: zeros
};

// The types of a request's tokens and, for a pair of texts, the tokens themselves; `tokens` are those of the single
// text. Errors: a pair or types for a model without them, types of another length or outside of the model's.
Result<ScorePrompt> score_prompt(const Request& request, std::vector<int32_t> tokens, const Tokenizer* tokenizer,
                                 const Plan& plan);

// token_type_ids for a model without token types may only say what follows from the prompt: 1 where features of an
// image stand, else 0 (Gemma 3's processor makes them). Anything else is invalid_argument.
Status check_image_types(const Request& request, const ImagePrompt& prompt, const Plan& plan);

// Which rows of the head's output a score of this kind needs.
LogitRows score_rows(HeadKind head);

// The tensors of `weft score` (docs/contract.md) from the head's rows. `separator`: the token after which a process
// reward model rates a step, or -1.
ScoreResult score_result(const std::vector<int32_t>& tokens, std::vector<float> rows, int cols, HeadKind head,
                         int32_t separator);

// What the drafts' model makes of a prompt of so many tokens: "draft_logits" and "draft_hidden", or per depth of
// multi-token prediction "mtp_logits", "mtp2_logits", ... Row i belongs to the target's row i; rows that would need
// tokens behind the prompt are left out where these are not known.
void add_draft_scores(ScoreResult& result, DraftMethod method, const std::vector<RowResult::DraftScores>& pieces,
                      int tokens);

// Adds pixel_values (pixel_values_videos) and image_features to a result, once the features are there.
void add_images(ScoreResult& result, const MediaProcessor& processor, const ImagePrompt& images);

// The class names of config.json's id2label, in the order of the ids; empty if there are none.
std::vector<std::string> label_names(const Json& config);

}  // namespace weft
