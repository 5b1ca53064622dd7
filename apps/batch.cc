// `weft batch`: all requests of a file through the engine at once, the answers in the file's order (output line:
// docs/contract.md).
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "requests_file.h"
#include "terminal.h"

namespace weft {

namespace {

struct Choice {
  std::string text, finish_reason;
  std::vector<TokenInfo> tokens;
  std::vector<float> logits;
  Json stop_reason;
};

// The result of one line. Written by the engine's thread until `done`.
struct Outcome {
  std::vector<Choice> choices;
  std::shared_ptr<const std::vector<TokenInfo>> prompt;
  std::shared_ptr<const std::vector<float>> prompt_logits;
  Usage usage;
  uint64_t seed = 0;
  std::vector<std::string> warnings;
  std::optional<Error> error;
  bool done = false;
};

struct Batch {
  std::mutex mutex;
  std::condition_variable finished;
  std::vector<Outcome> outcomes;
  size_t running = 0;
};

void take(Batch& batch, size_t index, const Event& event) {
  const std::lock_guard lock(batch.mutex);
  Outcome& outcome = batch.outcomes[index];
  if (event.choice >= 0 && static_cast<size_t>(event.choice) < outcome.choices.size()) {
    Choice& choice = outcome.choices[static_cast<size_t>(event.choice)];
    choice.text += event.text;
    choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
    choice.logits.insert(choice.logits.end(), event.logits.begin(), event.logits.end());
    if (event.finish != FinishReason::none) {
      choice.finish_reason = name(event.finish);
      choice.stop_reason = event.stop_reason;
    }
  }
  if (event.prompt) outcome.prompt = event.prompt, outcome.prompt_logits = event.prompt_logits;
  if (event.error) outcome.error = event.error;
  if (!event.last_of_request) return;
  outcome.usage = event.usage;
  outcome.seed = event.seed;
  outcome.warnings = event.warnings;
  outcome.done = true;
  --batch.running;
  batch.finished.notify_all();
}

// Submits the lines in order. When the engine's queue is full, waits until a submitted one has finished.
void submit_all(Engine& engine, std::vector<RequestLine>& lines, const std::shared_ptr<Batch>& batch) {
  bool held = true;
  engine.hold();
  for (size_t i = 0; i < lines.size(); ++i) {
    Outcome& outcome = batch->outcomes[i];
    if (lines[i].error) {
      outcome.error = std::move(lines[i].error);
      outcome.done = true;
      continue;
    }
    outcome.choices.resize(static_cast<size_t>(lines[i].request->n));
    for (;;) {
      {
        const std::lock_guard lock(batch->mutex);
        ++batch->running;
      }
      Request request = *lines[i].request;
      const auto id = engine.submit(std::move(request), [batch, i](const Event& event) { take(*batch, i, event); });
      if (id.ok()) break;
      std::unique_lock lock(batch->mutex);
      --batch->running;
      if (id.error().code() != Code::resource_exhausted || batch->running == 0) {
        outcome.error = id.error();
        outcome.done = true;
        break;
      }
      if (held) engine.release();
      held = false;
      const size_t before = batch->running;
      batch->finished.wait(lock, [&] { return batch->running < before; });
    }
    lines[i].request.reset();
  }
  if (held) engine.release();
}

Json logits_json(const std::vector<float>& values, size_t cols) {
  Json::Array rows;
  for (size_t at = 0; at + cols <= values.size(); at += cols) {
    const auto begin = values.begin() + static_cast<ptrdiff_t>(at);
    rows.push_back(Json(Json::Array(begin, begin + static_cast<ptrdiff_t>(cols))));
  }
  return Json(std::move(rows));
}

Json logprob_json(float logprob) { return std::isfinite(logprob) ? Json(logprob) : Json(-9999.0f); }

// [{"token_id", "logprob", "top": [...]}], null for a token without one. The prompt's have a "rank", too.
Json logprobs_json(const std::vector<TokenInfo>& tokens, bool ranks = false) {
  Json::Array list;
  for (const TokenInfo& token : tokens) {
    if (!token.logprob) {
      list.push_back(Json());
      continue;
    }
    Json::Array top;
    for (const TokenLogprob& other : token.top)
      top.push_back(Json::object({{"token_id", other.token}, {"logprob", logprob_json(other.logprob)}}));
    list.push_back(Json::object(
        {{"token_id", token.token}, {"logprob", logprob_json(*token.logprob)}, {"top", Json(std::move(top))}}));
    if (ranks) list.back().set("rank", token.rank);
  }
  return Json(std::move(list));
}

Json choice_json(const Choice& choice, size_t index, bool logprobs, size_t vocab) {
  Json::Array ids;
  for (const TokenInfo& token : choice.tokens) ids.push_back(token.token);
  Json json = Json::object({{"index", static_cast<long>(index)},
                            {"token_ids", Json(std::move(ids))},
                            {"text", choice.text},
                            {"finish_reason", choice.finish_reason},
                            {"stop_reason", choice.stop_reason},
                            {"logprobs", logprobs ? logprobs_json(choice.tokens) : Json()}});
  if (!choice.logits.empty()) json.set("generation_logits", logits_json(choice.logits, vocab));
  return json;
}

std::string output_line(const RequestLine& line, const Outcome& outcome, size_t vocab) {
  Json json = Json::object({{"custom_id", line.custom_id ? Json(*line.custom_id) : Json()}});
  Json::Array choices;
  if (!outcome.error)
    for (const Choice& choice : outcome.choices)
      choices.push_back(choice_json(choice, choices.size(), line.logprobs >= 0, vocab));
  json.set("choices", Json(std::move(choices)));
  json.set("usage", Json::object({{"prompt_tokens", outcome.usage.prompt_tokens},
                                  {"completion_tokens", outcome.usage.completion_tokens},
                                  {"cached_tokens", outcome.usage.cached_tokens},
                                  {"draft_tokens", outcome.usage.draft_tokens},
                                  {"accepted_tokens", outcome.usage.accepted_tokens}}));
  if (!outcome.error && line.prompt_logprobs >= 0 && outcome.prompt)
    json.set("prompt_logprobs", logprobs_json(*outcome.prompt, true));
  if (!outcome.error && outcome.prompt_logits) json.set("context_logits", logits_json(*outcome.prompt_logits, vocab));
  if (!outcome.warnings.empty()) {
    Json warnings = Json::array();
    for (const std::string& warning : outcome.warnings) warnings.push_back(warning);
    json.set("warnings", std::move(warnings));
  }
  if (!outcome.error) json.set("seed", static_cast<long>(outcome.seed));
  json.set("error", outcome.error
                        ? Json::object({{"code", name(outcome.error->code())}, {"message", outcome.error->message()}})
                        : Json());
  return json.dump() + "\n";
}

// Lines go to OUT.part as they are ready, in order; the file gets its name when all are there.
class Output {
 public:
  static Result<Output> open(const std::string& path) {
    Output output;
    output.path_ = path;
    if (path.empty() || path == "-") {
      output.file_ = stdout;
      return output;
    }
    output.file_ = std::fopen((path + ".part").c_str(), "wb");
    if (!output.file_) return fail(Code::invalid_argument, "cannot write ", path, "; does its folder exist?");
    return output;
  }
  Output(Output&& other) noexcept : path_(std::move(other.path_)), file_(std::exchange(other.file_, nullptr)) {}
  ~Output() {
    if (file_ && file_ != stdout) std::fclose(file_);
  }
  Status write(const std::string& line) {
    if (std::fwrite(line.data(), 1, line.size(), file_) != line.size())
      return fail(Code::resource_exhausted, "cannot write to ", where(), "; is the disk full?");
    return {};
  }
  Status finish() {
    if (std::fflush(file_) != 0)
      return fail(Code::resource_exhausted, "cannot write to ", where(), "; is the disk full?");
    if (file_ == stdout) return {};
    std::fclose(std::exchange(file_, nullptr));
    if (std::rename((path_ + ".part").c_str(), path_.c_str()) != 0)
      return fail(Code::invalid_argument, "cannot write ", path_);
    return {};
  }

