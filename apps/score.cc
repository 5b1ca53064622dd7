// `weft score`: full-sequence logits, class logits and rewards of all requests of a file, as tensors named ID.logits
// and so on. Results can be large, so only a window of requests is inside the engine at a time, and each result is
// written when its turn comes.
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>

#include "checkpoint/safetensors_writer.h"
#include "requests_file.h"
#include "terminal.h"

namespace weft {

namespace {

constexpr size_t kWindow = 32;

struct Scores {
  std::mutex mutex;
  std::condition_variable arrived;
  std::map<size_t, Result<ScoreResult>> results;  // by line
};

Status write_result(SafetensorsWriter& writer, const std::string& id, const ScoreResult& result) {
  for (const auto& [name, tensor] : result.tensors) {
    if (const auto* floats = std::get_if<std::vector<float>>(&tensor.data))
      WEFT_RETURN_IF_ERROR(writer.add(id + "." + name, tensor.shape, std::span(*floats)));
    else
      WEFT_RETURN_IF_ERROR(
          writer.add(id + "." + name, tensor.shape, std::span(std::get<std::vector<int64_t>>(tensor.data))));
  }
  return {};
}

void submit(Engine& engine, RequestLine& line, size_t index, const std::shared_ptr<Scores>& scores) {
  const auto keep = [scores, index](Result<ScoreResult> result) {
    const std::lock_guard lock(scores->mutex);
    scores->results.emplace(index, std::move(result));
    scores->arrived.notify_all();
  };
  if (line.error) return keep(*line.error);
  auto id = engine.submit_score(*std::move(line.request), keep);
  if (!id.ok()) keep(std::move(id).error());
}

}  // namespace

Status score_command(const Arguments& arguments, const EngineLoader& load) {
  WEFT_RETURN_IF_ERROR(check_requests_path(arguments.requests));
  Arguments scoring = arguments;
  scoring.engine.draft_scores = !arguments.engine.speculative_config.empty();
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(scoring, load));
  WEFT_TRY(std::vector<RequestLine> lines,
           read_requests(arguments.requests, RequestKind::score_line, command_rules(*engine)));
  require_names(lines);
  SafetensorsWriter::Options options;
  options.expected_tensors = 4 * lines.size() + 1;
  WEFT_TRY(SafetensorsWriter writer, SafetensorsWriter::create(arguments.out, options));
  const Interrupts interrupts;
  const auto scores = std::make_shared<Scores>();
  size_t submitted = 0, written = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    const size_t end = std::min(lines.size(), i + kWindow);
    if (submitted == i || submitted < end) {
      engine->hold();
      for (; submitted < end; ++submitted) submit(*engine, lines[submitted], submitted, scores);
      engine->release();
    }
    std::unique_lock lock(scores->mutex);
    while (!scores->results.contains(i)) {
      if (Interrupts::signal() != 0) return interrupted_error().with("nothing is left of " + arguments.out);
      scores->arrived.wait_for(lock, std::chrono::milliseconds(100));
    }
    const Result<ScoreResult> result = std::move(scores->results.extract(i).mapped());
    lock.unlock();
    if (!result.ok() && result.error().code() == Code::unavailable) return result.error();
    if (!result.ok()) {
      print_line_error(arguments.requests, lines[i], result.error());
      continue;
    }
    WEFT_RETURN_IF_ERROR(write_result(writer, *lines[i].custom_id, *result));
    ++written;
  }
  if (written == 0 && !lines.empty())
    return fail(Code::invalid_argument, "none of the ", lines.size(), " requests could be scored");
  return writer.finish();
}

}  // namespace weft
