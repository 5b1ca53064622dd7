// The library's front door: load a model, send requests, receive events. Everything else (HTTP, commands) is built on
// this.
//
//   auto engine = Engine::load("SmolLM2-135M-Instruct", options);
//   engine->submit(request, [](const Event& event) { ... });
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "api/options.h"
#include "base/json.h"
#include "base/result.h"
#include "base/stop_flag.h"
#include "core/adapters.h"
#include "core/finish_reason.h"
#include "core/metrics.h"
#include "core/op_times.h"
#include "core/sampling_params.h"
#include "core/step.h"
#include "forms/answer_format.h"

namespace weft {

class Checkpoint;
class Tokenizer;

// A constraint on the generated text; at most one kind.
struct GuideSpec {
  enum class Kind : uint8_t { none, json_object, json_schema, regex, grammar, choice, structural_tag };
  Kind kind = Kind::none;
  std::string text;                  // schema as JSON text, pattern, grammar or tag description
  std::vector<std::string> choices;  // of kind choice
};

// Beam search instead of sampling. n of the `width` hypotheses are the choices, the best first; they come when the
// search is over. A choice's logprobs are those that the search added up: of the whole vocabulary, after penalties and
// masks.
enum class EarlyStopping : uint8_t { no, yes, never };  // see api/beam_search.h
struct BeamSpec {
  int width = 1;
  float length_penalty = 1;  // score = sum of logprobs / length^length_penalty
  EarlyStopping early_stopping = EarlyStopping::no;
};

struct Request {
  std::string id;  // for messages and metrics; unique among running requests is not required

  // Exactly one of the three. `prompt` is encoded with special tokens parsed and, with add_special_tokens, the model's
  // BOS rule.
  std::optional<std::string> prompt;
  std::optional<std::vector<int32_t>> prompt_token_ids;
  std::optional<Json> messages;  // chat: rendered with the model's template
  bool add_special_tokens = true;
  std::optional<std::string> text_pair;                // classifiers: the second text
  std::optional<std::vector<int32_t>> token_type_ids;  // classifiers, with prompt_token_ids
  std::vector<std::string> images;                     // URLs or files, in the order of the placeholders
  std::vector<std::vector<std::string>> videos;        // frames of each video
  bool local_files = false;                            // images may be paths (the command line's), not only URLs
  // Of the chat template.
  Json tools;                                // array or null
  Json chat_template_kwargs;                 // object or null
  std::optional<std::string> chat_template;  // instead of the model's
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  // What render_chat() made of the messages, if the caller has asked for it already: it is not rendered again.
  std::optional<std::string> rendered;

