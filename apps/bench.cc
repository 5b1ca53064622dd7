// `weft bench`: speed of prefill (one prompt, one token) and of decode (batches of sequences, between their first and last token),
// with random prompts so that no cache helps.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "bench_prompts.h"
#include "terminal.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

struct Measured {
  int batch = 0;
  double first_token_s = 0;    // from the submission to the last sequence's first token
  double decode_s = 0;         // from there to the end
  int64_t decoded_tokens = 0;  // in that time
  int64_t steps = 0;
};

struct Progressing {
  std::mutex mutex;
  std::condition_variable finished;
  int started = 0, done = 0;
  int64_t tokens_after_start = 0;
  Clock::time_point all_started, last;
  std::optional<Error> error;
};

Result<Measured> measure(Engine& engine, Prompts& prompts, int batch, int prompt_tokens, int output_tokens) {
  const auto state = std::make_shared<Progressing>();
  const int64_t steps_before = engine.metrics().steps;
  const Clock::time_point begin = Clock::now();
  engine.hold();
  std::optional<Error> refused;
  for (int i = 0; i < batch && !refused; ++i) {
    Request request;
    request.prompt_token_ids = prompts.next(prompt_tokens);
    request.max_tokens = output_tokens;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    auto id = engine.submit(std::move(request), [state, batch, first = true](const Event& event) mutable {
      const std::lock_guard lock(state->mutex);
      state->last = Clock::now();
      if (state->started == batch) state->tokens_after_start += static_cast<int64_t>(event.tokens.size());
      if (first && !event.tokens.empty()) {
        first = false;
        if (++state->started == batch) state->all_started = state->last;
      }
      if (event.error) state->error = event.error;
      if (event.last_of_request && ++state->done == batch) state->finished.notify_all();
    });
    if (!id.ok()) refused = std::move(id).error();
  }
  engine.release();
  if (refused) return *refused;
  std::unique_lock lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done == batch; });
  if (state->error) return *state->error;
  Measured measured;
  measured.batch = batch;
  measured.first_token_s = std::chrono::duration<double>(state->all_started - begin).count();
  measured.decode_s = std::chrono::duration<double>(state->last - state->all_started).count();
  measured.decoded_tokens = state->tokens_after_start;
  measured.steps = engine.metrics().steps - steps_before;
  return measured;
}

double rate(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

// Weights that a token computes with.
double active_parameters(const ModelInfo& info) {
  return static_cast<double>(info.parameters) - static_cast<double>(info.expert_parameters) * (1 - info.expert_share);
}

// Bytes of weights that a step of so many tokens reads; of experts those that are chosen at all, if the router spreads evenly.
double step_bytes(const ModelInfo& info, int tokens) {
  const double untouched = std::pow(1 - info.expert_share, tokens);
  return static_cast<double>(info.weight_bytes) - static_cast<double>(info.expert_bytes) * untouched;
}

Json to_json(const Measured& m, const ModelInfo& info) {
  const double tokens_per_s = rate(static_cast<double>(m.decoded_tokens), m.decode_s);
  const double steps_per_s = tokens_per_s / m.batch;
  return Json::object({{"batch", m.batch},
                       {"first_token_s", m.first_token_s},
                       {"decode_tokens_per_s", tokens_per_s},
                       {"decode_step_ms", steps_per_s > 0 ? 1000 / steps_per_s : 0},
                       {"weight_gb_per_s", steps_per_s * step_bytes(info, m.batch) / 1e9}});
}

}  // namespace

Status bench_command(const Arguments& arguments, const EngineLoader& load) {
  if (arguments.details) return bench_details(arguments, load);
  const Clock::time_point begin = Clock::now();
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  const double load_s = std::chrono::duration<double>(Clock::now() - begin).count();
  const ModelInfo& info = engine->info();
  if (arguments.prompt_tokens + arguments.output_tokens > info.max_seq_len)
    return fail(Code::invalid_argument, "--prompt-tokens and --output-tokens together exceed the context of ", info.max_seq_len,
                " tokens");
  Prompts prompts(info.vocab_size);
  WEFT_TRY(const Measured warm_up, measure(*engine, prompts, 1, std::min(arguments.prompt_tokens, 32), 4));
  (void)warm_up;
  double best_prefill = 0;
  for (int i = 0; i < 3; ++i) {
    WEFT_TRY(const Measured one, measure(*engine, prompts, 1, arguments.prompt_tokens, 2));
    best_prefill = std::max(best_prefill, rate(arguments.prompt_tokens, one.first_token_s));
  }
  Json::Array decode;
  for (const int batch : arguments.batch_sizes) {
    WEFT_TRY(const Measured one, measure(*engine, prompts, batch, std::min(arguments.prompt_tokens, 128), arguments.output_tokens));
    decode.push_back(to_json(one, info));
  }
  const Json report = Json::object({{"model", info.name},
                                    {"architecture", info.architecture},
                                    {"parameters", static_cast<long>(info.parameters)},
                                    {"dtype", info.dtype},
                                    {"quantize", arguments.engine.quantize},
                                    {"weight_bytes", static_cast<long>(info.weight_bytes)},
                                    {"isa", info.isa},
                                    {"threads", info.threads},
                                    {"load_s", load_s},
                                    {"prompt_tokens", arguments.prompt_tokens},
                                    {"prefill_tokens_per_s", best_prefill},
                                    {"active_parameters", static_cast<long>(active_parameters(info))},
                                    {"prefill_gflops", best_prefill * 2 * active_parameters(info) / 1e9},
                                    {"decode", Json(decode)}});
  if (arguments.json) {
    print_out(report.dump() + "\n");
    return {};
  }
  std::printf("%s (%s, %.2f B parameters, %s, %s, %d threads), loaded in %.2f s\n", info.name.c_str(), info.architecture.c_str(),
              static_cast<double>(info.parameters) / 1e9, info.dtype.c_str(), info.isa.c_str(), info.threads, load_s);
  std::printf("prefill  %8d tokens  %9.1f tokens/s  %8.1f GFLOP/s\n", arguments.prompt_tokens, best_prefill,
              best_prefill * 2 * active_parameters(info) / 1e9);
  for (const Json& row : decode)
    std::printf("decode   batch %6d   %9.1f tokens/s  %8.2f ms/step  %6.1f GB/s of weights\n",
                static_cast<int>(row.find("batch")->as_integer()), row.find("decode_tokens_per_s")->as_number(),
                row.find("decode_step_ms")->as_number(), row.find("weight_gb_per_s")->as_number());
  return {};
}

}  // namespace weft
