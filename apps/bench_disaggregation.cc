// `weft bench --modes disaggregation`: one server on all threads beside two on half of them each, of which one computes
// prompts and the other generates; both in this process, with the loopback interface between them.
// - a prompt of 2,000 tokens: time to the first token, and from it to the second; of two servers also when the first
//   has the prompt in its cache, which is the transfer and the rest
// - running streams while such prompts arrive: the time between two tokens, median and 99th percentile
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "bench_prompts.h"
#include "bench_run.h"
#include "terminal.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPrompt = 2000, kStreams = 4, kStreamPrompt = 64, kArrivals = 4;

// Where requests go.
struct Front {
  Engine& engine;
  std::vector<std::string> context_servers;
  Request prepared(Request request) const {
    request.context_servers = context_servers;
    return request;
  }
};

struct OnePrompt {
  std::vector<double> first, second;  // seconds to the first token, and from it to the second
};

Status measure_prompt(const Front& front, std::vector<int32_t> prompt, OnePrompt& times) {
  WEFT_TRY(const RunTimes run, run_together(front.engine, {front.prepared(bench_request(std::move(prompt), 4))}));
  times.first.push_back(run.streams[0].first_token);
  if (!run.streams[0].gaps.empty()) times.second.push_back(run.streams[0].gaps[0]);
  return {};
}

// Streams that run until stop().
class Streams {
 public:
  Status start(const Front& front, Prompts& prompts, int tokens) {
    last_.resize(kStreams);
    for (size_t i = 0; i < kStreams; ++i) {
      Request request = front.prepared(bench_request(prompts.next(kStreamPrompt), tokens));
      WEFT_TRY(const RequestId id,
               front.engine.submit(std::move(request), [this, i](const Event& event) { take(i, event); }));
      ids_.push_back(id);
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return started_ == kStreams || done_ > 0; });
    gaps_.clear();
    return {};
  }
  // The gaps since all had begun. Nobody waits on: none may run out of tokens before.
  Result<std::vector<double>> stop(Engine& engine) {
    bool ended = false;
    {
      const std::lock_guard lock(mutex_);
      ended = done_ > 0;
    }
    std::vector<double> gaps;
    for (const RequestId id : ids_) engine.cancel(id);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ == kStreams; });
    if (ended) return fail(Code::invalid_argument, "the streams ended before the prompts did; raise --max-seq-len");
    return gaps_;
  }

 private:
  void take(size_t stream, const Event& event) {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (!event.tokens.empty()) {
      if (last_[stream] == Clock::time_point()) ++started_;
      else gaps_.push_back(std::chrono::duration<double>(now - last_[stream]).count());
      last_[stream] = now;
    }
    done_ += event.last_of_request;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Clock::time_point> last_;
  std::vector<RequestId> ids_;
  std::vector<double> gaps_;
  size_t started_ = 0, done_ = 0;
};

Status measure_streams(const Front& front, Prompts& prompts, int prompt_tokens, std::vector<double>& gaps) {
  Streams streams;
  WEFT_RETURN_IF_ERROR(streams.start(front, prompts, front.engine.info().max_seq_len - kStreamPrompt - 1));
  for (int i = 0; i < kArrivals; ++i)
    WEFT_RETURN_IF_ERROR(run_together(front.engine, {front.prepared(bench_request(prompts.next(prompt_tokens), 1))}));
  WEFT_TRY(gaps, streams.stop(front.engine));
  return {};
}

struct Measured {
  OnePrompt fresh, cached;  // cached: by the server that computes prompts
  std::vector<double> gaps;
};

Json report_of(const Measured& m) {
  return Json::object({{"first_token_ms", median(m.fresh.first) * 1e3},
                       {"second_token_ms", median(m.fresh.second) * 1e3},
                       {"gap_p50_ms", median(m.gaps) * 1e3},
                       {"gap_p99_ms", quantile(m.gaps, 0.99) * 1e3}});
}