  SamplingParams sampling;        // seed is ignored here, see below
  std::optional<int> max_tokens;  // absent: what fits in the context
  std::optional<uint64_t> seed;   // absent: random (reported in the result)
  int n = 1;
  int best_of = 0;  // 0: n
  std::optional<BeamSpec> beams;
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  // names of those whose text stays with skip_special_tokens: marks of tool calls
  std::vector<std::string> kept_special_tokens;
  // Of a chat with a model that thinks, the guide holds behind the thinking (docs/contract.md).
  GuideSpec guide;
  std::string lora;  // the adapter's name (EngineOptions::lora, Engine::load_adapter()); empty: the model as it is
  std::string cache_salt;
  // Addresses of servers that may compute the prompt (EngineOptions::kv_transfer of theirs), the best first. Where none
  // of them does, it is computed here: the answer is the same.
  std::vector<std::string> context_servers;
  int priority = 35;  // 0..100, of its blocks and, in a full queue, of itself
  // Seconds that it may take from submit() to its last event; then it ends with an error (deadline_exceeded). 0: as
  // AdmissionLimits::request_timeout_s says, which also holds beside this.
  double timeout_s = 0;
  // Who sent it: requests of different clients take turns (docs/contract-engine.md). Any text; empty: nobody's.
  std::string client;
  // Set once nobody needs the answer: preparing the request then ends with an error. Null: it is always needed.
  std::shared_ptr<const StopFlag> stop_flag;
};

// A token's logprob with the text of the alternatives left to the caller (Tokenizer::token_text).
struct TokenInfo {
  int32_t token = 0;
  std::optional<float> logprob;
  int rank = 0;  // 1: the most likely token; 0: not known
  std::vector<TokenLogprob> top;
};

struct Usage {
  int prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0, draft_tokens = 0, accepted_tokens = 0;
  int reasoning_tokens = 0;  // of the completion, counted by the server
};

// Something happened to one choice of a request. `text` and `tokens` are what is new since the last event; text never
// ends in half a character or in what may become a stop string.
struct Event {
  int choice = 0;
  std::string text;
  std::vector<TokenInfo> tokens;
  std::vector<float> logits;  // with generation_logits: [tokens, vocab], what each token was chosen from
  FinishReason finish = FinishReason::none;
  // Which stop string or stop token ended it (null for an end-of-sequence token of the model).
  Json stop_reason;
  // Once per request, with its first event: the prompt's tokens (logprobs where prompt_logprobs was asked for), and
  // with context_logits [prompt tokens, vocab].
  std::shared_ptr<const std::vector<TokenInfo>> prompt;
  std::shared_ptr<const std::vector<float>> prompt_logits;
  // With the request's last event (last_of_request): the numbers of the whole request and the seed that was used.
  bool last_of_request = false;
  Usage usage;
  uint64_t seed = 0;
  std::vector<std::string> warnings;  // likewise with the last: what of the guide's schema is not enforced
  std::optional<Error> error;         // finish == error
};

// What `weft score` returns for one request: tensors by name ("input_ids", "logits", "reward", ...).
struct ScoreTensor {
  std::vector<int64_t> shape;
  std::variant<std::vector<float>, std::vector<int64_t>> data;
};
struct ScoreResult {
  std::map<std::string, ScoreTensor> tensors;
};

// What a rank of this process holds.
struct RankInfo {
  int rank = 0;
  int64_t weight_bytes = 0;  // that it alone has; what ranks share counts for the first of them
  int64_t kv_bytes_per_token = 0;
  double load_seconds = 0;
};

struct ModelInfo {
  std::string name;  // folder or file name without extension
  std::string path;
  std::string architecture;  // config.json's
  int vocab_size = 0;
  int max_seq_len = 0;  // in force
  int64_t parameters = 0;
  int64_t weight_bytes = 0;  // in memory, packed
  // Of the routed experts' matrices, how much of the two above; a token goes through expert_share of them (chosen /
  // all).
  int64_t expert_parameters = 0, expert_bytes = 0;
  double expert_share = 1;
  // that a prompt's token is multiplied with: no embeddings, no head, of experts the share
  double prompt_parameters = 0;
  int64_t kv_bytes_per_token = 0;
  int64_t kv_cache_bytes = 0;
  std::string dtype, isa;
  int threads = 0;
  int rank_count = 1;           // in all processes
  std::vector<RankInfo> ranks;  // of this process
  bool generative = true;       // false: classifier or reward model
  bool has_chat_template = false;
  bool takes_images = false;
  // classifiers: names of the classes, in order (config.json's id2label); may be empty
  std::vector<std::string> labels;
};

// What has become of requests, and their tokens. Totals since the start.
struct RequestMetrics {
  int64_t entered = 0, finished = 0, failed = 0, cancelled = 0;
  int64_t prompt_tokens = 0, generation_tokens = 0, cached_tokens = 0;  // of requests that have ended
};

// Counters and gauges, read at any time.
struct EngineMetrics {
  RequestMetrics requests;
  CoreMetrics core;
  GrammarCacheMetrics grammars;  // zeros without a tokenizer
};

// A block entered the index of the KV cache, or left it. Applied in order to an empty set of (home, group, hash), the
// events give the set of the blocks that a prompt can find now.
struct KvCacheEvent {
  uint64_t id = 0;      // counts up by one from 0
  bool stored = false;  // else removed
  int group = 0;        // layers of one kind
  // 64 hexadecimal digits; the parent is the block before or the root of the salt (stored only)
  std::string hash, parent_hash;
  std::vector<int32_t> tokens;  // of the block (stored only)
  int home = 0;                 // whose cache it is, with attention data parallelism
};
struct KvCacheEvents {
  std::vector<KvCacheEvent> events;
  uint64_t lost = 0;     // events in front of them that did not fit into the buffer
  uint64_t next_id = 0;  // of the event behind those listed
  int homes = 1;         // caches that there are
};

// The names of the blocks that a prompt has in the KV cache (cache/block_key.h), as in KvCacheEvent::hash.
struct PromptBlocks {
  int tokens = 0;                 // of the prompt
  std::vector<std::string> keys;  // of its whole blocks, in order; none where the model keeps no cache
};

// A prompt that does not fit, in the words that clients of OpenAI's API look for (LangChain does), and whether an error
// is that one. `field` is the one that holds the prompt.
Error context_exceeded(int64_t prompt_tokens, int64_t limit, std::string field);

// Where the answer to a chat begins; `rendered` is render_chat()'s text.
Thinking thinking_of(const AnswerFormat& format, const Request& request, std::string_view rendered);

// An architecture that this build runs.
struct SupportedArchitecture {
  std::string name;      // config.json's architectures[0]
  std::string gives;     // "text", "classes of a text or a pair", ...
  std::string example;   // a published checkpoint
  std::string features;  // what sets it apart
};
std::vector<SupportedArchitecture> supported_architectures();

// What the KV cache holds for one token while every layer keeps it; windows and chunks make it less for long sequences.
struct CacheShape {
  int64_t values_per_token = 0;
  int64_t int8_bytes_per_token = 0;  // with --kv-cache-dtype int8, scales included
  int layers = 0, context = 0;
};
// Errors: those of building the model's plan, an unknown architecture for one.
Result<CacheShape> cache_shape(const Checkpoint& checkpoint);

using RequestId = uint64_t;
// Called on the engine thread, or on the thread that cancels the request, by one of them at a time; must return quickly
// and not throw. A sink may submit, and may cancel requests, its own too.
using EventSink = std::function<void(const Event&)>;
using ScoreSink = std::function<void(Result<ScoreResult>)>;

// Loading progress: done and total bytes. May be called from any thread.
using Progress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

class Engine {
 public:
  // `model` is a folder with a Hugging Face checkpoint or a GGUF file. Errors: what is wrong with the checkpoint or an
  // option that cannot be honoured.
  static Result<std::unique_ptr<Engine>> load(const std::string& model, const EngineOptions& options,
                                              const Progress& progress = {});
  virtual ~Engine() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const EngineOptions& options() const = 0;
  virtual const Tokenizer* tokenizer() const = 0;  // null if the checkpoint has none
  // Sampling defaults: generation_config.json's where it says something (and the option of that name does not forbid
  // it), else the API's (temperature 1, top_p 1).
  virtual const SamplingParams& default_sampling() const = 0;

