// /v1/classify, /v1/score and /v1/reward: several inputs, each with one result that is not text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/engine.h"
#include "base/json.h"
#include "server/http.h"

namespace weft {

enum class ScoringKind : unsigned char {
  classify,  // {"input"} -> label and probabilities of each input
  score,     // {"text_1", "text_2"} -> how well the second text answers the first, 0 to 1
  reward,    // {"input"} or {"messages"} -> a reward, and probabilities of steps where the model has them
};

// The requests that a body asks for; errors name the field.
Result<std::vector<Request>> read_scoring(const Json& body, ScoringKind kind);

// One item of the answer's "data" from what the engine returned.
Result<Json> scoring_item(ScoringKind kind, size_t index, const ScoreResult& result, const ModelInfo& info);

// Submits the requests and answers the exchange. On a handler thread; `done` is called with the status in work posted
// to the exchange.
void start_scoring(Engine& engine, std::shared_ptr<Exchange> exchange, ScoringKind kind, std::vector<Request> requests,
                   Json head, std::function<void(int status)> done);

}  // namespace weft
