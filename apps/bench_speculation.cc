// `weft bench --speculative-config`: the same requests on two engines, one with speculation and one without, in turn.
// Real texts come from --prompts; random ones say what speculation costs where it cannot help. Every round has a salt
// of its own, so that none finds the blocks or the texts of the one before, and the answers of both engines are
// compared: they must be equal.
#include <algorithm>
#include <array>
#include <cstdio>

#include "api/speculative_config.h"
#include "base/files.h"
#include "bench_prompts.h"
#include "bench_run.h"
#include "requests_file.h"
#include "terminal.h"

namespace weft {

namespace {

constexpr int kContext = 128;  // tokens of a random prompt

// A line of a text file: a chat's first message where the model has chats.
RequestLine text_line(const std::string& text, int number, const Engine& engine, const RequestRules& rules) {
  RequestLine line;
  line.number = number;
  Json body = Json::object({{"temperature", 0}});
  if (engine.info().has_chat_template) body.set("messages", Json::array({user_message(text, {})}));
  else body.set("prompt", text);
  auto parsed = parse_request(body, RequestKind::batch_line, rules);
  if (parsed.ok()) line.request = std::move(parsed->requests.front());
  else line.error = std::move(parsed).error();
  return line;
}

Result<std::vector<RequestLine>> read_texts(const std::string& path, const Engine& engine, const RequestRules& rules) {
  WEFT_TRY(const std::string text, read_file(path, size_t{1} << 30));
  std::vector<RequestLine> lines;
  int number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1, ++number;
    if (line.find_first_not_of(" \t\r") != std::string::npos) lines.push_back(text_line(line, number, engine, rules));
  }
  return lines;
}

// The requests of --prompts. Both engines must give them the same answers, so they all have seeds.
Result<std::vector<Request>> read_prompts(const Arguments& arguments, const Engine& engine) {
  const std::string& path = arguments.prompts;
  RequestRules rules = command_rules(engine);
  rules.completion_max_tokens = arguments.output_tokens;
  WEFT_TRY(std::vector<RequestLine> lines, path.ends_with(".jsonl")
                                               ? read_requests(path, RequestKind::batch_line, rules)
                                               : read_texts(path, engine, rules));
  std::vector<Request> requests;
  for (RequestLine& line : lines) {
    if (line.error) return std::move(*line.error).with(path + " line " + std::to_string(line.number));
    Request& request = requests.emplace_back(std::move(*line.request));
    if (request.n > 1 || request.best_of > 1 || request.beams)
      return fail(Code::invalid_argument, path, " line ", line.number, ": one answer for each prompt is measured");
    if (!request.max_tokens) request.max_tokens = arguments.output_tokens;
    if (!request.seed) request.seed = requests.size();
  }
  if (requests.empty()) return fail(Code::invalid_argument, path, " has no prompts");
  return requests;
}

std::vector<Request> random_requests(const Arguments& arguments, const Engine& engine, int count) {
  Prompts prompts(engine.info().vocab_size);
  const int length = arguments.context_tokens >= 0 ? std::max(1, arguments.context_tokens) : kContext;
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) requests.push_back(bench_request(prompts.next(length), arguments.output_tokens));
  return requests;
}

// One pass over all requests, so many at once.
struct Pass {
  int64_t tokens = 0, decoded = 0;   // decoded: while all requests of their group were past their prompts
  double seconds = 0, decode_s = 0;  // decode_s: the time of these
  std::vector<std::vector<int32_t>> answers;
  double speed() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
  double decode_speed() const { return decode_s > 0 ? static_cast<double>(decoded) / decode_s : 0; }
};

