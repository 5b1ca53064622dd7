// Eyes inside a plan: the values that its ops write, by name, for whoever looks for the op that is wrong (`weft plan
// --trace`, docs/debugging.md).
//
// A name is a path of the checkpoint, followed by ":what" where the value is not simply what that module returns:
//   model.layers.0.self_attn.q_proj           a projection (one of several in one product is a value of its own)
//   model.layers.0.self_attn.q_proj:rotated   its heads after norm and rotation, in place
//   model.layers.0.self_attn.o_proj:residual  a projection to which the product adds the residual stream
//   model.layers.0.mlp.gate_proj:gated        act(gate) * up, which the product behind both writes
//   model.layers.0.self_attn:attend           an op without a tensor of its own
// A name that an earlier op has gets ".2", ".3" and so on.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "plan/plan.h"

namespace weft {

struct TracedValue {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols], whatever the form that the plan keeps them in
};

// What the columns of a product's weights are multiplied with. The value of experts may have `cols` columns for each
// slot, side by side.
struct ProductInput {
  std::string value;  // its name
  int cols = 0;
};

class PlanTrace;

// The names of one plan's values. An executor calls ran() behind each of the plan's ops.
class TracedPlan {
 public:
  // `plan` has been through the passes. `pathless` stands for the path of ops that have none.
  TracedPlan(PlanTrace& trace, const Plan& plan, const std::string& pathless);
  // Op `op` has written `rows` rows from `data` on, `ld` elements of the operand form apart.
  void ran(size_t op, int rows, const void* data, int64_t ld);
  // Of products: the value that a tensor's columns are multiplied with, where that is a value of its own.
  void product_inputs(std::map<std::string, ProductInput>& inputs) const;
  // For the file's metadata: per value its name, its op and the names of the values in the op's first input.
  void describe(Json& ops) const;

 private:
  struct Columns {
    int first = 0, cols = 0;
  };
  struct Part {  // of an op's output: columns put side by side under one name
    std::string name;
    std::vector<Columns> columns;
    bool integers = false;  // int32, not float
  };
  void name_op(const Op& op);
  std::string unique(std::string name);
  std::vector<std::string> names_of(const Value& v) const;

  PlanTrace& trace_;
  const Plan plan_;
  std::string pathless_;
  std::vector<std::vector<Part>> parts_;          // per op; empty: no output, or none that is a table of numbers
  std::vector<std::vector<std::string>> inputs_;  // per op: names in its first input
  std::vector<std::pair<Value, std::string>> written_;
  std::set<std::string> used_;
};

// Collects the values of one request at a time. add_plan() before anything runs; the rest by whoever knows that
// nothing runs at the moment.
class PlanTrace {
 public:
  enum class Keep : uint8_t { rows, square_sums };
  // Values whose name begins with one of the prefixes; none: all. With `square_sums` a value has one row, the sums of
  // the squares of what its `rows` rows held.
  explicit PlanTrace(std::vector<std::string> prefixes, Keep keep = Keep::rows)
      : prefixes_(std::move(prefixes)), keep_(keep) {}

  // Lives as long as the trace.
  TracedPlan& add_plan(const Plan& plan, const std::string& pathless);
  bool wants(const std::string& name) const;
  // Appends rows to the value of that name.
  void add(const std::string& name, int rows, int cols, std::vector<float> values);
  // What was written since the last call, in the order of the ops. Steps after the first add rows.
  std::vector<TracedValue> take();
  // By the tensor of a product's weights.
  std::map<std::string, ProductInput> product_inputs() const;
  Json describe() const;

 private:
  std::vector<std::string> prefixes_;
  const Keep keep_;
  std::vector<std::unique_ptr<TracedPlan>> plans_;
  std::vector<TracedValue> values_;
};

}  // namespace weft
