// `weft bench --modes ranks`: the same prompts on two engines in turn, one with the ranks of the options and one with a
// single rank on as many threads, so that what the split costs is seen beside it. Besides: what each rank of this
// process holds and how long it took to load, and the time of every kind of message. Where ranks are processes, there
// is nothing beside them.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "bench_prompts.h"
#include "bench_run.h"
#include "terminal.h"

namespace weft {

namespace {

constexpr int kPrompt = 512, kContext = 128;

// Tokens per second of one engine, round by round.
struct Speeds {
  std::vector<double> prefill;
  std::vector<std::vector<double>> decode;  // per batch size
};

Status measure(Engine& engine, const Arguments& arguments, Prompts& prompts, Speeds& speeds) {
  const int tokens = arguments.prompt_tokens > 0 ? arguments.prompt_tokens : kPrompt;
  WEFT_TRY(const RunTimes prompt, run_together(engine, {bench_request(prompts.next(tokens), 1)}));
  speeds.prefill.push_back(tokens / prompt.all_started);
  speeds.decode.resize(arguments.batch_sizes.size());
  for (size_t i = 0; i < arguments.batch_sizes.size(); ++i) {
    std::vector<Request> requests;
    for (int s = 0; s < arguments.batch_sizes[i]; ++s)
      requests.push_back(bench_request(prompts.next(kContext), arguments.output_tokens));
    WEFT_TRY(const RunTimes times, run_together(engine, requests));
    speeds.decode[i].push_back(static_cast<double>(times.tokens_after_start) / (times.total - times.all_started));
  }
  return {};
}

// The median of both, and of the ratios of each round: other work on the machine comes and goes.
Json compared(const std::vector<double>& ranks, const std::vector<double>& one) {
  Json row = Json::object({{"ranks_tokens_per_s", median(ranks)}});
  if (one.empty()) return row;
  std::vector<double> ratios;
  for (size_t i = 0; i < ranks.size(); ++i) ratios.push_back(ranks[i] / one[i]);
  row.set("one_rank_tokens_per_s", median(one));
  row.set("ratio", median(ratios));
  return row;
}

// Of the messages between ranks, in decode steps or others: time with the wait for other ranks, and share of the steps.
Json messages(const std::vector<OpTime>& times) {
  static const std::vector<std::string> kinds{"all_reduce",     "pick_rows", "all_gather", "gather_rows",
                                              "reduce_scatter", "send",      "receive"};
  double total = 0;
  for (const OpTime& time : times) total += time.seconds + time.wait_seconds;
  Json::Array rows;
  for (const OpTime& time : times)
    if (std::ranges::find(kinds, time.op) != kinds.end())
      rows.push_back(Json::object({{"message", time.op},
                                   {"runs", static_cast<long>(time.runs)},
                                   {"us_per_run", 1e6 * time.seconds / static_cast<double>(time.runs)},
                                   {"share_percent", 100 * time.seconds / total}}));
  return Json(std::move(rows));
}

Json holdings(const ModelInfo& info) {
  Json::Array rows;
  for (const RankInfo& rank : info.ranks)
    rows.push_back(Json::object({{"rank", rank.rank},
                                 {"weight_bytes", static_cast<long>(rank.weight_bytes)},
                                 {"kv_bytes_per_token", static_cast<long>(rank.kv_bytes_per_token)},
                                 {"load_s", rank.load_seconds}}));
  return Json(std::move(rows));
}

double number(const Json& object, const char* name) { return object.find(name)->as_number(); }

void print_speed(const char* what, const Json& row) {
  std::printf("%-20s %9.1f tokens/s", what, number(row, "ranks_tokens_per_s"));
  if (row.find("ratio"))
    std::printf("   one rank %9.1f tokens/s   ratio %.3f", number(row, "one_rank_tokens_per_s"), number(row, "ratio"));
  std::printf("\n");
}

void print_text(const Json& report) {
  std::printf("%s, %d ranks, %d threads here\n", report.find("model")->as_string().c_str(),
              static_cast<int>(number(report, "ranks")), static_cast<int>(number(report, "threads")));
  for (const Json& row : report.find("holdings")->items())
    std::printf("rank %-3.0f %8.1f MB of weights  %8.0f bytes of cache per token  loaded in %.2f s\n",
                number(row, "rank"), number(row, "weight_bytes") / 1e6, number(row, "kv_bytes_per_token"),
                number(row, "load_s"));
  print_speed("prefill", *report.find("prefill"));
  for (const Json& row : report.find("decode")->items()) {
    const std::string name = "decode batch " + std::to_string(static_cast<int>(number(row, "batch")));
    print_speed(name.c_str(), row);
  }
  for (const char* steps : {"prompt_messages", "decode_messages"})
    for (const Json& row : report.find(steps)->items())
      std::printf("%s  %-15s %8.0f times  %9.1f us, waiting included  %5.1f %% of the steps\n",
                  steps == std::string("prompt_messages") ? "prompts" : "decode ",
                  row.find("message")->as_string().c_str(), number(row, "runs"), number(row, "us_per_run"),
                  number(row, "share_percent"));
}

}  // namespace

Status bench_ranks(const Arguments& arguments, const EngineLoader& load) {
  Arguments split = arguments;
  split.engine.measure_ops = true;
  WEFT_TRY(const std::unique_ptr<Engine> ranks, load_model(split, load));
  const ModelInfo& info = ranks->info();
  std::unique_ptr<Engine> one;
  if (static_cast<int>(info.ranks.size()) == info.rank_count) {
    Arguments whole = split;
    whole.engine.tp_size = whole.engine.pp_size = 1, whole.engine.ep_size = 0;
    whole.engine.enable_attention_dp = false;
    whole.engine.threads = info.threads;
    WEFT_TRY(one, load_model(whole, load));
  }
  Prompts prompts(info.vocab_size);
  Speeds split_speeds, whole_speeds;
  for (int round = 0; round < arguments.repeat; ++round) {
    WEFT_RETURN_IF_ERROR(measure(*ranks, arguments, prompts, split_speeds));
    if (one) WEFT_RETURN_IF_ERROR(measure(*one, arguments, prompts, whole_speeds));
  }
  Json::Array decode;
  for (size_t i = 0; i < arguments.batch_sizes.size(); ++i) {
    Json row = compared(split_speeds.decode[i], one ? whole_speeds.decode[i] : std::vector<double>());
    row.set("batch", arguments.batch_sizes[i]);
    decode.push_back(std::move(row));
  }
  const Json report = Json::object({{"model", info.name},
                                    {"ranks", info.rank_count},
                                    {"threads", info.threads},
                                    {"holdings", holdings(info)},
                                    {"prefill", compared(split_speeds.prefill, whole_speeds.prefill)},
                                    {"decode", Json(std::move(decode))},
                                    {"prompt_messages", messages(ranks->op_times(false))},
                                    {"decode_messages", messages(ranks->op_times(true))}});
  if (arguments.json) print_out(report.dump() + "\n");
  else print_text(report);
  return {};
}

}  // namespace weft
