// Numbers of steps in their order. There are few, so that taking the first one out moves the others; needs no memory
// once it has room.
#pragma once

#include <cstddef>
#include <vector>

namespace weft {

class StepQueue {
 public:
  explicit StepQueue(size_t room) { numbers_.reserve(room); }
  bool empty() const { return numbers_.empty(); }
  size_t size() const { return numbers_.size(); }
  int front() const { return numbers_.front(); }
  void push_back(int number) { numbers_.push_back(number); }
  void pop_front() { numbers_.erase(numbers_.begin()); }
  auto begin() const { return numbers_.begin(); }
  auto end() const { return numbers_.end(); }

 private:
  std::vector<int> numbers_;
};

}  // namespace weft
