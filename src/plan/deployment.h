// How many servers a stream of requests needs, so that it meets targets of time: servers that compute prompts (context)
// and servers that generate (generation), or as many alike that do both. Pure arithmetic over what steps are estimated
// to take (cost.h); nothing here is measured. The formulas, with rates a second and times in seconds:
//
//   requests        come at random, R a second (Poisson arrivals), and are of classes i with input I_i, output O_i and
//   a
//                   share p_i; a part `cached` of every prompt is found in the server's prefix cache
//   S_i             a prompt: the sum over its chunks of the step that computes each. One prompt after another
//   context         C servers and one queue for all of them (a router that sends a prompt to a server that is free):
//                   M/G/C with service S, wait by Allen and Cunneen (queueing.h); utilisation rho = R E[S] / C
//   transfer        T_i = latency + KV bytes of I_i tokens / network bandwidth. A link out of each context server and
//                   one into each generation server, each M/G/1 (Pollaczek and Khinchine): rho = R E[T] / servers
//   rest            the generation server computes what fills no block, (block + 1) / 2 tokens on average, and with it
//                   the first token: half a step until the next one begins, and that step, with these rows in it
//   a mixed step    decode rows and a chunk in one: both alone, less the smaller one's reading of weights, since
//                   weights are read once. What a chunk adds to a decode step of n sequences: x(n)
//   TPOT            n sequences on a server that gets r requests a second, whose chunks add X(n) each:
//                   TPOT(n) = step(n) / (1 - r X(n)), decode steps stretched by prompts
//   n               Little's law (J. D. C. Little, 1961): n = r E[O] TPOT(n); the smallest solution
//   batch limit     the largest B with step(B) <= TPOT target, B sequences in memory, and B <= --max-batch-size.
//                   Sequences see E[O (I + O / 2)] / E[O] tokens, the average over the steps that they are in
//   slots           requests wait for a place among G B: M/G/(G B) with service O_i TPOT(n)
//   both in one     N servers: M/G/N with service S'_i = sum over chunks of (step(n) + x(n)), then n, TPOT, slots as
//                   above, with X the sum over a prompt's chunks. Half a step until the next one begins
//   TTFT            the waits + S + T + rest. Its quantile takes the prompts' wait as exponential (queueing.h) and the
//                   other waits by their means
//
// Requests are not shared out by their length, prompts do not share steps, and servers do not fail.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace weft {

// Equal requests, and their share of all.
struct RequestClass {
  double share = 1;           // of all classes together 1
  int64_t input_tokens = 1;   // at least 1
  int64_t output_tokens = 1;  // at least 1
};

// A step, of which the reading of weights is a part.
struct StepTime {
  double seconds = 0, weight_seconds = 0;
};

// What a server is estimated to take and to hold.
struct ServerModel {
  std::string name;  // for errors: "a generation server (--tp-size 2)"
  int ranks = 1;
  std::function<StepTime(int64_t sequences)> decode;             // each sees the tokens of decode_context()
  std::function<StepTime(int64_t rows, int64_t context)> chunk;  // of one prompt, whose last row sees `context` tokens
  int64_t chunk_tokens = 512;
  // Sequences of decode_context() tokens that memory holds beside the weights; less than 1: `memory_limit` says why.
  int64_t sequences_in_memory = 0;
  std::string memory_limit;  // "memory: 500 GB a rank, 349 GB of weights, 0.58 GB a sequence"
};

struct ServingTargets {
  double ttft_seconds = 0, tpot_seconds = 0;
  double ttft_quantile = 0.95;  // of requests that are to meet ttft_seconds
};

struct DeploymentInput {
  double request_rate = 1;            // a second
  std::vector<RequestClass> classes;  // at least one
  double cached_share = 0;            // of every prompt, 0 to less than 1
  int64_t block_tokens = 32;          // of the KV cache
  int64_t max_batch_size = 64;
  double network_bytes = 25e9, network_latency = 5e-6;
  std::function<double(int64_t tokens)> kv_bytes;  // of a prompt, on all ranks
  ServingTargets targets;
  ServerModel context, generation, both;
};

// E[O (I + O / 2)] / E[O]: the tokens that a sequence sees, on average over its decode steps; whole and at least 1.
int64_t decode_context(const std::vector<RequestClass>& classes);

// Servers that generate, and prompts or their rests beside it.
struct GenerationState {
  int64_t servers = 0;
  int64_t batch_limit = 0;  // B
  std::string batch_limited_by;
  double sequences = 0;            // n
  double step_seconds = 0;         // step(n)
  double tpot_seconds = 0;         // TPOT(n)
  double slot_utilisation = 0;     // n / B
  double slot_wait_seconds = 0;    // mean
  double longest_gap_seconds = 0;  // between two tokens: a mixed step, with the longest chunk
};
struct PromptState {
  int64_t servers = 0;
  double service_seconds = 0;  // E[S]
  double scv = 0;
  double utilisation = 0;
  double wait_seconds = 0;  // mean
};
struct TransferState {
  double bytes = 0, seconds = 0;  // mean of a request
  double out_utilisation = 0, in_utilisation = 0;
  double wait_seconds = 0;  // mean, both links
};
struct FirstToken {
  double mean_seconds = 0, quantile_seconds = 0;
};

struct DisaggregatedPlan {
  PromptState context;
  TransferState transfer;
  GenerationState generation;
  double rest_seconds = 0;
  FirstToken first_token;
  std::string context_limited_by, generation_limited_by;
};
struct AggregatedPlan {
  int64_t servers = 0;
  PromptState prompts;
  GenerationState generation;
  FirstToken first_token;
  std::string limited_by;
};

// The servers with the fewest ranks that meet the targets. Errors name the figure that no number of servers can change.
Result<DisaggregatedPlan> plan_disaggregated(const DeploymentInput& input);
Result<AggregatedPlan> plan_aggregated(const DeploymentInput& input);

// The two with given numbers of servers, whether or not they meet the targets; what grows forever is infinite.
DisaggregatedPlan disaggregated_with(const DeploymentInput& input, int64_t context, int64_t generation);
AggregatedPlan aggregated_with(const DeploymentInput& input, int64_t servers);

}  // namespace weft
