// An Aho-Corasick automaton over bytes: the state after some text is the longest suffix that begins a stop string,
// which is exactly the text that must be held back.
#include "text/stop_strings.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace weft {

StopSet::StopSet(std::vector<std::string> stops) : stops_(std::move(stops)) { build(); }

// The nodes come level by level: with the strings in order, those that share a beginning stand together, and every
// level of the trie is a pass over them. So a node's children are neighbours, and the suffix links of shorter texts are
// there when longer ones need them.
void StopSet::build() {
  std::vector<uint32_t> order(stops_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::erase_if(order, [&](uint32_t i) { return stops_[i].empty(); });
  // Of equal strings the first one counts.
  std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) { return stops_[a] < stops_[b]; });
  nodes_.emplace_back();
  std::vector<State> at(stops_.size(), 0);  // of each string: the node of its first `depth` bytes
  for (size_t depth = 0; !order.empty(); ++depth) {
    State parent = 0;
    int last = -1;  // byte of the newest node
    for (const uint32_t i : order) {
      const auto byte = static_cast<uint8_t>(stops_[i][depth]);
      if (last < 0 || at[i] != parent || byte != last) {
        parent = at[i], last = byte;
        const auto fresh = static_cast<State>(nodes_.size());
        Node& node = nodes_.emplace_back();
        node.depth = static_cast<uint32_t>(depth) + 1, node.byte = byte;
        if (nodes_[parent].children++ == 0) nodes_[parent].first = fresh;
        if (parent != 0) nodes_[fresh].fail = step(nodes_[parent].fail, byte);
      }
      at[i] = static_cast<State>(nodes_.size()) - 1;
      if (stops_[i].size() == depth + 1 && nodes_[at[i]].end < 0) nodes_[at[i]].end = static_cast<int32_t>(i);
    }
    std::erase_if(order, [&](uint32_t i) { return stops_[i].size() == depth + 1; });
  }
  for (Node& node : nodes_)  // shorter ones first
    if (node.end < 0) node.end = nodes_[node.fail].end;
}

StopSet::State StopSet::child(State node, uint8_t byte) const {
  const auto first = nodes_.begin() + nodes_[node].first, last = first + nodes_[node].children;
  const auto found = std::lower_bound(first, last, byte, [](const Node& n, uint8_t wanted) { return n.byte < wanted; });
  return found != last && found->byte == byte ? static_cast<State>(found - nodes_.begin()) : 0;
}

StopSet::State StopSet::step(State node, uint8_t byte) const {
  for (;;) {
    if (const State next = child(node, byte)) return next;
    if (node == 0) return 0;
    node = nodes_[node].fail;
  }
}

// What is held stays where it is until as much was sent: so a long stop string is not moved for every piece.
StopStrings::Output StopStrings::push(std::string_view piece) {
  if (matched_) return {"", matched_};
  held_ += piece;
  const size_t old = held_.size() - piece.size();
  for (size_t i = 0; i < piece.size(); ++i) {
    state_ = set_->step(state_, static_cast<uint8_t>(piece[i]));
    if (const auto end = set_->end(state_)) {
      matched_ = end;
      held_.resize(old + i + 1 - (include_ ? 0 : set_->stops()[*end].size()));
      return {take(held_.size()), matched_};
    }
  }
  return {take(held_.size() - set_->depth(state_)), std::nullopt};
}

// The text up to this byte of held_.
std::string StopStrings::take(size_t end) {
  std::string text = held_.substr(sent_, end - sent_);
  sent_ = end;
  if (2 * sent_ >= held_.size()) held_.erase(0, std::exchange(sent_, 0));
  return text;
}

std::string StopStrings::finish() {
  state_ = 0;
  return take(held_.size());
}

}  // namespace weft
