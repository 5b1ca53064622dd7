// `weft bench`: speed of prefill (one prompt, one token), of decode (batches of sequences, between their first and last
// token) and of serving (streams that share the beginning of their prompts), beside the limits of the machine measured
// in the same run. Prompts are random, so that no cache helps where none is meant to. Repeated measurements give their
// median. What speculation brings and what ranks cost are measurements of their own
// (bench_speculation.cc, bench_ranks.cc).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "api/follow.h"
#include "api/speculative_config.h"
#include "bench_prompts.h"
#include "bench_run.h"
#include "terminal.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

double rate(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }
double percent(double value, double limit) { return limit > 0 ? 100 * value / limit : 0; }

// Weights that a token computes with.
double active_parameters(const ModelInfo& info) {
  return static_cast<double>(info.parameters) - static_cast<double>(info.expert_parameters) * (1 - info.expert_share);
}

// Bytes of weights that a step of so many tokens reads; of experts those that are chosen at all, if the router spreads
// evenly.
double step_bytes(const ModelInfo& info, int tokens) {
  const double untouched = std::pow(1 - info.expert_share, tokens);
  return static_cast<double>(info.weight_bytes) - static_cast<double>(info.expert_bytes) * untouched;
}

class Bench {
 public:
  Bench(Engine& engine, const Arguments& arguments)
      : engine_(engine), info_(engine.info()), arguments_(arguments), limits_(info_.threads, arguments.limits),
        prompts_(info_.vocab_size) {}

  Status check() const;
  Result<Json> prefill();
  std::vector<Request> decode_requests(int batch);
  Result<Json> decode(int batch);
  Result<Json> serving();
  Json limits() const;
  Status warm_up() {
    WEFT_TRY(const RunTimes ignored,
             run_together(engine_, {bench_request(prompts_.next(std::min(32, prefill_tokens())), 4)}));
    (void)ignored;
    return {};
  }
  bool wanted(const char* mode) const {
    return std::find(arguments_.bench_modes.begin(), arguments_.bench_modes.end(), mode) !=
           arguments_.bench_modes.end();
  }

 private:
  int prefill_tokens() const { return arguments_.prompt_tokens > 0 ? arguments_.prompt_tokens : 512; }
  int prefill_context() const { return std::max(0, arguments_.context_tokens); }
  int decode_context() const {
    return arguments_.context_tokens >= 0 ? std::max(1, arguments_.context_tokens) : std::min(128, prefill_tokens());
  }
  int serving_tokens() const { return arguments_.prompt_tokens > 0 ? arguments_.prompt_tokens : 196; }
  int shared_tokens() const { return std::min(arguments_.shared_prefix, serving_tokens() - 1); }
  std::vector<Request> streams();

  Engine& engine_;
  const ModelInfo& info_;
  const Arguments& arguments_;
  Limits limits_;
  Prompts prompts_;
};

Status Bench::check() const {
  const auto fits = [&](const char* mode, int prompt, int output) -> Status {
    if (!wanted(mode) || prompt + output <= info_.max_seq_len) return {};
    return fail(Code::invalid_argument, mode, " needs ", prompt + output,
                " tokens in a sequence (--prompt-tokens, --context-tokens, --output-tokens), and the context has ",
                info_.max_seq_len);
  };
  WEFT_RETURN_IF_ERROR(fits("prefill", prefill_context() + prefill_tokens(), 1));
  WEFT_RETURN_IF_ERROR(fits("decode", decode_context(), arguments_.output_tokens));
  WEFT_RETURN_IF_ERROR(fits("serving", serving_tokens(), arguments_.output_tokens));
  if (wanted("prefill") && prefill_context() > 0 && !arguments_.engine.enable_block_reuse)
    return fail(Code::invalid_argument,
                "--context-tokens of prefill come from the cache, which --enable-block-reuse off forbids");
  return {};
}

Json Bench::limits() const {
  const bench::MachineLimits& l = limits_.processor();
  return Json::object({{"read_gb_per_s", l.read_bytes_per_s / 1e9},
                       {"f32_gflops", l.f32_flops / 1e9},
                       {"bf16_gflops", l.bf16_flops / 1e9},
                       {"bf16_tile_gflops", l.bf16_tile_flops / 1e9},
                       {"int8_gops", l.int8_ops / 1e9},
                       {"int8_tile_gops", l.int8_tile_ops / 1e9}});
}

