// What `weft plan` shows of where an op comes from is there in the checkpoint: the name of a tensor, or of a module.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/thread_team.h"
#include "runtime/model.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

class PlanPaths : public ::testing::TestWithParam<std::string> {};

// `path` is a tensor's name, or the beginning of one that ends at a dot.
bool exists(const std::string& path, const Checkpoint& checkpoint) {
  const std::vector<std::string_view> names = checkpoint.names();
  return std::any_of(names.begin(), names.end(),
                     [&](std::string_view name) { return name == path || name.starts_with(path + "."); });
}

int check(const Plan& plan, const Checkpoint& checkpoint) {
  int shown = 0;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    if (plan.ops[i].path.empty()) continue;
    EXPECT_TRUE(exists(plan.ops[i].path, checkpoint))
        << "op " << i << " " << op_name(plan.ops[i]) << ": \"" << plan.ops[i].path << "\"";
    ++shown;
  }
  return shown;
}

TEST_P(PlanPaths, Exist) {
  const RankTeam ranks(1);
  const Result<Model> model = load_model(test_data("golden/" + GetParam()), ranks, {.dtype = ComputeType::bfloat16});
  ASSERT_TRUE(model.ok()) << model.error().to_string();
  // All but the rotary angles, which all layers share.
  EXPECT_GE(check(model->plan(), *model->checkpoint), static_cast<int>(model->plan().ops.size()) - 3);
  if (!model->vision) return;
  EXPECT_GE(check(model->vision->plan, *model->checkpoint), static_cast<int>(model->vision->plan.ops.size()) - 1);
}

INSTANTIATE_TEST_SUITE_P(, PlanPaths, ::testing::ValuesIn(reference_case_names()), test_name);

}  // namespace
}  // namespace weft::testing