void print_text(const Json& report) {
  const auto value = [&](const char* who, const char* name) { return report.find(who)->find(name)->as_number(); };
  std::printf("%s, %.0f threads, prompts of %.0f tokens\n", report.find("model")->as_string().c_str(),
              report.find("threads")->as_number(), report.find("prompt_tokens")->as_number());
  for (const char* who : {"one_server", "two_servers"})
    std::printf(
        "%-12s first token %8.1f ms   second %7.2f ms later   beside such prompts %d streams have gaps of "
        "%7.2f ms, 99th percentile %8.2f ms\n",
        who, value(who, "first_token_ms"), value(who, "second_token_ms"), kStreams, value(who, "gap_p50_ms"),
        value(who, "gap_p99_ms"));
  std::printf("transfer     %.1f MB; with the prompt in the other server's cache the first token takes %.1f ms\n",
              value("two_servers", "transfer_bytes") / 1e6, value("two_servers", "cached_first_token_ms"));
}

}  // namespace

Status bench_disaggregation(const Arguments& arguments, const EngineLoader& load) {
  const int tokens = arguments.prompt_tokens > 0 ? arguments.prompt_tokens : kPrompt;
  Arguments whole = arguments;
  WEFT_TRY(const std::unique_ptr<Engine> one, load_model(whole, load));
  const int threads = one->info().threads;
  if (threads < 2) return fail(Code::invalid_argument, "--modes disaggregation needs --threads 2 or more");
  // Two engines in a process would take the same cores for their own.
  Arguments half = arguments;
  half.engine.threads = threads / 2, half.engine.pin_threads = Pinning::off;
  Arguments computes = half, generates = half;
  computes.engine.role = ServerRole::context, computes.engine.kv_transfer = "127.0.0.1:0";
  generates.engine.role = ServerRole::generation;
  WEFT_TRY(const std::unique_ptr<Engine> context, load_model(computes, load));
  WEFT_TRY(const std::unique_ptr<Engine> generation, load_model(generates, load));
  const Front single{*one, {}}, both{*generation, {context->transfer_address()}}, first{*context, {}};
  Prompts prompts(one->info().vocab_size);
  Measured of_one, of_two;
  OnePrompt ignored;
  WEFT_RETURN_IF_ERROR(measure_prompt(both, prompts.next(64), ignored));  // connects
  const uint64_t bytes = generation->metrics().core.transfer.fetched.bytes;
  for (int round = 0; round < arguments.repeat; ++round) {
    WEFT_RETURN_IF_ERROR(measure_prompt(single, prompts.next(tokens), of_one.fresh));
    WEFT_RETURN_IF_ERROR(measure_prompt(both, prompts.next(tokens), of_two.fresh));
    const std::vector<int32_t> known = prompts.next(tokens);
    WEFT_RETURN_IF_ERROR(measure_prompt(first, known, ignored));
    WEFT_RETURN_IF_ERROR(measure_prompt(both, known, of_two.cached));
  }
  const double each =
      static_cast<double>(generation->metrics().core.transfer.fetched.bytes - bytes) / (2.0 * arguments.repeat);
  WEFT_RETURN_IF_ERROR(measure_streams(single, prompts, tokens, of_one.gaps));
  WEFT_RETURN_IF_ERROR(measure_streams(both, prompts, tokens, of_two.gaps));
  Json two = report_of(of_two);
  two.set("cached_first_token_ms", median(of_two.cached.first) * 1e3);
  two.set("transfer_bytes", each);
  const Json report = Json::object({{"model", one->info().name},
                                    {"threads", threads},
                                    {"prompt_tokens", tokens},
                                    {"one_server", report_of(of_one)},
                                    {"two_servers", std::move(two)}});
  if (arguments.json) print_out(report.dump() + "\n");
  else print_text(report);
  return {};
}

}  // namespace weft
