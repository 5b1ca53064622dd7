// The parts of cost.h that need no machine: layers and stages, what messages a collective is made of, and how tokens
// fall on experts.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <set>

#include "base/check.h"
#include "plan/cost.h"

namespace weft {

Traffic& Traffic::operator+=(const Traffic& other) {
  messages += other.messages, bytes += other.bytes;
  network_messages += other.network_messages, network_bytes += other.network_bytes;
  network_rounds += other.network_rounds;
  return *this;
}

int layer_in(const std::string& path) {
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() < 9 && part.find_first_not_of("0123456789") == std::string::npos;
    if (number) return std::atoi(part.c_str());
    begin = end + 1;
  }
  return -1;
}

std::vector<int> layers_of(const Plan& plan) {
  std::vector<int> layers;
  int layer = 0;
  for (const Op& op : plan.ops) layers.push_back(layer = std::max(layer, layer_in(op.path)));
  return layers;
}

namespace {

// Of the matrices and tables, by the first layer that reads them.
std::vector<int64_t> bytes_by_layer(const Plan& plan, kernels::WeightForm form) {
  const std::vector<int> layers = layers_of(plan);
  std::vector<int64_t> bytes(layers.empty() ? 1 : static_cast<size_t>(layers.back()) + 1);
  std::set<int> known;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    int64_t& sum = bytes[static_cast<size_t>(layers[i])];
    for (const int matrix : matrices_of(plan.ops[i]))
      if (known.insert(matrix).second) sum += plan.matrices[matrix].bytes(form);
    if (const auto* embed = std::get_if<EmbedOp>(&plan.ops[i].kind); embed && embed->table >= 0)
      sum += plan.tables[embed->table].rows * plan.table_cols[embed->table] * 2;
  }
  return bytes;
}

}  // namespace

Result<std::vector<LayerRange>> cut_layers(const Plan& whole, int stages, kernels::WeightForm form) {
  const std::vector<int64_t> bytes = bytes_by_layer(whole, form);
  const int layers = static_cast<int>(bytes.size());
  if (stages > layers)
    return fail(Code::invalid_argument, "the ", layers, " layers cannot be shared by ", stages,
                " stages: there are more stages than layers")
        .about("pp-size");
  std::vector<int64_t> before(1, 0);
  for (const int64_t layer : bytes) before.push_back(before.back() + layer);
  // largest[s][l]: of the best cut of the first l layers into s stages, whose last one begins at from[s][l].
  constexpr int64_t kNone = int64_t{1} << 62;
  std::vector largest(static_cast<size_t>(stages) + 1, std::vector<int64_t>(static_cast<size_t>(layers) + 1, kNone));
  std::vector from(static_cast<size_t>(stages) + 1, std::vector<int>(static_cast<size_t>(layers) + 1, 0));
  largest[0][0] = 0;
  for (int s = 1; s <= stages; ++s)
    for (int l = s; l <= layers; ++l)
      for (int first = s - 1; first < l; ++first) {
        const int64_t most = std::max(largest[s - 1][first], before[l] - before[first]);
        if (most < largest[s][l]) largest[s][l] = most, from[s][l] = first;
      }
  std::vector<LayerRange> ranges;
  for (int s = stages, last = layers; s > 0; last = from[s][last], --s) ranges.push_back({from[s][last], last});
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

namespace {

int handed_columns(const Plan& share, const std::vector<int>& layers, int last) {
  std::set<int> made, read;
  for (size_t i = 0; i < share.ops.size(); ++i) {
    const Op& op = share.ops[i];
    const bool later = layers[i] >= last;
    if (!later && op.out && !std::holds_alternative<RopeAnglesOp>(op.kind)) made.insert(op.out->storage);
    for (const Value& in : op.in)
      if (later && made.contains(in.storage)) read.insert(in.storage);
    if (later && op.out && op.in.empty()) made.erase(op.out->storage);
  }
  int cols = 0;
  for (const int storage : read) cols += share.storages[storage].cols;
  return cols;
}

}  // namespace

Stage stage_of(Plan share, LayerRange range) {
  const std::vector<int> layers = layers_of(share);
  Stage stage{std::move(share), range, 0};
  Plan& plan = stage.plan;
  stage.handed_cols = handed_columns(plan, layers, range.second);
  std::vector<Op> ops;
  for (size_t i = 0; i < plan.ops.size(); ++i)
    if (layers[i] >= range.first && layers[i] < range.second) ops.push_back(std::move(plan.ops[i]));
  plan.ops = std::move(ops);
  std::vector<std::set<int>> held(plan.groups.size());
  for (const Op& op : plan.ops)
    if (const auto* append = std::get_if<AppendOp>(&op.kind); append && append->cache.kind == CacheRef::Kind::paged)
      held[static_cast<size_t>(append->cache.group)].insert(append->cache.index);
  for (size_t g = 0; g < plan.groups.size(); ++g) plan.groups[g].layers = static_cast<int>(held[g].size());
  return stage;
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
