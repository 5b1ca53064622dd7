// A second look at lay_out(), for tests: walks a plan op by op as a step does and checks the rule of
// comm/communicator.h, that nothing writes where other ranks may still read, and that no value is overwritten before
// its last reader.
#pragma once

#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "plan/passes.h"

namespace weft {

class RegionCheck {
 public:
  RegionCheck(const Plan& plan, const RowLimits& limits) : plan_(plan), arena_(lay_out(plan, limits)) {
    for (size_t s = 0; s < plan.storages.size(); ++s) {
      const Storage& storage = plan.storages[s];
      const size_t elements = static_cast<size_t>(limits.of(storage.rows) * arena_.ld[s] + storage.extra);
      end_.push_back(arena_.offset[s] + elements * static_cast<size_t>(kernels::operand_size_bytes(storage.operand)));
    }
  }

  // The first fault of a step of this kind, or "".
  std::string check(bool images, Pass pass) const {
    std::vector<bool> lost(plan_.storages.size());  // overwritten by another value
    std::map<Line, int> read_by_others;             // the storage that the last op of each line has read
    for (size_t i = 0; i < plan_.ops.size(); ++i) {
      const Op& op = plan_.ops[i];
      if ((op.images_only && !images) || (op.pass != Pass::any && op.pass != pass)) continue;
      for (const Value& in : op.in)
        if (lost[index(in)]) return fault(i, "reads a value that is overwritten");
      if (const Line line = line_of(op); line != Line::none) {
        read_by_others[line] = op.in.empty() ? -1 : op.in[0].storage;
        if (!op.in.empty() && !plan_.storages[index(op.in[0])].shared)
          return fault(i, "reads of others what is not shared");
      }
      if (!op.out) continue;
      for (const auto& [line, storage] : read_by_others)
        if (storage >= 0 && overlap(op.out->storage, storage))
          return fault(i, "writes where other ranks may still read");
      for (size_t s = 0; s < lost.size(); ++s)
        if (overlap(static_cast<int>(s), op.out->storage)) lost[s] = s != index(*op.out);
    }
    for (const Value& result : plan_.results())
      if (lost[index(result)]) return "a result is overwritten";
    return "";
  }

  std::string check_all() const {
    for (const bool images : {false, true})
      for (const Pass pass : {Pass::first, Pass::chained})
        if (const std::string found = check(images, pass); !found.empty()) return found;
    return "";
  }

 private:
  static size_t index(const Value& v) { return static_cast<size_t>(v.storage); }
  bool overlap(int a, int b) const {
    const auto x = static_cast<size_t>(a), y = static_cast<size_t>(b);
    return used(x) && used(y) && arena_.offset[x] < end_[y] && arena_.offset[y] < end_[x];
  }
  // Storages that no op is left to touch have no place.
  bool used(size_t s) const {
    for (const Op& op : plan_.ops) {
      if (op.out && index(*op.out) == s) return true;
      for (const Value& in : op.in)
        if (index(in) == s) return true;
    }
    return false;
  }
  std::string fault(size_t op, const char* what) const {
    std::ostringstream text;
    text << "op " << op << " (" << op_name(plan_.ops[op]) << " " << plan_.ops[op].path << ") " << what;
    return text.str();
  }

  const Plan& plan_;
  const Arena arena_;
  std::vector<size_t> end_;
};

}  // namespace weft
