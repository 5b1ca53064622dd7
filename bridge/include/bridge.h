/* The C interface of the Rust crate in bridge/. Only .cc files of src/text, src/grammar, src/media and
   src/checkpoint include it.
   Texts are UTF-8 with their size, not ended by a zero. A function that can fail takes a WeftError, which it fills
   in when it returns false or null; the message then belongs to the caller (weft_bytes_free). Panics never cross:
   they are errors too. `stop` is null, or a byte that another thread makes something else than 0 once the work is
   needed no more: the function then fails with WEFT_STOPPED within some milliseconds. Objects may be used from several
   threads at once if the pointer is const, and from one at a time otherwise. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint8_t* data;
  size_t size, capacity;
} WeftBytes;
typedef struct {
  uint32_t* data;
  size_t size, capacity;
} WeftIds;
enum {
  WEFT_INVALID_ARGUMENT = 1,
  WEFT_UNSUPPORTED = 2,
  WEFT_RESOURCE_EXHAUSTED = 3,
  WEFT_INTERNAL = 4,
  WEFT_STOPPED = 5, /* by the caller's stop flag */
  WEFT_TOO_LARGE = 6
};
typedef struct {
  int32_t code;
  WeftBytes message;
} WeftError;
void weft_bytes_free(WeftBytes);
void weft_ids_free(WeftIds);

/* Tokenizers. */
typedef struct WeftTokenizer WeftTokenizer;
typedef struct WeftDetokenizer WeftDetokenizer;
/* A list of strings, one behind the other; ends[i] is the end of string i. */
typedef struct {
  const char* text;
  const uint64_t* ends;
  size_t count;
} WeftStrings;
/* Metadata tokenizer.ggml.*; absent ids and flags are -1, absent arrays have no elements. */
typedef struct {
  const char* model;
  size_t model_size;
  const char* pre;
  size_t pre_size;
  WeftStrings tokens, merges;
  const float* scores;
  size_t score_count;
  const int32_t* types;
  size_t type_count;
  int64_t bos, eos, unknown, separator, cls, mask;
  int32_t add_bos, add_eos, add_space_prefix, remove_extra_spaces;
  const char* charsmap;
  size_t charsmap_size;
} WeftGgufVocabulary;
/* From tokenizer.json and tokenizer_config.json (whose added tokens the first may lack; may be empty). */
WeftTokenizer* weft_tokenizer_from_json(const char* json, size_t size, const char* config, size_t config_size,
                                        WeftError*);
/* From tokenizer.model (SentencePiece), or with `tekken` from tekken.json. */
WeftTokenizer* weft_tokenizer_from_pieces(const char* file, size_t size, bool tekken, const char* config,
                                          size_t config_size, WeftError*);
/* The token at the beginning of a text, or with `end` at its end, that such a file names; -1: none. */
int64_t weft_tokenizer_end_token(const WeftTokenizer*, bool end);
WeftTokenizer* weft_tokenizer_from_gguf(const WeftGgufVocabulary*, WeftError*);
/* tokenizer.json for a vocabulary of GGUF ("gpt2" and "llama"). */
bool weft_gguf_to_tokenizer_json(const WeftGgufVocabulary*, WeftBytes* json, WeftError*);
/* The opposite: {"model", "pre", "tokens", "token_type", "merges" | "scores", "add_space_prefix", "starts_with",
   "ends_with"} as JSON; the last two are ids, or null, of what is put around a text. `rows`: tokens up to so many are
   filled up. */
bool weft_gguf_from_tokenizer_json(const char* json, size_t size, size_t rows, WeftBytes* vocabulary, WeftError*);
void weft_tokenizer_free(WeftTokenizer*);
uint32_t weft_tokenizer_end_id(const WeftTokenizer*); /* one more than the largest id */
/* `most`: WEFT_TOO_LARGE once there are more ids than that, without encoding the rest. */
bool weft_tokenizer_encode(const WeftTokenizer*, const char* text, size_t size, bool add_special, bool parse_special,
                           size_t most, WeftIds*, WeftError*, const uint8_t* stop);
/* `texts`: the first text and the second right behind it. */
bool weft_tokenizer_encode_pair(const WeftTokenizer*, const char* texts, size_t first_size, size_t second_size,
                                bool add_special, bool parse_special, WeftIds* ids, WeftIds* type_ids, WeftError*,
                                const uint8_t* stop);
bool weft_tokenizer_decode(const WeftTokenizer*, const uint32_t* ids, size_t count, bool skip_special, WeftBytes*,
                           WeftError*);
WeftBytes weft_tokenizer_token_bytes(const WeftTokenizer*, uint32_t id);          /* empty for an unknown id */
WeftBytes weft_tokenizer_token_text(const WeftTokenizer*, uint32_t id);           /* empty for an unknown id */
int64_t weft_tokenizer_find(const WeftTokenizer*, const char* text, size_t size); /* -1: none */
bool weft_tokenizer_is_special(const WeftTokenizer*, uint32_t id);
WeftDetokenizer* weft_detokenizer_new(bool skip_special);
void weft_detokenizer_keep(WeftDetokenizer*, uint32_t id); /* a special token whose text stays */
void weft_detokenizer_free(WeftDetokenizer*);
WeftBytes weft_detokenizer_push(WeftDetokenizer*, const WeftTokenizer*, uint32_t id);
WeftBytes weft_detokenizer_finish(WeftDetokenizer*, const WeftTokenizer*); /* as new afterwards */

