// A cursor into a checkpoint's tensor names: `w / "layers" / 3 / "mlp"` names "<prefix>.layers.3.mlp".
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace weft {

// Copying is cheap; it owns nothing but a path.
class Scope {
 public:
  explicit Scope(std::string path = {}) : path_(std::move(path)) {}

  Scope operator/(std::string_view child) const {
    if (path_.empty()) return Scope(std::string(child));
    std::string path;
    path.reserve(path_.size() + 1 + child.size());
    path.append(path_).append(1, '.').append(child);
    return Scope(std::move(path));
  }
  Scope operator/(int index) const { return *this / std::to_string(index); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace weft