// The last tokens of a prompt whose beginning is in the cache already.
Result<Json> Bench::prefill() {
  const int tokens = prefill_tokens(), context = prefill_context();
  std::vector<double> seconds;
  int computed = tokens;
  for (int i = 0; i < arguments_.repeat; ++i) {
    std::vector<int32_t> prompt = prompts_.next(context);
    if (context > 0)
      WEFT_RETURN_IF_ERROR([&]() -> Status {
        WEFT_TRY(const RunTimes before, run_together(engine_, {bench_request(prompt, 1)}));
        (void)before;
        return {};
      }());
    const std::vector<int32_t> own = prompts_.next(tokens);
    prompt.insert(prompt.end(), own.begin(), own.end());
    WEFT_TRY(const RunTimes times, run_together(engine_, {bench_request(std::move(prompt), 1)}));
    seconds.push_back(times.all_started);
    computed = context + tokens - times.streams[0].cached_tokens;
  }
  const double speed = rate(computed, median(seconds)), flops = speed * 2 * info_.prompt_parameters;
  return Json::object({{"tokens", computed},
                       {"context", context + tokens - computed},
                       {"first_token_s", median(seconds)},
                       {"tokens_per_s", speed},
                       {"best_tokens_per_s", rate(computed, *std::min_element(seconds.begin(), seconds.end()))},
                       {"gflops", flops / 1e9},
                       {"peak_percent", percent(flops, limits_.peak_flops(info_, arguments_.engine))}});
}

std::vector<Request> Bench::decode_requests(int batch) {
  std::vector<Request> requests;
  for (int s = 0; s < batch; ++s)
    requests.push_back(bench_request(prompts_.next(decode_context()), arguments_.output_tokens));
  return requests;
}

// With --lora, how much longer a step takes whose requests have the adapters in turn.
Result<Json> Bench::decode(int batch) {
  std::vector<double> rates, first, with_adapters, longer;
  const std::vector<LoraModule>& adapters = arguments_.engine.lora.modules;
  const auto run = [&](const std::vector<Request>& requests) -> Result<double> {
    WEFT_TRY(const RunTimes times, run_together(engine_, requests));
    first.push_back(times.all_started);
    return rate(static_cast<double>(times.tokens_after_start), times.total - times.all_started);
  };
  double read = limits_.read_bytes_per_s();
  for (int i = 0; i < arguments_.repeat; ++i) {
    WEFT_TRY(const double plain, run(decode_requests(batch)));
    rates.push_back(plain);
    if (adapters.empty()) continue;
    std::vector<Request> requests = decode_requests(batch);
    for (size_t s = 0; s < requests.size(); ++s) requests[s].lora = adapters[s % adapters.size()].name;
    WEFT_TRY(const double adapted, run(requests));
    with_adapters.push_back(adapted), longer.push_back(adapted > 0 ? 100 * (plain / adapted - 1) : 0);
  }
  read = std::max(read, limits_.read_bytes_per_s());
  const double tokens_per_s = median(rates), steps_per_s = tokens_per_s / batch;
  const double weights = steps_per_s * step_bytes(info_, batch);
  const double cache =
      tokens_per_s * static_cast<double>(info_.kv_bytes_per_token) * (decode_context() + arguments_.output_tokens / 2);
  Json report = Json::object({{"batch", batch},
                              {"context", decode_context()},
                              {"first_token_s", median(first)},
                              {"decode_tokens_per_s", tokens_per_s},
                              {"best_tokens_per_s", *std::max_element(rates.begin(), rates.end())},
                              {"decode_step_ms", steps_per_s > 0 ? 1000 / steps_per_s : 0},
                              {"weight_gb_per_s", weights / 1e9},
                              {"cache_gb_per_s", cache / 1e9},
                              {"limit_gb_per_s", read / 1e9},
                              {"limit_percent", percent(weights, read)},
                              {"peak_percent", percent(tokens_per_s * 2 * active_parameters(info_),
                                                       limits_.peak_flops(info_, arguments_.engine))}});
  if (adapters.empty()) return report;
  report.set("adapters", static_cast<long>(adapters.size()));
  report.set("adapters_step_ms", 1000 * batch / median(with_adapters));
  report.set("adapters_percent", median(longer));
  return report;
}

std::vector<Request> Bench::streams() {
  const std::vector<int32_t> shared = prompts_.next(shared_tokens());
  std::vector<Request> requests;
  for (int s = 0; s < arguments_.streams; ++s) {
    std::vector<int32_t> prompt = shared;
    const std::vector<int32_t> own = prompts_.next(serving_tokens() - shared_tokens());
    prompt.insert(prompt.end(), own.begin(), own.end());
    requests.push_back(bench_request(std::move(prompt), arguments_.output_tokens));
  }
  return requests;
}

