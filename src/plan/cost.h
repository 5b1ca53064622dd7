// What a rank's share of a plan holds, and an estimate of what a step costs it, before anything is loaded or run
// (`weft plan`). Every number but the times follows from the plan; the times are a model of a machine that is described
// by four numbers. Nothing here is measured.
//
//   time of a step     the sum over a stage's ops, plus its messages
//   overlap            the sum over ranks behind a product of 512 rows or more is taken in n = rows / 256 pieces
//                      (sum_pieces()), and messages of one travel while the next is computed: both together take the
//                      time of the product and of the messages less (n - 1) / n of the shorter of the two. Latency
//                      counts for every piece
//   an op              max(bytes / memory bandwidth, FLOPs / peak)
//                      bytes: weights that the op reads, once for all rows, and the cached tokens that its rows see;
//                      activations stay in the processor's caches and cost nothing
//                      FLOPs: 2 x outputs x k for each row of a product; 2 x heads x (k_dim + v_dim) for each pair of a
//                      row and a token that it sees
//   experts            a row chooses `chosen` of E experts, all sets alike likely. Of a rank's e experts a step of n
//                      rows reads e (1 - (1 - chosen / E)^n) on average. All ranks wait for the slowest one: the mean
//                      over 2 to 64 draws of the largest number among the ranks (expert_load())
//   a message          within a node bytes / memory bandwidth; between nodes bytes / network bandwidth, which the ranks
//                      of a stage on one node share, and once a round the network's latency
//   reduce             of f floats on n ranks (comm/communicator.h): log2 n rounds, each with all f numbers to one
//                      partner; from 8192 numbers on log2 n rounds with a half, a quarter, ... and one more in which
//                      every rank sends its f / n sums to n - 1 others
//   gather, exchange   one round: every rank's part, or a piece of it, to each of n - 1 others
//   send               to the rank of the same number in the next stage: rows x columns x 4 bytes, one round. A step
//                      takes the sum over the stages; with as many steps under way as there are stages, the slowest one
//                      says how many tokens a second come out
//   outputs            every rank that has outputs, but rank 0, sends rank 0 the best candidate of each row, 8 bytes
//                      (greedy; with top_k k of them, and for samples that need all logits 4 bytes a token of its part)
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/ranks.h"
#include "plan/plan.h"

namespace weft {

// A machine of equal ranks; all per second.
struct MachineModel {
  double memory_bytes = 300e9;    // read by one rank
  double flops = 20e12;           // of one rank
  double network_bytes = 25e9;    // out of a node, and as many into it
  double network_latency = 5e-6;  // seconds from a node to another
};

// Where ranks are: rank `stage * layout.tensor + index`, on nodes in turn, each with size() / nodes of them.
struct RankPlaces {
  RankLayout layout;
  int nodes = 1;  // divides layout.size()
  int node(int rank) const { return rank / (layout.size() / nodes); }
};

// Equal sequences of one step, shared out over the homes (attention data parallelism). Each has `rows` tokens, the last
// of which sees `context` tokens, itself included, and one row whose output is wanted.
struct StepShape {
  int64_t sequences = 1, rows = 1, context = 1;
};

// Messages that one rank sends, in so many rounds that wait for another node.
struct Traffic {
  int64_t messages = 0, bytes = 0;
  int64_t network_messages = 0, network_bytes = 0, network_rounds = 0;  // of these between nodes
  Traffic& operator+=(const Traffic& other);
  bool operator==(const Traffic&) const = default;
};

// What a rank's share holds.
struct HeldBytes {
  std::map<std::string, int64_t> weights;  // by the name of the form: "fp8", "bfloat16", ...
  int64_t cache_per_token = 0;             // while every layer keeps the token
  int64_t weight_bytes() const;
};

// One step on one rank.
struct StepCost {
  double weight_bytes = 0, cache_bytes = 0, flops = 0;  // read and computed; of experts the average
  double compute_seconds = 0;                           // with the slowest rank's experts
  double message_seconds = 0;
  double hidden_seconds = 0;               // of these, behind products
  std::map<std::string, Traffic> traffic;  // by op_name()
  Traffic sent() const;
  double seconds() const { return compute_seconds + message_seconds - hidden_seconds; }
};

// The decoder layers [first, last) that a share's ops belong to, as their paths count them ("model.layers.3.mlp").
using LayerRange = std::pair<int, int>;
LayerRange layers_of(const Plan& share);

// Of a share that split_plan() made. `form`: of matrices without a format of their own; `cache`: type of the KV cache.
HeldBytes held_bytes(const Plan& share, kernels::WeightForm form, DType cache);

// How the choice of experts falls on `ranks` ranks with equal shares of them: experts with rows, and pairs of a row and
// an expert, on the average rank and on the slowest. Of `groups` groups of experts a row chooses from `kept_groups`.
struct ExpertLoad {
  double hit = 0, slowest_hit = 0, pairs = 0, slowest_pairs = 0;
};
ExpertLoad expert_load(const kernels::RouteRule& rule, int ranks, int64_t rows);

// What rank `rank` sends for one collective of `own` bytes on each rank of its stage (exchange: of `own` bytes for each
// rank). `set`: among so many successive ranks; 0: those of the stage.
Traffic reduce_traffic(const RankPlaces& places, int rank, int64_t own);
Traffic gather_traffic(const RankPlaces& places, int rank, int64_t own, int set = 0);
// One message to the next stage, and one to rank 0.
Traffic send_traffic(const RankPlaces& places, int rank, int64_t bytes);
Traffic output_traffic(const RankPlaces& places, int rank, int64_t bytes);

// One step on rank `rank`, whose share of the plan that is. With attention data parallelism the step of a home with the
// most sequences. `form`, `cache` as above.
StepCost step_cost(const Plan& share, const RankPlaces& places, int rank, const StepShape& step,
                   const MachineModel& machine, kernels::WeightForm form, DType cache);

}  // namespace weft
