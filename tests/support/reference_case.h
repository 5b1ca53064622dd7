// Reads the cases of tests/data/golden: a small checkpoint of random weights with the outputs that a correct engine
// must produce (tests/data/README.md describes the files).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace weft::testing {

struct ReferenceTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

struct ReferencePrompt {
  std::string name;
  std::vector<int32_t> input_ids;
  std::vector<int32_t> token_type_ids;             // encoders; else empty
  std::vector<int32_t> greedy;                     // the continuation; empty where the model does not generate
  std::vector<float> gap;                          // per greedy step: best minus second best logit
  std::vector<int32_t> rows;                       // the positions that "logits" has; empty: all
  std::map<std::string, ReferenceTensor> outputs;  // "logits", "reward", "step_probs"
  std::optional<std::string> text, text_pair;      // encode to input_ids
  std::vector<std::string> images;                 // files, in the order of the placeholders in `text`
  std::vector<std::vector<std::string>> videos;    // frames of each
  bool has_images() const { return !images.empty() || !videos.empty(); }
};

struct ReferenceCase {
  std::string name, folder;
  std::vector<ReferencePrompt> prompts;  // by name
};

// Folders of tests/data/golden that hold a case, sorted.
std::vector<std::string> reference_case_names();
Result<ReferenceCase> read_reference_case(const std::string& name);
// The prompts of an expected.safetensors, by name, without images.
Result<std::vector<ReferencePrompt>> read_reference_values(const std::string& path);
// Of all values about their mean: the unit of errors.
double deviation(const std::vector<float>& values);
// A text as googletest takes the names of cases: other characters than letters and digits become "_".
std::string as_test_name(std::string text);
// The same of a parameter, for INSTANTIATE_TEST_SUITE_P.
inline constexpr auto test_name = [](const auto& info) { return as_test_name(info.param); };
// A file or folder of tests/data.
std::string test_data(const std::string& name);

}  // namespace weft::testing