Result<Pass> run_pass(Engine& engine, const std::vector<Request>& requests, int batch, const std::string& salt) {
  Pass pass;
  for (size_t begin = 0; begin < requests.size(); begin += static_cast<size_t>(batch)) {
    const size_t end = std::min(requests.size(), begin + static_cast<size_t>(batch));
    std::vector<Request> group(requests.begin() + static_cast<ptrdiff_t>(begin),
                               requests.begin() + static_cast<ptrdiff_t>(end));
    for (Request& request : group) request.cache_salt = salt;
    WEFT_TRY(RunTimes times, run_together(engine, group));
    pass.seconds += times.total, pass.decode_s += times.total - times.all_started;
    pass.decoded += times.tokens_after_start;
    for (StreamTimes& stream : times.streams) {
      pass.tokens += stream.tokens;
      pass.answers.push_back(std::move(stream.ids));
    }
  }
  return pass;
}

Status check_equal(const Pass& with, const Pass& without) {
  for (size_t i = 0; i < with.answers.size(); ++i)
    if (with.answers[i] != without.answers[i])
      return fail(Code::internal, "the answer to prompt ", i + 1, " differs with speculation; this is a bug");
  return {};
}

// What became of drafts between two looks at the metrics.
Json acceptance(const SchedulerMetrics& before, const SchedulerMetrics& now) {
  uint64_t drafted = 0, accepted = 0;
  Json::Array shares;
  for (size_t i = 0; i < now.drafted.size(); ++i) {
    const uint64_t checked = now.drafted[i] - before.drafted[i], right = now.accepted[i] - before.accepted[i];
    drafted += checked, accepted += right;
    if (checked > 0) shares.push_back(static_cast<double>(right) / static_cast<double>(checked));
  }
  const uint64_t rounds = now.draft_rounds - before.draft_rounds;
  const auto share = [](uint64_t part, uint64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
  };
  return Json::object({{"draft_rounds", rounds},
                       {"draft_tokens", drafted},
                       {"accepted_tokens", accepted},
                       {"acceptance", share(accepted, drafted)},
                       {"acceptance_per_position", Json(std::move(shares))},
                       {"accepted_per_round", share(accepted, rounds)}});
}

struct Engines {
  std::unique_ptr<Engine> with, without;
};

Result<Engines> load_both(const Arguments& arguments, const EngineLoader& load) {
  Engines engines;
  Arguments plain = arguments;
  plain.engine.speculative_config.clear();
  WEFT_TRY(engines.without, load_model(plain, load));
  WEFT_TRY(engines.with, load_model(arguments, load));
  if (!engines.with->info().generative)
    return fail(Code::unsupported, engines.with->info().architecture, " generates no tokens, so nothing is drafted");
  return engines;
}

Result<Json> measure(const Engines& engines, const Arguments& arguments, const std::vector<Request>& requests,
                     int batch) {
  const std::string size = std::to_string(batch);
  for (Engine* engine : {engines.without.get(), engines.with.get()})  // not measured
    WEFT_RETURN_IF_ERROR(run_pass(*engine, {requests.front()}, 1, "warm up " + size));
  const SchedulerMetrics before = engines.with->metrics().core.scheduler;
  std::vector<double> decode[2], whole[2];  // without, with
  for (int round = 0; round < arguments.repeat; ++round) {
    const std::string salt = "batch " + size + ", round " + std::to_string(round);
    std::array<Pass, 2> passes;
    for (const int turn : {0, 1}) {
      const int side = (round + turn) % 2;  // which one goes first changes
      WEFT_TRY(passes[static_cast<size_t>(side)],
               run_pass(side == 1 ? *engines.with : *engines.without, requests, batch, salt));
    }
    WEFT_RETURN_IF_ERROR(check_equal(passes[1], passes[0]));
    for (const size_t side : {size_t{0}, size_t{1}})
      decode[side].push_back(passes[side].decode_speed()), whole[side].push_back(passes[side].speed());
  }
  Json row = acceptance(before, engines.with->metrics().core.scheduler);
  const auto ratio = [](double with, double without) { return without > 0 ? with / without : 0; };
  row.set("batch", std::min(batch, static_cast<int>(requests.size())));
  row.set("prompts", static_cast<long>(requests.size()));
  row.set("decode_tokens_per_s", median(decode[1]));
  row.set("decode_tokens_per_s_without", median(decode[0]));
  row.set("ratio", ratio(median(decode[1]), median(decode[0])));
  row.set("output_tokens_per_s", median(whole[1]));
  row.set("output_tokens_per_s_without", median(whole[0]));
  row.set("output_ratio", ratio(median(whole[1]), median(whole[0])));
  return row;
}