/* Chat templates. `fuel`: instructions, and data at 64 bytes each. `context`: a JSON object, the template's
   variables, with "__now_unix_s" for a fixed time. `continue_final`: cut behind the last message's text. */
typedef struct WeftTemplate WeftTemplate;
WeftTemplate* weft_template_new(const char* source, size_t size, uint64_t fuel, size_t output_limit, WeftError*);
void weft_template_free(WeftTemplate*);
bool weft_template_render(const WeftTemplate*, const char* context, size_t size, bool continue_final, WeftBytes*,
                          WeftError*, const uint8_t* stop);

/* Guided decoding. `rows`: rows of the logits. Kinds: 0 JSON object, 1 JSON schema, 2 regular expression, 3 EBNF or
   Lark, 4 choices (a JSON list of strings), 5 structural tag (JSON). Thinking: 0 none, 1 the answer may open it, 2
   it begins inside it; the grammar holds from "</think>" on. `strict`: keywords of schemas that cannot be enforced are
   errors, else warnings. A factory may be used by several threads, a grammar by one. */
typedef struct WeftGrammarFactory WeftGrammarFactory;
typedef struct WeftGrammar WeftGrammar;
typedef struct {
  size_t text_bytes, nesting, parser_items, lexer_states;
  uint64_t lexer_cost;
  size_t memory;
  uint64_t step_ns; /* processor time of one call of mask, accept or may_end; the grammar is of no use after it */
} WeftGrammarLimits;
typedef struct {
  size_t bytes; /* heap memory of the new grammar */
  uint64_t processor_ns;
  WeftBytes warnings; /* one a line; the caller frees them, also after an error */
} WeftGrammarReport;
WeftGrammarFactory* weft_grammar_factory_new(const WeftTokenizer*, uint32_t rows, const uint32_t* ends, size_t count,
                                             const WeftGrammarLimits*, WeftError*);
void weft_grammar_factory_free(WeftGrammarFactory*);
WeftGrammar* weft_grammar_new(const WeftGrammarFactory*, uint32_t kind, const char* text, size_t size, bool compact,
                              uint32_t thinking, bool strict, const WeftGrammarLimits*, WeftGrammarReport*, WeftError*,
                              const uint8_t* stop);
void weft_grammar_free(WeftGrammar*);
WeftGrammar* weft_grammar_clone(const WeftGrammar*);
bool weft_grammar_mask(WeftGrammar*, uint32_t* out, size_t words, WeftError*);
bool weft_grammar_accept(WeftGrammar*, uint32_t token, WeftError*);
bool weft_grammar_rollback(WeftGrammar*, size_t tokens, WeftError*);
bool weft_grammar_is_finished(const WeftGrammar*);
bool weft_grammar_may_end(WeftGrammar*);

/* Images: 8-bit RGB, row by row, alpha dropped, not yet turned; `exif` is the TIFF block of the image's EXIF data,
   or empty. */
enum WeftImageFormat { WEFT_IMAGE_PNG = 1, WEFT_IMAGE_GIF = 2, WEFT_IMAGE_WEBP = 3 };
typedef struct {
  uint64_t max_pixels;
  uint32_t max_side;
  uint64_t max_bytes;
} WeftImageLimits; /* max_bytes: all that decoding holds */
typedef struct {
  uint32_t width, height;
  WeftBytes rgb, exif, xmp;
} WeftImage;
bool weft_image_decode(uint32_t format, const uint8_t* data, size_t size, const WeftImageLimits*, WeftImage*,
                       WeftError*, const uint8_t* stop);
/* The size that the file's header tells, checked against the limits as decoding does it; nothing is decoded.
   `bytes`: what decoding holds at once. */
bool weft_image_size(uint32_t format, const uint8_t* data, size_t size, const WeftImageLimits*, uint32_t* width,
                     uint32_t* height, uint64_t* bytes, WeftError*);

/* One HTTP request without following redirects. The body is read for status 200 only. Only public addresses are
   connected to, unless `private_addresses`. */
typedef struct {
  uint64_t max_bytes;
  uint32_t timeout_ms;
  bool private_addresses;
} WeftFetchLimits;
typedef struct {
  uint32_t status;
  WeftBytes location, body;
} WeftFetched;
bool weft_http_get(const char* url, size_t size, const WeftFetchLimits*, WeftFetched*, WeftError*, const uint8_t* stop);
bool weft_address_is_public(const char* address, size_t size); /* "192.0.2.1", "::1"; false for what is no address */

/* Regular expressions for names of modules, in Python's syntax. `whole`: of the whole name (re.fullmatch), else from
   its start on (re.match). Errors are WEFT_UNSUPPORTED: no expression, one that is too large, a match that takes too
   many steps. */
typedef struct WeftPattern WeftPattern;
WeftPattern* weft_pattern_new(const char* pattern, size_t size, bool whole, WeftError*);
bool weft_pattern_matches(const WeftPattern*, const char* name, size_t size, bool* matches, WeftError*);
void weft_pattern_free(WeftPattern*);

#ifdef __cplusplus
}
#endif
