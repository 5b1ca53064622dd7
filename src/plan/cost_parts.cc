// The parts of cost.h that need no machine: the layers of a share, what messages a collective is made of, and how
// tokens fall on experts.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "base/check.h"
#include "plan/cost.h"

namespace weft {

Traffic& Traffic::operator+=(const Traffic& other) {
  messages += other.messages, bytes += other.bytes;
  network_messages += other.network_messages, network_bytes += other.network_bytes;
  network_rounds += other.network_rounds;
  return *this;
}

namespace {

// "model.layers" and 3 of "model.layers.3.mlp": the first component that is a number; -1: none.
std::pair<std::string, int> layer_in(const std::string& path) {
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() < 9 && part.find_first_not_of("0123456789") == std::string::npos;
    if (number) return {path.substr(0, begin), std::atoi(part.c_str())};
    begin = end + 1;
  }
  return {"", -1};
}

}  // namespace

LayerRange layers_of(const Plan& share) {
  std::string list;  // of the first layer; heads may have numbers of their own ("score.0")
  int first = -1, last = -1;
  for (const Op& op : share.ops) {
    const auto [in, layer] = layer_in(op.path);
    if (layer < 0 || std::holds_alternative<SendOp>(op.kind)) continue;  // sends have the path of the next layer
    if (first < 0) list = in, first = layer;
    if (in == list) first = std::min(first, layer), last = std::max(last, layer);
  }
  return {std::max(first, 0), last + 1};
}

namespace {

constexpr int64_t kDrawnRows = 16384;  // the more rows a draw has, the less draws differ

// Experts of one row after another.
class ChoiceDraws {
 public:
  explicit ChoiceDraws(const kernels::RouteRule& rule) : rule_(rule), group_size_(rule.experts / rule.groups) {}

  const std::vector<int>& next() {
    draw(rule_.kept_groups, rule_.groups, groups_, [](int) { return true; });
    draw(rule_.chosen, rule_.experts, chosen_, [this](int expert) { return contains(groups_, expert / group_size_); });
    return chosen_;
  }

 private:
  static bool contains(const std::vector<int>& list, int number) {
    return std::find(list.begin(), list.end(), number) != list.end();
  }
  // `count` different numbers below `end` that are allowed.
  template <class Allowed>
  void draw(int count, int end, std::vector<int>& list, Allowed allowed) {
    list.clear();
    while (static_cast<int>(list.size()) < count)
      if (const int n = static_cast<int>(random_() % static_cast<unsigned>(end)); allowed(n) && !contains(list, n))
        list.push_back(n);
  }

  const kernels::RouteRule& rule_;
  const int group_size_;
  std::mt19937 random_{1};  // the same numbers everywhere
  std::vector<int> groups_, chosen_;
};

}  // namespace

ExpertLoad expert_load(const kernels::RouteRule& rule, int ranks, int64_t rows) {
  const int experts = rule.experts, own = experts / ranks;
  ExpertLoad load;
  load.hit = own * (1 - std::pow(1 - static_cast<double>(rule.chosen) / experts, static_cast<double>(rows)));
  load.pairs = static_cast<double>(rows * rule.chosen) / ranks;
  if (ranks == 1) {
    load.slowest_hit = load.hit, load.slowest_pairs = load.pairs;
    return load;
  }
  const auto draws = static_cast<int>(std::clamp<int64_t>(kDrawnRows / std::max<int64_t>(rows, 1), 2, 64));
  ChoiceDraws random(rule);
  for (int draw = 0; draw < draws; ++draw) {
    std::vector<char> hit(static_cast<size_t>(experts), 0);
    std::vector<int> pairs(static_cast<size_t>(ranks), 0), hits(static_cast<size_t>(ranks), 0);
    for (int64_t row = 0; row < rows; ++row)
      for (const int expert : random.next()) ++pairs[expert / own], hit[expert] = 1;
    for (int expert = 0; expert < experts; ++expert) hits[expert / own] += hit[expert];
    load.slowest_hit += *std::max_element(hits.begin(), hits.end());
    load.slowest_pairs += *std::max_element(pairs.begin(), pairs.end());
  }
  load.slowest_hit /= draws, load.slowest_pairs /= draws;
  return load;
}

namespace {

// Numbers from which on ranks add up a share each (src/comm/process_communicator.cc).
constexpr int64_t kSharedFloats = 8192;

// One round in which a rank sends `bytes` to each of `peers`.
void add_round(const RankPlaces& places, int rank, const std::vector<int>& peers, int64_t bytes, Traffic& traffic) {
  bool waits = false;
  for (const int peer : peers) {
    ++traffic.messages, traffic.bytes += bytes;
    if (places.node(peer) == places.node(rank)) continue;
    ++traffic.network_messages, traffic.network_bytes += bytes, waits = true;
  }
  traffic.network_rounds += waits ? 1 : 0;
}

// Of the rank's `set` successive ranks.
std::vector<int> other_ranks(int rank, int set) {
  const int first = rank / set * set;
  std::vector<int> others;
  for (int r = first; r < first + set; ++r)
    if (r != rank) others.push_back(r);
  return others;
}

}  // namespace

Traffic gather_traffic(const RankPlaces& places, int rank, int64_t own, int set) {
  Traffic traffic;
  add_round(places, rank, other_ranks(rank, set > 0 ? set : places.layout.tensor), own, traffic);
  return traffic;
}

Traffic send_traffic(const RankPlaces& places, int rank, int64_t bytes) {
  Traffic traffic;
  add_round(places, rank, {rank + places.layout.tensor}, bytes, traffic);
  return traffic;
}

Traffic output_traffic(const RankPlaces& places, int rank, int64_t bytes) {
  Traffic traffic;
  if (rank != 0) add_round(places, rank, {0}, bytes, traffic);
  return traffic;
}

Traffic reduce_traffic(const RankPlaces& places, int rank, int64_t own) {
  const int ranks = places.layout.tensor;
  WEFT_CHECK((ranks & (ranks - 1)) == 0) << "sums are those of a power of two of ranks";
  const bool shared = own / 4 >= kSharedFloats;
  const int first = rank / ranks * ranks;
  Traffic traffic;
  int64_t bytes = own;
  for (int distance = 1; distance < ranks; distance *= 2) {
    if (shared) bytes /= 2;
    add_round(places, rank, {first + ((rank - first) ^ distance)}, bytes, traffic);
  }
  if (shared) add_round(places, rank, other_ranks(rank, ranks), own / ranks, traffic);
  return traffic;
}

}  // namespace weft
