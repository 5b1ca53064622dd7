// Sends requests to an engine and gathers everything that comes back, for tests that compare whole answers.
#pragma once

#include <string>
#include <vector>

#include "api/engine.h"

namespace weft::testing {

struct Choice {
  std::vector<TokenInfo> tokens;
  std::string text;
  std::vector<float> logits;
  FinishReason finish = FinishReason::none;
  Json stop_reason;

  std::vector<int32_t> ids() const;
};

struct Answer {
  std::vector<Choice> choices;
  std::vector<TokenInfo> prompt;  // as the engine reports it with the first event
  std::vector<float> prompt_logits;
  Usage usage;
  std::string error;  // of submit or of a failed choice; empty: none

  // All that a client could see and that must not depend on anything but the request: ids, texts, reasons, and logprobs
  // as the bits of the floats. Two answers are equal iff these are. Cached tokens and the like are left out.
  std::string exact_text() const;
};

struct AskOptions {
  bool together = true;     // all requests enter the engine at once; else each is submitted as fast as the caller can
  bool backwards = false;   // last request first
  int cancelled_mates = 0;  // so many requests besides, cancelled at their first token
};

// One answer per request, in order. Returns when all have ended, cancelled mates included.
std::vector<Answer> ask(Engine& engine, const std::vector<Request>& requests, const AskOptions& options = {});
Answer ask(Engine& engine, const Request& request);
// Scores all requests at once.
std::vector<Result<ScoreResult>> score(Engine& engine, const std::vector<Request>& requests);

}  // namespace weft::testing
