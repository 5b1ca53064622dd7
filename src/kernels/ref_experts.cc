// The reference table's mixture of experts: choosing experts, sorting rows by expert, weighing and summing. Every table
// uses the first two, which touch few numbers; the experts' matrix products are those of LinearArgs.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/layout.h"
#include "kernels/ref.h"

namespace weft::kernels {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

struct Chosen {
  int32_t id[kMaxChosen];
  float weight[kMaxChosen];
};

void softmax(const float* logits, int count, float* scores) {
  const float max = *std::max_element(logits, logits + count);
  float sum = 0;
  for (int e = 0; e < count; ++e) sum += scores[e] = std::exp(logits[e] - max);
  for (int e = 0; e < count; ++e) scores[e] /= sum;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Experts outside of the kept groups are hidden.
void keep_groups(const RouteRule& rule, float* choice) {
  if (rule.groups <= 1) return;
  const int size = rule.experts / rule.groups;
  float rank[kMaxExperts];
  for (int g = 0; g < rule.groups; ++g) {
    float best = kHidden, second = kHidden;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      if (choice[e] > best) second = best, best = choice[e];
      else if (choice[e] > second) second = choice[e];
    }
    rank[g] = size > 1 ? best + second : best;
  }
  bool kept[kMaxExperts] = {};
  for (int i = 0; i < rule.kept_groups; ++i) {
    int best = -1;
    for (int g = 0; g < rule.groups; ++g)
      if (!kept[g] && (best < 0 || rank[g] > rank[best])) best = g;
    kept[best] = true;
  }
  for (int e = 0; e < rule.experts; ++e)
    if (!kept[e / size]) choice[e] = kHidden;
}

// The largest entries of `choice` (the lower id first among equals), in ascending order of ids.
void choose(const RouteRule& rule, const float* choice, Chosen& chosen) {
  bool taken[kMaxExperts] = {};
  for (int i = 0; i < rule.chosen; ++i) {
    int best = -1;
    for (int e = 0; e < rule.experts; ++e)
      if (!taken[e] && (best < 0 || choice[e] > choice[best])) best = e;
    taken[best] = true;
    chosen.id[i] = best;
  }
  std::sort(chosen.id, chosen.id + rule.chosen);
}

void route_row(const RouteArgs& a, const float* logits, Chosen& chosen) {
  const RouteRule& rule = a.rule;
  float scores[kMaxExperts], choice[kMaxExperts];
  switch (rule.kind) {
    case RouteRule::Kind::softmax: softmax(logits, rule.experts, scores); break;
    case RouteRule::Kind::sigmoid: std::transform(logits, logits + rule.experts, scores, sigmoid); break;
    case RouteRule::Kind::sigmoid_after: std::copy_n(logits, rule.experts, scores); break;
  }
  for (int e = 0; e < rule.experts; ++e) choice[e] = a.bias ? scores[e] + a.bias[e] : scores[e];
  keep_groups(rule, choice);
  choose(rule, choice, chosen);
  float sum = 0;
  for (int i = 0; i < rule.chosen; ++i) {
    chosen.weight[i] =
        rule.kind == RouteRule::Kind::sigmoid_after ? sigmoid(scores[chosen.id[i]]) : scores[chosen.id[i]];
    sum += chosen.weight[i];
  }
  for (int i = 0; i < rule.chosen; ++i)
    chosen.weight[i] = (rule.normalize ? chosen.weight[i] / (sum + 1e-20f) : chosen.weight[i]) * rule.scale;
}

}  // namespace

void reference(const RouteArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    Chosen chosen;
    route_row(a, a.logits + r * a.ld_logits, chosen);
    float* out = a.out + r * a.ld_out;
    std::memcpy(out, chosen.id, sizeof(int32_t) * a.rule.chosen);
    std::memcpy(out + a.rule.chosen, chosen.weight, sizeof(float) * a.rule.chosen);
  }
}

void reference(const GroupRowsArgs& a, int rows, Part part) {
  if (part.index != 0) return;
  int32_t* offsets = a.out;
  int32_t* entries = a.out + a.experts + 1;
  const auto expert = [&](int row, int slot) {
    int32_t id = 0;
    std::memcpy(&id, a.chosen + row * a.ld_chosen + slot, sizeof id);
    return id;
  };
  std::fill_n(offsets, a.experts + 1, 0);
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < a.slots; ++j) ++offsets[expert(r, j) + 1];
  for (int e = 0; e < a.experts; ++e) offsets[e + 1] += offsets[e];
  // offsets[e] runs through its entries, which leaves it where the next begins.
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < a.slots; ++j) entries[offsets[expert(r, j)]++] = r * a.slots + j;
  for (int e = a.experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

void reference(const ScaleRowsArgs& a, int rows, Part part) {
  const Range range = share(static_cast<int64_t>(rows) * a.slots, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const int64_t r = unit / a.slots, j = unit % a.slots, start = r * a.ld_out + j * a.slot_stride;
    const float weight = a.chosen[r * a.ld_chosen + a.slots + j];
    for (int c = 0; c < a.cols; ++c) ref_store(a.out, start + c, a.operand, a.x[r * a.ld_x + c] * weight);
    ref_end_row(a.out, start, a.cols, a.operand);
  }
}

namespace {

// The tree over the sums of groups [first, first + count).
float group_tree(const float* sums, int first, int count) {
  return count == 1 ? sums[first] : group_tree(sums, first, count / 2) + group_tree(sums, first + count / 2, count / 2);
}

}  // namespace

void reference(const CombineArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  const int group_size = a.experts / expert_groups(a.experts), first_group = a.first_expert / group_size,
            groups = (a.last_expert - a.first_expert) / group_size;
  for (int64_t r = range.first; r < range.last; ++r) {
    const float* weights = a.chosen + r * a.ld_chosen + a.slots;
    for (int c = 0; c < a.cols; ++c) {
      float sums[8] = {};
      for (int j = 0; j < a.slots; ++j) {
        int32_t id = 0;
        std::memcpy(&id, a.chosen + r * a.ld_chosen + j, sizeof id);
        if (id < a.first_expert || id >= a.last_expert) continue;
        float& sum = sums[id / group_size - first_group];
        sum = std::fma(a.weighted ? weights[j] : 1.0f, a.x[r * a.ld_x + static_cast<int64_t>(j) * a.slot_stride + c],
                       sum);
      }
      a.out[r * a.ld_out + c] = group_tree(sums, 0, groups);
    }
  }
}

}  // namespace weft::kernels
