#include "plan/deployment.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "plan/queueing.h"

namespace weft {

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int64_t kMostServers = 100'000;

double average(const std::vector<RequestClass>& classes, const std::function<double(const RequestClass&)>& value) {
  double sum = 0;
  for (const RequestClass& c : classes) sum += c.share * value(c);
  return sum;
}

std::vector<WeightedValue> spread(const std::vector<RequestClass>& classes, const std::vector<double>& values) {
  std::vector<WeightedValue> weighted;
  for (size_t i = 0; i < classes.size(); ++i) weighted.push_back({classes[i].share, values[i]});
  return weighted;
}

double mean_output(const DeploymentInput& input) {
  return average(input.classes, [](const RequestClass& c) { return static_cast<double>(c.output_tokens); });
}

// step(n) between whole numbers of sequences; an empty server has no steps.
StepTime decode_step(const ServerModel& server, double sequences) {
  const double n = std::max(sequences, 1.0), below = std::floor(n), part = n - below;
  const StepTime low = server.decode(static_cast<int64_t>(below));
  if (part == 0) return low;
  const StepTime high = server.decode(static_cast<int64_t>(below) + 1);
  return {low.seconds + part * (high.seconds - low.seconds),
          low.weight_seconds + part * (high.weight_seconds - low.weight_seconds)};
}

// x(n): what a chunk adds to a decode step.
double added(const StepTime& chunk, const StepTime& decode) {
  return chunk.seconds - std::min(chunk.weight_seconds, decode.weight_seconds);
}

// The steps that a class's prompts take on a server that computes nothing else.
std::vector<StepTime> chunks_of(const DeploymentInput& input, const ServerModel& server, const RequestClass& c) {
  const auto cached = static_cast<int64_t>(input.cached_share * static_cast<double>(c.input_tokens));
  std::vector<StepTime> chunks;
  for (int64_t seen = std::min(cached, c.input_tokens - 1); seen < c.input_tokens;) {
    const int64_t rows = std::min(server.chunk_tokens, c.input_tokens - seen);
    seen += rows;
    chunks.push_back(server.chunk(rows, seen));
  }
  return chunks;
}

// The chunks of each class, as they come beside decode steps.
using ChunksOfClasses = std::vector<std::vector<StepTime>>;

ChunksOfClasses prompt_chunks(const DeploymentInput& input, const ServerModel& server) {
  ChunksOfClasses all;
  for (const RequestClass& c : input.classes) all.push_back(chunks_of(input, server, c));
  return all;
}

// What fills no block: one chunk of each request.
ChunksOfClasses rest_chunks(const DeploymentInput& input, const ServerModel& server) {
  ChunksOfClasses all;
  for (const RequestClass& c : input.classes) {
    const int64_t rows = std::min((input.block_tokens + 1) / 2, c.input_tokens);
    all.push_back({server.chunk(rows, c.input_tokens)});
  }
  return all;
}

// S of every class; S' with a decode step in each of the prompt's steps.
std::vector<double> prompt_seconds(const ChunksOfClasses& chunks, const StepTime* decode) {
  std::vector<double> seconds;
  for (const std::vector<StepTime>& prompt : chunks) {
    double sum = 0;
    for (const StepTime& chunk : prompt) sum += decode ? decode->seconds + added(chunk, *decode) : chunk.seconds;
    seconds.push_back(sum);
  }
  return seconds;
}

// X(n), on average over requests.
double mean_added(const DeploymentInput& input, const ChunksOfClasses& chunks, const StepTime& decode) {
  double sum = 0;
  for (size_t i = 0; i < chunks.size(); ++i)
    for (const StepTime& chunk : chunks[i]) sum += input.classes[i].share * added(chunk, decode);
  return sum;
}

struct BatchLimit {
  int64_t sequences = 0;
  std::string by;
};

BatchLimit batch_limit(const DeploymentInput& input, const ServerModel& server) {
  BatchLimit limit{input.max_batch_size, "--max-batch-size " + std::to_string(input.max_batch_size)};
  if (server.sequences_in_memory < limit.sequences) limit = {server.sequences_in_memory, server.memory_limit};
  const double target = input.targets.tpot_seconds;
  if (limit.sequences < 1 || server.decode(limit.sequences).seconds <= target) return limit;
  int64_t low = 0, high = limit.sequences;  // steps of `low` sequences meet the target, of `high` they do not
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (server.decode(middle).seconds <= target ? low : high) = middle;
  }
  return {low, "--tpot-target-ms"};
}

