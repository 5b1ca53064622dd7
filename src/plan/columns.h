// A set of columns of a value, as ascending ranges: what a rank has of it (split.cc).
#pragma once

#include <algorithm>
#include <vector>

namespace weft {

class Columns {
 public:
  struct Range {
    int first = 0, last = 0;
    int size() const { return last - first; }
    bool operator==(const Range&) const = default;
  };

  void add(Range added) {
    if (added.first >= added.last) return;
    std::vector<Range> merged;
    for (const Range& r : ranges_) {
      if (r.last < added.first || r.first > added.last) merged.push_back(r);
      else added = {std::min(added.first, r.first), std::max(added.last, r.last)};
    }
    merged.insert(std::lower_bound(merged.begin(), merged.end(), added,
                                   [](const Range& a, const Range& b) { return a.first < b.first; }),
                  added);
    ranges_ = std::move(merged);
  }
  bool empty() const { return ranges_.empty(); }
  int size() const {
    int sum = 0;
    for (const Range& r : ranges_) sum += r.size();
    return sum;
  }
  const std::vector<Range>& ranges() const { return ranges_; }
  // What lies in the window, counted from its first column.
  Columns within(int first, int cols) const {
    Columns inside;
    for (const Range& r : ranges_)
      inside.add({std::max(r.first, first) - first, std::min(r.last, first + cols) - first});
    return inside;
  }
  // How many columns of the set are below `column`: its place among them.
  int place_of(int column) const {
    int place = 0;
    for (const Range& r : ranges_) place += std::max(0, std::min(r.last, column) - r.first);
    return place;
  }
  bool operator==(const Columns&) const = default;

 private:
  std::vector<Range> ranges_;
};

}  // namespace weft