double number(const Json& object, const char* name) { return object.find(name)->as_number(); }

void print_text(const Json& report) {
  std::printf("%s (%s, %s, %.0f threads), %s, medians of %.0f rounds%s\n", report.find("model")->as_string().c_str(),
              report.find("dtype")->as_string().c_str(), report.find("isa")->as_string().c_str(),
              number(report, "threads"), report.find("method")->as_string().c_str(), number(report, "rounds"),
              report.find("random_prompts")->as_bool()
                  ? "; random prompts, whose acceptance says little (--prompts FILE for real ones)"
                  : "");
  for (const Json& row : report.find("speculation")->items()) {
    std::printf(
        "batch %4.0f  decode %8.1f tokens/s, without %8.1f: %.2f times as fast   prompts included %8.1f, "
        "without %8.1f: %.2f times\n",
        number(row, "batch"), number(row, "decode_tokens_per_s"), number(row, "decode_tokens_per_s_without"),
        number(row, "ratio"), number(row, "output_tokens_per_s"), number(row, "output_tokens_per_s_without"),
        number(row, "output_ratio"));
    if (number(row, "draft_rounds") == 0) {
      std::printf("            no drafts were checked\n");
      continue;
    }
    std::printf("            %.1f %% of %.0f drafts accepted, %.2f in each of %.0f rounds; by position:",
                100 * number(row, "acceptance"), number(row, "draft_tokens"), number(row, "accepted_per_round"),
                number(row, "draft_rounds"));
    for (const Json& share : row.find("acceptance_per_position")->items()) std::printf(" %.2f", share.as_number());
    std::printf("\n");
  }
}

}  // namespace

Status bench_speculation(const Arguments& arguments, const EngineLoader& load) {
  WEFT_TRY(const SpeculationOptions speculation, read_speculation(arguments.engine.speculative_config));
  if (speculation.most() == 0)
    return fail(Code::invalid_argument, "--modes speculation compares --speculative-config JSON with none; give one");
  if (!arguments.prompts.empty() && !is_file(arguments.prompts))
    return fail(Code::not_found, "no file ", arguments.prompts,
                "; --prompts takes a .jsonl file of requests or a text file with a prompt a line");
  WEFT_TRY(const Engines engines, load_both(arguments, load));
  const ModelInfo& info = engines.with->info();
  std::vector<Request> requests;
  if (!arguments.prompts.empty()) {
    WEFT_TRY(requests, read_prompts(arguments, *engines.with));
  }
  Json::Array rows;
  for (const int batch : arguments.batch_sizes) {
    if (arguments.prompts.empty()) requests = random_requests(arguments, *engines.with, batch);
    WEFT_TRY(Json row, measure(engines, arguments, requests, batch));
    rows.push_back(std::move(row));
  }
  const Json report = Json::object({{"model", info.name},
                                    {"dtype", info.dtype},
                                    {"isa", info.isa},
                                    {"threads", info.threads},
                                    {"method", name_of(speculation.method)},
                                    {"speculative_config", arguments.engine.speculative_config},
                                    {"random_prompts", arguments.prompts.empty()},
                                    {"rounds", arguments.repeat},
                                    {"output_tokens", arguments.output_tokens},
                                    {"speculation", Json(std::move(rows))}});
  if (arguments.json) print_out(report.dump() + "\n");
  else print_text(report);
  return {};
}

}  // namespace weft
