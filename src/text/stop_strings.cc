// An Aho-Corasick automaton over bytes: the state after some text is the longest suffix that begins a stop string,
// which is exactly the text that must be held back.
#include "text/stop_strings.h"

#include <cstdint>
#include <deque>
#include <map>
#include <utility>

namespace weft {

struct StopStrings::Node {
  std::map<uint8_t, size_t> next;
  size_t fail = 0;            // the longest proper suffix that is a node too
  size_t depth = 0;           // length of the text that this node stands for
  std::optional<size_t> end;  // the stop string that ends here; the longest if several do
};

StopStrings::~StopStrings() = default;
StopStrings::StopStrings(const StopStrings&) = default;
StopStrings::StopStrings(StopStrings&&) noexcept = default;
StopStrings& StopStrings::operator=(StopStrings&&) noexcept = default;

StopStrings::StopStrings(std::vector<std::string> stops, bool include) : stops_(std::move(stops)), include_(include) {
  build();
}

void StopStrings::build() {
  nodes_.emplace_back();
  for (size_t i = 0; i < stops_.size(); ++i) {
    if (stops_[i].empty()) continue;
    size_t node = 0;
    for (char c : stops_[i]) {
      auto [it, fresh] = nodes_[node].next.try_emplace(static_cast<uint8_t>(c), nodes_.size());
      const size_t child = it->second;
      if (fresh) {
        const size_t depth = nodes_[node].depth + 1;
        nodes_.emplace_back().depth = depth;
      }
      node = child;
    }
    if (!nodes_[node].end) nodes_[node].end = i;
  }
  // Breadth first, so that the links of shorter texts are there when longer ones need them.
  std::deque<size_t> queue{0};
  while (!queue.empty()) {
    const size_t node = queue.front();
    queue.pop_front();
    for (auto [c, child] : nodes_[node].next) {
      queue.push_back(child);
      if (node != 0) nodes_[child].fail = step(nodes_[node].fail, c);
      if (!nodes_[child].end) nodes_[child].end = nodes_[nodes_[child].fail].end;
    }
  }
}

size_t StopStrings::step(size_t node, uint8_t c) const {
  for (;;) {
    if (auto it = nodes_[node].next.find(c); it != nodes_[node].next.end()) return it->second;
    if (node == 0) return 0;
    node = nodes_[node].fail;
  }
}

StopStrings::Output StopStrings::push(std::string_view piece) {
  if (matched_) return {"", matched_};
  held_ += piece;
  const size_t old = held_.size() - piece.size();
  for (size_t i = 0; i < piece.size(); ++i) {
    state_ = step(state_, static_cast<uint8_t>(piece[i]));
    if (auto end = nodes_[state_].end) {
      matched_ = end;
      held_.resize(old + i + 1 - (include_ ? 0 : stops_[*end].size()));
      return {std::exchange(held_, {}), matched_};
    }
  }
  const size_t sure = held_.size() - nodes_[state_].depth;
  Output output{held_.substr(0, sure), std::nullopt};
  held_.erase(0, sure);
  return output;
}

std::string StopStrings::finish() {
  state_ = 0;
  return std::exchange(held_, {});
}

}  // namespace weft