  // Renders a chat request's messages to text (also for `weft run --verbose` and tests).
  virtual Result<std::string> render_chat(const Request& request) const = 0;
  // How the answers to a chat request are to be read: from its template, or as the options reasoning_parser and
  // tool_call_parser say.
  virtual AnswerFormat answer_format(const Request& request) const = 0;
  // The prompt's tokens as the model will see them.
  virtual Result<std::vector<int32_t>> prompt_tokens(const Request& request) const = 0;

  // The text of ids together (/detokenize, echoed prompts), and the bytes that one token adds to a text (logprobs; may
  // be half a character). Empty for ids outside the vocabulary and without a tokenizer.
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
  virtual std::string token_bytes(int32_t id) const = 0;

  // Starts a generation. Any thread. Events follow until one has last_of_request. An error returned here means that no
  // event will come; resource_exhausted is the queue's (AdmissionLimits). Requests submitted between hold() and
  // release() enter the engine together.
  virtual Result<RequestId> submit(Request request, EventSink sink) = 0;
  // Full-sequence outputs of the head: logits, class logits, rewards.
  virtual Result<RequestId> submit_score(Request request, ScoreSink sink) = 0;
  // Stops a request; its sink gets events with finish == cancelled, from this call unless one is being delivered. So
  // the caller holds no lock that the sink takes. Unknown and finished ids are ignored. Any thread.
  virtual void cancel(RequestId id) = 0;
  virtual void hold() = 0;
  virtual void release() = 0;

  // An error (unavailable) once nothing can be computed any more, since ranks in other processes were lost. Any thread.
  virtual Status health() const = 0;
  // Whether it gets on. Any thread; takes no lock, and nor does health(), so that both answer when nothing else does.
  virtual EngineWatch watch() const = 0;
  // In how many seconds a request that the queue refused may be sent again, by how the queue moves; at least 1.
  virtual int retry_seconds() const { return 1; }
  virtual EngineMetrics metrics() const = 0;
  // Where the time of steps went since the start, in decode steps or in the others. Empty unless
  // EngineOptions::measure_ops.
  virtual std::vector<OpTime> op_times(bool decode) const = 0;
  // Takes the events of the cache's index. An error if EngineOptions::kv_cache_events is 0. Any thread.
  virtual Result<KvCacheEvents> take_kv_cache_events() = 0;
  // The events from id `after` on, at most `limit` of them, as far as they are kept: as many as kv_cache_events for
  // each home. Takes nothing away, so there may be several readers. `after` beyond the next event to come is an empty
  // answer with that event's id.
  virtual Result<KvCacheEvents> read_kv_cache_events(uint64_t after, size_t limit) = 0;

  // ---- Adapters. Any thread.
  // Reads an adapter and gives it a name that requests choose it by (Request::lora), until it is unloaded; requests
  // that run with it go on. Errors: unsupported unless LoraOptions::allow_loading; not_found; what is wrong with the
  // files, with tensor and file; resource_exhausted.
  virtual Status load_adapter(const std::string& name, const std::string& path) = 0;
  virtual Status unload_adapter(const std::string& name) = 0;
  virtual bool has_adapter(const std::string& /*name*/) const { return false; }
  virtual std::vector<AdapterInfo> adapters() const { return {}; }  // by name

  // ---- Deployments of several servers (docs/serving-at-scale.md). Any thread.
  // Whoever has an equal identity has an equal model, computed in the same way: blocks of its cache fit here.
  virtual std::string identity() const = 0;
  // "HOST:PORT" where other servers get blocks of this one's cache; empty: nowhere.
  virtual std::string transfer_address() const = 0;
  // What the blocks of the request's prompt are called. Images are decoded for it.
  virtual Result<PromptBlocks> block_keys(const Request& request) const = 0;
  // The recorded step plan as text (`weft plan`).
  virtual std::string plan_text() const = 0;
};

}  // namespace weft
