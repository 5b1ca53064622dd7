// A binary min-heap of (key, id) from which the entry of any id can be erased in O(log n). Ids are small integers.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/make_room.h"

namespace weft {

class IndexedHeap {
 public:
  // Room for ids below `ids`, so that nothing below allocates.
  void reserve(size_t ids) { entries_.reserve(ids), place_.reserve(ids); }
  // The same for ids below `ids`, growing by doubling.
  void make_room(size_t ids) {
    if (ids > entries_.size()) weft::make_room(entries_, ids - entries_.size());
    if (ids > place_.size()) weft::make_room(place_, ids - place_.size());
  }

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  uint64_t top_key() const { return entries_.front().key; }
  int32_t top() const { return entries_.front().id; }
  bool contains(int32_t id) const { return static_cast<size_t>(id) < place_.size() && place_[id] >= 0; }

  void push(int32_t id, uint64_t key) {
    if (static_cast<size_t>(id) >= place_.size()) place_.resize(id + 1, -1);
    WEFT_CHECK(place_[id] < 0) << "id " << id << " is in the heap already";
    entries_.push_back({key, id});
    place_[id] = static_cast<int32_t>(entries_.size() - 1);
    sift_up(entries_.size() - 1);
  }

  // Does nothing if the id is not there.
  void erase(int32_t id) {
    if (!contains(id)) return;
    const size_t hole = place_[id];
    place_[id] = -1;
    const Entry last = entries_.back();
    entries_.pop_back();
    if (hole == entries_.size()) return;
    entries_[hole] = last;
    place_[last.id] = static_cast<int32_t>(hole);
    sift_down(hole);
    sift_up(place_[last.id]);
  }

 private:
  struct Entry {
    uint64_t key;
    int32_t id;
  };

  void exchange(size_t a, size_t b) {
    std::swap(entries_[a], entries_[b]);
    place_[entries_[a].id] = static_cast<int32_t>(a);
    place_[entries_[b].id] = static_cast<int32_t>(b);
  }
  void sift_up(size_t i) {
    for (; i > 0 && entries_[i].key < entries_[(i - 1) / 2].key; i = (i - 1) / 2) exchange(i, (i - 1) / 2);
  }
  void sift_down(size_t i) {
    for (;;) {
      size_t least = i;
      for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < entries_.size(); ++child) {
        if (entries_[child].key < entries_[least].key) least = child;
      }
      if (least == i) return;
      exchange(i, least), i = least;
    }
  }

  std::vector<Entry> entries_;
  std::vector<int32_t> place_;  // per id: index into entries_, or -1
};

}  // namespace weft
