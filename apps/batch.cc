// `weft batch`: all requests of a file through the engine at once, the answers in the file's order (output line:
// docs/contract.md).
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "batch_lines.h"
#include "batch_url.h"
#include "requests_file.h"
#include "terminal.h"

namespace weft {

namespace {

// The result of one line. Written by the engine's thread until `done`.
struct Outcome : BatchOutcome {
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
    BatchChoice& choice = outcome.choices[static_cast<size_t>(event.choice)];
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

// What became of a line, once it is known; nothing if a signal came first.
std::optional<Outcome> wait_for(Batch& batch, size_t index) {
  std::unique_lock lock(batch.mutex);
  while (!batch.outcomes[index].done) {
    if (Interrupts::signal() != 0) return std::nullopt;
    batch.finished.wait_for(lock, std::chrono::milliseconds(100));
  }
  return std::move(batch.outcomes[index]);
}

// Submits the lines in order, until a signal comes. When the engine's queue is full, waits until a submitted one has
// finished.
void submit_all(Engine& engine, std::vector<RequestLine>& lines, const std::shared_ptr<Batch>& batch) {
  bool held = true;
  engine.hold();
  for (size_t i = 0; i < lines.size() && Interrupts::signal() == 0; ++i) {
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
      while (batch->running >= before && Interrupts::signal() == 0)
        batch->finished.wait_for(lock, std::chrono::milliseconds(100));
    }
    lines[i].request.reset();
  }
  if (held) engine.release();
}

}  // namespace

Status batch_command(const Arguments& arguments, const EngineLoader& load) {
  WEFT_RETURN_IF_ERROR(check_requests_path(arguments.requests));
  if (!arguments.url.empty()) return batch_over_url(arguments);
  WEFT_TRY(BatchOutput output, BatchOutput::open(arguments.out));
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  if (!engine->info().generative)
    return fail(Code::unsupported, engine->info().architecture, " does not generate text; use weft score");
  WEFT_TRY(std::vector<RequestLine> lines,
           read_requests(arguments.requests, RequestKind::batch_line, command_rules(*engine)));
  const Interrupts interrupts;
  const auto batch = std::make_shared<Batch>();
  batch->outcomes.resize(lines.size());
  submit_all(*engine, lines, batch);
  for (size_t i = 0; i < lines.size() && Interrupts::signal() == 0; ++i) {
    auto outcome = wait_for(*batch, i);
    if (!outcome) break;
    // No line after it can be answered either, so the file does not get its name.
    if (outcome->error && outcome->error->code() == Code::unavailable)
      return output.ended_by(*std::move(outcome->error), lines.size());
    outcome->vocab = static_cast<size_t>(engine->info().vocab_size);
    if (Status written = output.write(output_line(lines[i], *outcome)); !written.ok())
      return output.ended_by(std::move(written).error(), lines.size());
  }
  if (Interrupts::signal() != 0) return output.ended_by(interrupted_error(), lines.size());
  return output.finish();
}

}  // namespace weft