// The smallest n with n = r E[O] TPOT(n), up to the limit; infinite where there is none.
double steady_sequences(const DeploymentInput& input, const ServerModel& server, const ChunksOfClasses& chunks,
                        double rate, int64_t limit) {
  const double tokens = rate * mean_output(input);
  const auto balanced = [&](double n) {
    const StepTime step = decode_step(server, n);
    const double free = 1 - rate * mean_added(input, chunks, step);
    return free > 0 && tokens * step.seconds / free <= n;
  };
  double high = 1e-9;
  while (high < static_cast<double>(limit) && !balanced(high)) high *= 2;
  high = std::min(high, static_cast<double>(limit));
  if (!balanced(high)) return kNever;
  double low = 0;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (balanced(middle) ? high : low) = middle;
  }
  return high;
}

GenerationState generation_with(const DeploymentInput& input, const ServerModel& server, const BatchLimit& limit,
                                const ChunksOfClasses& chunks, int64_t servers) {
  GenerationState g{.servers = servers, .batch_limit = limit.sequences, .batch_limited_by = limit.by};
  const double rate = input.request_rate / static_cast<double>(servers);
  g.sequences = limit.sequences < 1 ? kNever : steady_sequences(input, server, chunks, rate, limit.sequences);
  if (g.sequences == kNever) {
    g.slot_utilisation = g.slot_wait_seconds = g.step_seconds = g.tpot_seconds = g.longest_gap_seconds = kNever;
    return g;
  }
  const StepTime step = decode_step(server, g.sequences);
  g.step_seconds = step.seconds;
  g.tpot_seconds = step.seconds / (1 - rate * mean_added(input, chunks, step));
  for (const std::vector<StepTime>& prompt : chunks)
    for (const StepTime& chunk : prompt)
      g.longest_gap_seconds = std::max(g.longest_gap_seconds, step.seconds + added(chunk, step));
  std::vector<double> held;
  for (const RequestClass& c : input.classes) held.push_back(static_cast<double>(c.output_tokens) * g.tpot_seconds);
  const auto service = spread(input.classes, held);
  const Queue slots{input.request_rate, mean_of(service), scv_of(service), servers * limit.sequences};
  g.slot_utilisation = slots.utilisation();
  g.slot_wait_seconds = slots.mean_wait();
  return g;
}

PromptState prompts_with(const Queue& queue) {
  return {queue.servers, queue.mean_seconds, queue.scv, queue.utilisation(), queue.mean_wait()};
}

Queue prompt_queue(const DeploymentInput& input, const std::vector<double>& service, int64_t servers) {
  const auto weighted = spread(input.classes, service);
  return {input.request_rate, mean_of(weighted), scv_of(weighted), servers};
}

FirstToken first_token(const DeploymentInput& input, const Queue& queue, const std::vector<double>& behind) {
  const auto weighted = spread(input.classes, behind);
  if (!std::isfinite(mean_of(weighted))) return {kNever, kNever};
  return {queue.mean_wait() + mean_of(weighted), quantile_behind(queue, weighted, input.targets.ttft_quantile)};
}

bool meets(const ServingTargets& targets, const FirstToken& first, double tpot) {
  return first.quantile_seconds <= targets.ttft_seconds && tpot <= targets.tpot_seconds;
}

