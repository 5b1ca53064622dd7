// What a request asks of the sampler and of the end of generation. Plain data, shared by every folder; checked once, by
// validate() in sampling/, before it reaches the engine. All choices of a request share one object; what is a choice's
// own, its seed, goes beside it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace weft {

// A logits processor that was loaded with the engine, selected by name, with its parameters as JSON text.
struct ProcessorChoice {
  std::string name, params = "null";
};

struct SamplingParams {
  // Order of application: logits processors, grammar mask and allowed / bad / biased tokens, min_tokens, penalties,
  // temperature, then min_p, top_k, top_p on the probabilities.
  float temperature = 1.0f;  // 0: greedy
  int top_k = 0;             // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float top_p_decay = 1.0f, top_p_min = 1e-6f;              // top_p shrinks by the factor each token, down to top_p_min
  int top_p_reset_id = -1;                                  // this token resets it
  float repetition_penalty = 1.0f;                          // prompt and output, each id once
  float presence_penalty = 0.0f, frequency_penalty = 0.0f;  // output only
  int prompt_ignore_length = 0;  // this many tokens at the start of the prompt do not count for the repetition penalty
  int no_repeat_ngram_size = 0;

  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;       // empty: all
  std::vector<std::vector<int32_t>> bad_words;  // token sequences whose last token is forbidden after the others

  std::vector<ProcessorChoice> logits_processors;  // applied in this order

  // The end. Stop strings are matched on text, above the scheduler.
  int max_tokens = 16;                  // generated tokens
  int min_tokens = 0;                   // stop ids are masked before this many generated tokens
  std::vector<int32_t> stop_token_ids;  // of the request
  std::vector<int32_t> eos_token_ids;   // of the model; not consulted with ignore_eos
  bool ignore_eos = false;

  // -1: none. 0: the chosen token's only. k: and the k best.
  int logprobs = -1;
  int prompt_logprobs = -1;
  bool processed_logprobs = false;  // of the distribution that was sampled from, instead of the raw logits
  // return the model's logits of the prompt, and of the generated tokens
  bool context_logits = false, generation_logits = false;
  // Speculation: drafts of a step at most; 0: none; -1: as the engine chooses.
  int max_draft_tokens = -1;
  // Beam search: no sampling, but this many best continuations; see sample_beam() in sampling/.
  int beam_candidates = 0;
};

}  // namespace weft
