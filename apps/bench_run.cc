#include "bench_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

struct Progressing {
  std::mutex mutex;
  std::condition_variable finished;
  RunTimes times;
  std::vector<double> last;  // per stream
  size_t started = 0, done = 0;
  std::optional<Error> error;

  void take(size_t stream, const Event& event, double now) {
    const std::lock_guard lock(mutex);
    StreamTimes& s = times.streams[stream];
    const auto tokens = static_cast<int64_t>(event.tokens.size());
    for (const TokenInfo& token : event.tokens) s.ids.push_back(token.token);
    if (started == times.streams.size()) times.tokens_after_start += tokens;
    if (tokens > 0) {
      if (s.tokens == 0) {
        s.first_token = now;
        if (++started == times.streams.size()) times.all_started = now;
      } else {
        s.gaps.push_back(now - last[stream]);
      }
      last[stream] = now, s.tokens += static_cast<int>(tokens);
      times.total = now;
    }
    if (event.error) error = event.error;
    if (!event.last_of_request) return;
    s.cached_tokens = event.usage.cached_tokens;
    if (++done == times.streams.size()) finished.notify_all();
  }
};

}  // namespace

Result<RunTimes> run_together(Engine& engine, const std::vector<Request>& requests) {
  const auto state = std::make_shared<Progressing>();
  state->times.streams.resize(requests.size()), state->last.resize(requests.size());
  const Clock::time_point begin = Clock::now();
  engine.hold();
  std::optional<Error> refused;
  for (size_t i = 0; i < requests.size() && !refused; ++i) {
    auto id = engine.submit(requests[i], [state, i, begin](const Event& event) {
      state->take(i, event, std::chrono::duration<double>(Clock::now() - begin).count());
    });
    if (!id.ok()) refused = std::move(id).error();
  }
  engine.release();
  if (refused) return *refused;
  std::unique_lock lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done == requests.size(); });
  if (state->error) return *state->error;
  return std::move(state->times);
}

Request bench_request(std::vector<int32_t> prompt, int output_tokens) {
  Request request;
  request.prompt_token_ids = std::move(prompt);
  request.max_tokens = output_tokens;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  return request;
}

Limits::Limits(int threads, bool measured) {
  if (!measured) return;
  team_ = std::make_unique<ThreadTeam>(threads);
  buffer_ = std::make_unique<bench::ReadBuffer>();
  processor_ = bench::measure_limits(*team_, *buffer_, 0.9);
}

double Limits::read_bytes_per_s() {
  if (!team_) return 0;
  processor_.read_bytes_per_s = buffer_->measure(*team_, 0.3);
  return processor_.read_bytes_per_s;
}

double Limits::peak_flops(const ModelInfo& info, const EngineOptions& options) const {
  const bool narrow = info.dtype != "float32", tiles = info.isa == "amx" && processor_.bf16_tile_flops > 0;
  if (narrow && options.quantize != Quantize::none && processor_.int8_ops > 0)
    return tiles ? processor_.int8_tile_ops : processor_.int8_ops;
  if (narrow && tiles) return processor_.bf16_tile_flops;
  return narrow && info.isa == "avx512_bf16" && processor_.bf16_flops > 0 ? processor_.bf16_flops
                                                                          : processor_.f32_flops;
}

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::lround(share * static_cast<double>(values.size() - 1)))];
}

double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

}  // namespace weft