// The smallest number from `first` on that `good` holds for, where it holds for all larger ones; 0: none up to
// kMostServers.
int64_t smallest(int64_t first, const std::function<bool(int64_t)>& good) {
  int64_t low = first - 1, high = first;  // not good (or before the first); to be tried
  while (!good(high)) {
    if (high >= kMostServers) return 0;
    low = high, high = std::min(high * 2, kMostServers);
  }
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (good(middle) ? high : low) = middle;
  }
  return high;
}

// What does not depend on the numbers of servers.
class Disaggregated {
 public:
  explicit Disaggregated(const DeploymentInput& input)
      : input_(input), limit_(batch_limit(input, input.generation)), rests_(rest_chunks(input, input.generation)),
        service_(prompt_seconds(prompt_chunks(input, input.context), nullptr)) {
    for (const RequestClass& c : input.classes) {
      const double bytes = input.kv_bytes(c.input_tokens);
      bytes_ += c.share * bytes;
      transfer_.push_back(input.network_latency + bytes / input.network_bytes);
    }
  }
  const BatchLimit& limit() const { return limit_; }

  GenerationState generation(int64_t servers) const {
    return generation_with(input_, input_.generation, limit_, rests_, servers);
  }

  DisaggregatedPlan with(int64_t context, const GenerationState& generation) const {
    DisaggregatedPlan plan;
    const Queue queue = prompt_queue(input_, service_, context);
    plan.context = prompts_with(queue);
    plan.generation = generation;
    const auto sent = spread(input_.classes, transfer_);
    const auto link = [&](int64_t links) {
      return Queue{input_.request_rate / static_cast<double>(links), mean_of(sent), scv_of(sent), 1};
    };
    const Queue out = link(context), in = link(generation.servers);
    plan.transfer = {bytes_, mean_of(sent), out.utilisation(), in.utilisation(), out.mean_wait() + in.mean_wait()};
    std::vector<double> behind;
    for (size_t i = 0; i < service_.size(); ++i) {
      const double rest = rest_seconds(i, generation);
      plan.rest_seconds += input_.classes[i].share * rest;
      behind.push_back(service_[i] + transfer_[i] + plan.transfer.wait_seconds + generation.slot_wait_seconds + rest);
    }
    plan.first_token = first_token(input_, queue, behind);
    return plan;
  }

  // As many servers as make every wait vanish: what no number of them can go below.
  double least_first_token() const {
    GenerationState alone{.servers = 1};
    alone.sequences = 1, alone.step_seconds = input_.generation.decode(1).seconds;
    std::vector<double> behind;
    for (size_t i = 0; i < service_.size(); ++i) behind.push_back(service_[i] + transfer_[i] + rest_seconds(i, alone));
    return quantile_behind(Queue{}, spread(input_.classes, behind), input_.targets.ttft_quantile);
  }
  double mean_prompt() const { return mean_of(spread(input_.classes, service_)); }
  double mean_transfer() const { return mean_of(spread(input_.classes, transfer_)); }

 private:
  double rest_seconds(size_t of, const GenerationState& generation) const {
    if (!std::isfinite(generation.step_seconds)) return kNever;
    const StepTime step = decode_step(input_.generation, generation.sequences);
    return step.seconds / 2 + step.seconds + added(rests_[of].front(), step);
  }

  const DeploymentInput& input_;
  const BatchLimit limit_;
  const ChunksOfClasses rests_;
  const std::vector<double> service_;
  std::vector<double> transfer_;
  double bytes_ = 0;
};

std::string ms(double seconds) {
  char text[64];
  std::snprintf(text, sizeof text, "%.6g ms", seconds * 1e3);
  return text;
}

Error no_room(const ServerModel& server) {
  return fail(Code::resource_exhausted, "no number of servers is enough: ", server.name,
              " does not hold one sequence (", server.memory_limit, ")");
}

Error slow_step(const DeploymentInput& input, const ServerModel& server) {
  const StepTime one = server.decode(1);
  return fail(Code::invalid_argument, "no number of servers meets --tpot-target-ms ", ms(input.targets.tpot_seconds),
              ": a step of one sequence takes ", ms(one.seconds), " on ", server.name, ", ", ms(one.weight_seconds),
              " of them to read weights")
      .about("tpot_target_ms");
}

