/* The C interface of logits processors: code of your own that changes the logits of a generated token before the
 * sampler sees them.
 *
 * A plugin is a shared object that exports one function, weft_logits_plugin(), which returns a table of processors.
 * weft loads it with
 *
 * weft serve MODEL --logits-processor ./my_processors.so
 *
 * and a request selects processors by name, with parameters, to be applied in this order:
 *
 * "logits_processors": [{"name": "ban_tokens", "params": {"tokens": [7, 9]}}]
 *
 * Place in the order of the sampler: after the model and before everything else (logit_bias, allowed and bad tokens,
 * grammar, min_tokens, penalties, temperature, filters). Logprobs of mode "raw" are those of the model, before any
 * processor. Under beam search processors get logprobs (each row shifted by a constant), as in Hugging Face's
 * generate().
 *
 * The one rule: what a processor does to a row must be a function of the row's logits, its tokens and its parameters
 * alone. A step may be computed again (after a preemption the sequence gets a new processor from create(), and its
 * next row has all tokens so far), positions may be evaluated that are thrown away (speculation), and rows of other
 * sequences come and go. So keep nothing between calls but what can be computed from `tokens` (a cache is fine).
 * Then a request's answer does not depend on what else is running.
 *
 * examples/logits_processor/ has a plugin to begin with. The interface is plain C and holds no C++ types; it stays
 * as it is for one value of WEFT_LOGITS_ABI, and a plugin of another value is refused when it is loaded. / */
#ifndef WEFT_LOGITS_PROCESSOR_H
#define WEFT_LOGITS_PROCESSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_LOGITS_ABI 1u

/* One sequence at the position of its next token. Pointers are valid during the call. */
typedef struct weft_logits_row {
  void* processor; /* what create() made for this sequence */
  float* logits; /* [vocab_size], finite; changed in place. -INFINITY forbids a token; NaN and +INFINITY fail the row */
  const int32_t* tokens; /* [token_count]: the prompt, then the tokens generated so far */
  int64_t token_count;
  int64_t prompt_count; /* the first this many are the prompt */
  int32_t vocab_size;
  int32_t status;    /* out: 0 (as it comes) or an error; then the row's request fails, and no other */
  char* error;       /* out, with status: a message of at most error_size - 1 bytes and its 0 */
  size_t error_size; /* at least 256 */
} weft_logits_row;

typedef struct weft_logits_processor {
  const char* name; /* as requests select it; unique among all loaded plugins */

  /* Makes the processor of one sequence from the request's "params": JSON text, "null" where there are none. 0, or
   * an error with a message for the user. It is called when a request arrives, to check it (an error is then a 400),
   * and again whenever its sequence starts or resumes. Any thread, several at once. */
  int32_t (*create)(const char* params, int32_t vocab_size, void** processor, char* error, size_t error_size);

  /* Exactly one of the two is set. apply:       one row. Several threads at once, but never two for one sequence.
   * apply_batch: all rows of a step that selected this processor, once per step, by one thread; the others wait. For
   * work that is cheaper together. Which rows come together must not matter for what happens to each. */
  void (*apply)(weft_logits_row* row);
  void (*apply_batch)(weft_logits_row* rows, size_t count);

  void (*destroy)(void* processor);
} weft_logits_processor;

typedef struct weft_logits_plugin_table {
  uint32_t abi; /* WEFT_LOGITS_ABI; first in every version */
  uint32_t processor_count;
  const weft_logits_processor* processors;
} weft_logits_plugin_table;

/* The plugin's one export. The table lives as long as the plugin is loaded; it is never unloaded while a processor
 * lives. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const weft_logits_plugin_table*
weft_logits_plugin(void);

#ifdef __cplusplus
}
#endif

#endif
