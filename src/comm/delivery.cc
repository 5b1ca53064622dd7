#include "comm/delivery.h"

namespace weft {

Delivery::Delivery(ProcessLink& link, int lanes, int tag, double deadline) : tag_(tag), deadline_(deadline) {
  lanes_.reserve(static_cast<size_t>(lanes));
  for (int i = 0; i < lanes; ++i) lanes_.emplace_back(link);
}

void Delivery::expect(int lane, int from, void* into, size_t bytes) {
  lanes_[static_cast<size_t>(lane)].receive(from, tag_, into, bytes);
}

void Delivery::wait(int lane) { lanes_[static_cast<size_t>(lane)].wait("waiting for outputs", deadline_); }

void Delivery::deliver(const void* data, size_t bytes) {
  lanes_.front().send(0, tag_, data, bytes);
  lanes_.front().wait("delivering outputs", deadline_);
}

}  // namespace weft