Error too_many() {
  return fail(Code::resource_exhausted, "more than ", kMostServers, " servers would be needed: see --request-rate");
}

Status check_limit(const DeploymentInput& input, const ServerModel& server, const BatchLimit& limit) {
  if (limit.sequences >= 1) return {};
  return server.sequences_in_memory < 1 ? no_room(server) : slow_step(input, server);
}

Error late_first_token(const DeploymentInput& input, const Disaggregated& parts) {
  return fail(Code::invalid_argument, "no number of servers meets --ttft-target-ms ", ms(input.targets.ttft_seconds),
              ": without any wait ", input.targets.ttft_quantile * 100, " % of first tokens come within ",
              ms(parts.least_first_token()), "; on average the prompt takes ", ms(parts.mean_prompt()), " on ",
              input.context.name, " and its transfer ", ms(parts.mean_transfer()))
      .about("ttft_target_ms");
}

// Which figure of the plan with one server less fails.
std::string context_limit(const DeploymentInput& input, const DisaggregatedPlan& less, int64_t servers) {
  if (servers == 1) return "one is needed";
  if (less.context.utilisation >= 1) return "prompts: fewer servers cannot compute as many";
  if (less.transfer.out_utilisation >= 1) return "the network out of the context servers";
  return "--ttft-target-ms: with one less " + ms(less.first_token.quantile_seconds) + ", the wait for a server is " +
         ms(less.context.wait_seconds) + " on average, for a target of " + ms(input.targets.ttft_seconds);
}

std::string generation_limit(const DeploymentInput& input, const DisaggregatedPlan& less, int64_t servers) {
  if (servers == 1) return "one is needed";
  if (!std::isfinite(less.generation.sequences))
    return "its batch: " + std::to_string(less.generation.batch_limit) + " sequences (" +
           less.generation.batch_limited_by + ")";
  if (less.transfer.in_utilisation >= 1) return "the network into the generation servers";
  if (less.generation.tpot_seconds > input.targets.tpot_seconds)
    return "--tpot-target-ms: with one less " + ms(less.generation.tpot_seconds);
  return "--ttft-target-ms: with one less " + ms(less.first_token.quantile_seconds) +
         ", or more context servers than it saves";
}

std::string aggregated_limit(const AggregatedPlan& less) {
  const GenerationState& g = less.generation;
  if (less.servers == 0) return "one is needed";
  if (!std::isfinite(g.sequences))
    return "its batch: " + std::to_string(g.batch_limit) + " sequences (" + g.batch_limited_by + "), beside prompts";
  if (less.prompts.utilisation >= 1) return "prompts: fewer servers cannot compute as many beside their decode steps";
  return "targets: with one less TTFT " + ms(less.first_token.quantile_seconds) + " and TPOT " + ms(g.tpot_seconds);
}

}  // namespace

int64_t decode_context(const std::vector<RequestClass>& classes) {
  const auto outputs = [](const RequestClass& c) { return static_cast<double>(c.output_tokens); };
  const double seen = average(classes, [&](const RequestClass& c) {
    return outputs(c) * (static_cast<double>(c.input_tokens) + outputs(c) / 2);
  });
  return std::max<int64_t>(1, std::llround(seen / average(classes, outputs)));
}

DisaggregatedPlan disaggregated_with(const DeploymentInput& input, int64_t context, int64_t generation) {
  const Disaggregated parts(input);
  return parts.with(context, parts.generation(generation));
}