 private:
  Output() = default;
  std::string where() const { return file_ == stdout ? "standard output" : path_; }
  std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace

Status batch_command(const Arguments& arguments, const EngineLoader& load) {
  WEFT_RETURN_IF_ERROR(check_requests_path(arguments.requests));
  WEFT_TRY(Output output, Output::open(arguments.out));
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  if (!engine->info().generative)
    return fail(Code::unsupported, engine->info().architecture, " does not generate text; use weft score");
  WEFT_TRY(std::vector<RequestLine> lines,
           read_requests(arguments.requests, RequestKind::batch_line, command_rules(*engine)));
  const auto batch = std::make_shared<Batch>();
  batch->outcomes.resize(lines.size());
  submit_all(*engine, lines, batch);
  for (size_t i = 0; i < lines.size(); ++i) {
    Outcome outcome;
    {
      std::unique_lock lock(batch->mutex);
      batch->finished.wait(lock, [&] { return batch->outcomes[i].done; });
      outcome = std::move(batch->outcomes[i]);
    }
    // No line after it can be answered either, so the file does not get its name.
    if (outcome.error && outcome.error->code() == Code::unavailable) return *std::move(outcome.error);
    WEFT_RETURN_IF_ERROR(output.write(output_line(lines[i], outcome, static_cast<size_t>(engine->info().vocab_size))));
  }
  return output.finish();
}

}  // namespace weft