Result<Json> Bench::serving() {
  std::vector<double> speeds, first_p50, first_p95, gap_p50, gap_p95;
  int64_t cached = 0;
  for (int i = 0; i < arguments_.repeat; ++i) {
    WEFT_TRY(const RunTimes times, run_together(engine_, streams()));
    std::vector<double> first, gaps;
    int64_t tokens = 0;
    cached = 0;
    for (const StreamTimes& stream : times.streams) {
      first.push_back(stream.first_token * 1e3), tokens += stream.tokens, cached += stream.cached_tokens;
      for (const double gap : stream.gaps) gaps.push_back(gap * 1e3);
    }
    speeds.push_back(rate(static_cast<double>(tokens), times.total));
    first_p50.push_back(quantile(first, 0.5)), first_p95.push_back(quantile(first, 0.95));
    gap_p50.push_back(quantile(gaps, 0.5)), gap_p95.push_back(quantile(gaps, 0.95));
  }
  return Json::object({{"streams", arguments_.streams},
                       {"prompt_tokens", serving_tokens()},
                       {"shared_prefix", shared_tokens()},
                       {"output_tokens", arguments_.output_tokens},
                       {"cached_tokens", static_cast<long>(cached)},
                       {"output_tokens_per_s", median(speeds)},
                       {"first_token_ms_p50", median(first_p50)},
                       {"first_token_ms_p95", median(first_p95)},
                       {"gap_ms_p50", median(gap_p50)},
                       {"gap_ms_p95", median(gap_p95)}});
}

// Shares of thread 0's time in all steps of a kind since the start; waiting is for the others at the barrier before an
// operation.
Json op_shares(const std::vector<OpTime>& times) {
  double total = 0;
  for (const OpTime& time : times) total += time.seconds + time.wait_seconds;
  Json::Array rows;
  for (const OpTime& time : times)
    rows.push_back(Json::object({{"op", time.op},
                                 {"share_percent", percent(time.seconds, total)},
                                 {"wait_percent", percent(time.wait_seconds, total)},
                                 {"runs", static_cast<long>(time.runs)},
                                 {"us_per_run", 1e6 * time.seconds / static_cast<double>(time.runs)},
                                 {"wait_us_per_run", 1e6 * time.wait_seconds / static_cast<double>(time.runs)}}));
  return Json(std::move(rows));
}

double number(const Json& object, const char* name) { return object.find(name)->as_number(); }

void print_text(const Json& report) {
  const Json& limits = *report.find("limits");
  std::printf("%s (%s, %.2f B parameters, %s, %s, %d threads), loaded in %.2f s\n",
              report.find("model")->as_string().c_str(), report.find("architecture")->as_string().c_str(),
              number(report, "parameters") / 1e9, report.find("dtype")->as_string().c_str(),
              report.find("isa")->as_string().c_str(), static_cast<int>(number(report, "threads")),
              number(report, "load_s"));
  if (number(limits, "f32_gflops") > 0)
    std::printf(
        "limits   reading %.1f GB/s   float32 %.0f, bfloat16 %.0f, on tiles %.0f GFLOP/s, int8 %.0f, on tiles %.0f "
        "GOP/s\n",
        number(limits, "read_gb_per_s"), number(limits, "f32_gflops"), number(limits, "bf16_gflops"),
        number(limits, "bf16_tile_gflops"), number(limits, "int8_gops"), number(limits, "int8_tile_gops"));
  if (const Json* prefill = report.find("prefill"))
    std::printf("prefill  %8.0f tokens  %9.1f tokens/s  %8.1f GFLOP/s  %5.1f %% of the peak\n",
                number(*prefill, "tokens"), number(*prefill, "tokens_per_s"), number(*prefill, "gflops"),
                number(*prefill, "peak_percent"));
  if (const Json* decode = report.find("decode"))
    for (const Json& row : decode->items())
      std::printf(
          "decode   batch %6.0f   %9.1f tokens/s  %8.2f ms/step  %6.1f GB/s of weights  %5.1f %% of %.1f GB/s\n",
          number(row, "batch"), number(row, "decode_tokens_per_s"), number(row, "decode_step_ms"),
          number(row, "weight_gb_per_s"), number(row, "limit_percent"), number(row, "limit_gb_per_s"));
  if (const Json* decode = report.find("decode"))
    for (const Json& row : decode->items())
      if (row.find("adapters"))
        std::printf("adapters batch %6.0f   %2.0f adapters in turn: %8.2f ms/step, %.1f %% more\n",
                    number(row, "batch"), number(row, "adapters"), number(row, "adapters_step_ms"),
                    number(row, "adapters_percent"));
  if (const Json* serving = report.find("serving"))
    std::printf(
        "serving  %3.0f streams       %9.1f tokens/s  first token %.0f / %.0f ms (median / 95 %%)  then every %.1f / "
        "%.1f ms\n",
        number(*serving, "streams"), number(*serving, "output_tokens_per_s"), number(*serving, "first_token_ms_p50"),
        number(*serving, "first_token_ms_p95"), number(*serving, "gap_ms_p50"), number(*serving, "gap_ms_p95"));
  for (const char* kind : {"prompt", "decode"}) {
    const Json* ops = report.find(std::string(kind) + "_ops");
    if (!ops) continue;
    std::printf("steps of %-7s: share, waiting for others before it, runs, us per run (of thread 0)\n", kind);
    for (const Json& row : ops->items())
      std::printf("  %5.1f %%  %5.1f %%  %8.0f  %8.1f  %s\n", number(row, "share_percent"), number(row, "wait_percent"),
                  number(row, "runs"), number(row, "us_per_run"), row.find("op")->as_string().c_str());
  }
}

