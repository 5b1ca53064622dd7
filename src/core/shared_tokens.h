// Token ids that many read and nobody changes: the prompt of all choices of a request is one list in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace weft {

// A value as a vector is; copies share the list. Any thread may read it.
class SharedTokens {
 public:
  SharedTokens() = default;
  SharedTokens(std::vector<int32_t> ids)  // NOLINT: as a vector
      : ids_(ids.empty() ? nullptr : std::make_shared<const std::vector<int32_t>>(std::move(ids))) {}

  std::span<const int32_t> ids() const { return ids_ ? std::span<const int32_t>(*ids_) : std::span<const int32_t>(); }
  operator std::span<const int32_t>() const { return ids(); }  // NOLINT: as a vector
  std::vector<int32_t> copy() const { return ids_ ? *ids_ : std::vector<int32_t>(); }
  size_t size() const { return ids().size(); }
  bool empty() const { return ids_ == nullptr; }
  int32_t operator[](size_t i) const { return (*ids_)[i]; }
  auto begin() const { return ids().begin(); }
  auto end() const { return ids().end(); }

 private:
  std::shared_ptr<const std::vector<int32_t>> ids_;
};

}  // namespace weft