Result<DisaggregatedPlan> plan_disaggregated(const DeploymentInput& input) {
  const Disaggregated parts(input);
  WEFT_RETURN_IF_ERROR(check_limit(input, input.generation, parts.limit()));
  if (parts.least_first_token() > input.targets.ttft_seconds) return late_first_token(input, parts);
  const auto good = [&](int64_t context, const GenerationState& g) {
    return meets(input.targets, parts.with(context, g).first_token, g.tpot_seconds);
  };
  // With so many servers of the other kind that none of their waits counts.
  const int64_t fewest = smallest(1, [&](int64_t n) { return good(kMostServers, parts.generation(n)); });
  const GenerationState many = parts.generation(kMostServers);
  const int64_t fewest_context = smallest(1, [&](int64_t n) { return good(n, many); });
  if (fewest == 0 || fewest_context == 0) return too_many();
  std::optional<DisaggregatedPlan> best;
  int64_t best_ranks = 0;
  const auto ranks = [&](int64_t context, int64_t generation) {
    return context * input.context.ranks + generation * input.generation.ranks;
  };
  for (int64_t n = fewest; n <= kMostServers && (!best || ranks(fewest_context, n) < best_ranks); ++n) {
    const GenerationState g = parts.generation(n);
    const int64_t context = smallest(fewest_context, [&](int64_t c) { return good(c, g); });
    if (context > 0 && (!best || ranks(context, n) < best_ranks))
      best = parts.with(context, g), best_ranks = ranks(context, n);
  }
  if (!best) return too_many();
  const int64_t c = best->context.servers, g = best->generation.servers;
  best->context_limited_by = context_limit(input, parts.with(std::max<int64_t>(c - 1, 1), best->generation), c);
  best->generation_limited_by =
      generation_limit(input, parts.with(c, parts.generation(std::max<int64_t>(g - 1, 1))), g);
  return *best;
}

namespace {

AggregatedPlan aggregated(const DeploymentInput& input, const BatchLimit& limit, const ChunksOfClasses& chunks,
                          int64_t servers) {
  AggregatedPlan plan{.servers = servers, .prompts = {}, .generation = {}, .first_token = {kNever, kNever}};
  plan.generation = generation_with(input, input.both, limit, chunks, servers);
  if (!std::isfinite(plan.generation.sequences)) return plan;
  const StepTime step = decode_step(input.both, plan.generation.sequences);
  const std::vector<double> service = prompt_seconds(chunks, &step);
  const Queue queue = prompt_queue(input, service, servers);
  plan.prompts = prompts_with(queue);
  std::vector<double> behind;
  for (const double seconds : service) behind.push_back(step.seconds / 2 + plan.generation.slot_wait_seconds + seconds);
  plan.first_token = first_token(input, queue, behind);
  return plan;
}

}  // namespace

AggregatedPlan aggregated_with(const DeploymentInput& input, int64_t servers) {
  return aggregated(input, batch_limit(input, input.both), prompt_chunks(input, input.both), servers);
}

Result<AggregatedPlan> plan_aggregated(const DeploymentInput& input) {
  const BatchLimit limit = batch_limit(input, input.both);
  WEFT_RETURN_IF_ERROR(check_limit(input, input.both, limit));
  const ChunksOfClasses chunks = prompt_chunks(input, input.both);
  const StepTime step = input.both.decode(1);
  std::vector<double> least;
  for (const double seconds : prompt_seconds(chunks, &step)) least.push_back(step.seconds / 2 + seconds);
  const double first = quantile_behind(Queue{}, spread(input.classes, least), input.targets.ttft_quantile);
  if (first > input.targets.ttft_seconds)
    return fail(Code::invalid_argument, "no number of servers that do both meets --ttft-target-ms ",
                ms(input.targets.ttft_seconds), ": without any wait ", input.targets.ttft_quantile * 100,
                " % of first tokens come within ", ms(first), ", beside a step of one sequence")
        .about("ttft_target_ms");
  const auto with = [&](int64_t n) { return aggregated(input, limit, chunks, n); };
  const int64_t servers = smallest(1, [&](int64_t n) {
    const AggregatedPlan plan = with(n);
    return meets(input.targets, plan.first_token, plan.generation.tpot_seconds);
  });
  if (servers == 0) return too_many();
  AggregatedPlan plan = with(servers);
  plan.limited_by = aggregated_limit(servers == 1 ? AggregatedPlan{} : with(servers - 1));
  return plan;
}

}  // namespace weft