// The default modes, and what modes cannot be together.
Result<Arguments> with_modes(Arguments a) {
  WEFT_TRY(const SpeculationOptions speculation, read_speculation(a.engine.speculative_config));
  if (a.bench_modes.empty()) {
    a.bench_modes = {"prefill", "decode"};
    if (speculation.most() > 0 && !a.details && !a.ops) a.bench_modes = {"speculation"};
  }
  const auto has = [&](const char* mode) { return std::ranges::find(a.bench_modes, mode) != a.bench_modes.end(); };
  const bool compares = has("speculation") || has("disaggregation");
  for (const char* mode : {"speculation", "ranks", "disaggregation"})
    if (has(mode) && (a.bench_modes.size() > 1 || a.details || a.ops))
      return fail(Code::invalid_argument, "--modes ", mode, " cannot be combined with other modes, --details or --ops");
  if (has("ranks") && rank_layout(a.engine).single())
    return fail(Code::invalid_argument, "--modes ranks needs more than one rank: --tp-size, --ep-size or --pp-size");
  if ((compares || a.details) && ranks_are_processes())
    return fail(
        Code::unsupported, compares ? "--modes " + a.bench_modes[0] : "--details",
        " loads several engines, and ranks in processes run one; measure with ranks in one process, or with other "
        "--modes");
  if (!has("speculation") && !a.prompts.empty())
    return fail(Code::invalid_argument,
                "--prompts is for --modes speculation, which needs a --speculative-config that drafts");
  return a;
}

Status bench_model(const Arguments& arguments, const EngineLoader& load) {
  const Clock::time_point begin = Clock::now();
  Arguments measured = arguments;
  measured.engine.measure_ops = arguments.ops;
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(measured, load));
  const double load_s = std::chrono::duration<double>(Clock::now() - begin).count();
  const ModelInfo& info = engine->info();
  Bench bench(*engine, arguments);
  WEFT_RETURN_IF_ERROR(bench.check());
  Json report = Json::object({{"model", info.name},
                              {"architecture", info.architecture},
                              {"parameters", static_cast<long>(info.parameters)},
                              {"active_parameters", static_cast<long>(active_parameters(info))},
                              {"dtype", info.dtype},
                              {"quantize", name_of(arguments.engine.quantize)},
                              {"weight_bytes", static_cast<long>(info.weight_bytes)},
                              {"isa", info.isa},
                              {"threads", info.threads},
                              {"load_s", load_s}});
  report.set("limits", bench.limits());
  WEFT_RETURN_IF_ERROR(bench.warm_up());
  if (bench.wanted("prefill")) {
    WEFT_TRY(Json prefill, bench.prefill());
    report.set("prefill_tokens_per_s", number(prefill, "tokens_per_s"));
    report.set("prefill", std::move(prefill));
  }
  if (bench.wanted("decode")) {
    Json::Array rows;
    for (const int batch : arguments.batch_sizes) {
      WEFT_TRY(Json row, bench.decode(batch));
      rows.push_back(std::move(row));
    }
    report.set("decode", Json(std::move(rows)));
  }
  if (bench.wanted("serving")) {
    WEFT_TRY(Json serving, bench.serving());
    report.set("serving", std::move(serving));
  }
  if (arguments.ops) {
    report.set("prompt_ops", op_shares(engine->op_times(false)));
    report.set("decode_ops", op_shares(engine->op_times(true)));
  }
  if (arguments.json) print_out(report.dump() + "\n");
  else print_text(report);
  return {};
}

}  // namespace

Status bench_command(const Arguments& arguments, const EngineLoader& load) {
  WEFT_TRY(const Arguments chosen, with_modes(arguments));
  if (chosen.bench_modes[0] == "speculation") return bench_speculation(chosen, load);
  if (chosen.bench_modes[0] == "ranks") return bench_ranks(chosen, load);
  if (chosen.bench_modes[0] == "disaggregation") return bench_disaggregation(chosen, load);
  if (chosen.details) return bench_details(chosen, load);
  return bench_model(chosen, load);
}

}  // namespace weft
