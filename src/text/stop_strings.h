// Finds stop strings in a stream of text pieces. Text that may still turn out to be the start of one is held back.
//
// The automaton over the stop strings (StopSet) is built once and shared by all streams of a request; a stream keeps
// its state in it and the text that it holds back, whatever the number and length of the stop strings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft {

// Never changed once it is built: any number of threads may read it. Its memory is about 20 bytes for a byte of the
// stop strings.
class StopSet {
 public:
  // Empty stop strings are ignored.
  explicit StopSet(std::vector<std::string> stops);

  // The state after some text, which is the longest suffix of the text that begins a stop string.
  using State = uint32_t;
  State step(State state, uint8_t byte) const;
  size_t depth(State state) const { return nodes_[state].depth; }  // bytes of that suffix
  // The stop string that ends here, the longest if several do.
  std::optional<size_t> end(State state) const {
    return nodes_[state].end < 0 ? std::nullopt : std::optional<size_t>(static_cast<size_t>(nodes_[state].end));
  }
  const std::vector<std::string>& stops() const { return stops_; }
  // Of the automaton.
  size_t bytes() const { return nodes_.size() * sizeof(Node); }

 private:
  // The children of a node are the `children` nodes from `first` on, in the order of their bytes.
  struct Node {
    uint32_t first = 0;
    uint32_t fail = 0;   // the longest proper suffix that is a node too
    uint32_t depth = 0;  // length of the text that this node stands for
    int32_t end = -1;    // index of a stop string; -1: none ends here
    uint16_t children = 0;
    uint8_t byte = 0;  // by which its parent leads here
  };
  void build();
  State child(State node, uint8_t byte) const;  // 0: there is none

  std::vector<std::string> stops_;
  std::vector<Node> nodes_;  // node 0 is the root
};

// One per stream; one thread at a time. Cost is linear in the text, whatever the number of stop strings.
class StopStrings {
 public:
  // With `include` the matched stop string is part of the text.
  explicit StopStrings(std::shared_ptr<const StopSet> set, bool include = false)
      : set_(std::move(set)), include_(include) {}

  struct Output {
    std::string text;               // may be sent now
    std::optional<size_t> matched;  // index into the set's `stops`; nothing after it is part of the answer
  };
  // The first match in the text counts; of several that end at the same byte, the longest (it begins first). After a
  // match, further pieces are ignored.
  Output push(std::string_view piece);
  // The text held back, when the stream ends without a match.
  std::string finish();

 private:
  std::string take(size_t end);

  std::shared_ptr<const StopSet> set_;
  bool include_;
  StopSet::State state_ = 0;
  std::string held_;  // from sent_ on, between calls, the text of state_
  size_t sent_ = 0;   // bytes of held_ that were given out
  std::optional<size_t> matched_;
};

}  // namespace weft
