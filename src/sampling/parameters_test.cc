#include "sampling/parameters.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

namespace weft {
namespace {

// The table of docs/contract.md, as the rows have it.
std::string docs_table() {
  std::ostringstream text;
  text << "| name | must | default | what it does | also set by | beams |\n|---|---|---|---|---|---|\n";
  for (const SamplingParameter& parameter : sampling_parameters()) {
    std::string must = parameter.range.must;  // " must be ..., not "
    if (!must.empty()) must = must.substr(6, must.rfind(", ") - 6);
    std::string others = parameter.in_generation_config ? "model" : "";
    if (parameter.option > 0) others += others.empty() ? "option" : ", option";
    text << "| `" << parameter.name << "` | " << must << " | " << value_of(parameter, {}) << " | " << parameter.help
         << " | " << others << " | " << (parameter.unfit_for_beams ? "refused" : "") << " |\n";
  }
  return text.str();
}

TEST(Parameters, DocsListThem) {
  std::ifstream file(WEFT_SOURCE_DIR "/docs/contract.md");
  ASSERT_TRUE(file);
  const std::string docs(std::istreambuf_iterator<char>(file), {});
  EXPECT_NE(docs.find("\n\n" + docs_table() + "\n"), std::string::npos) << "docs/contract.md must hold this table:\n"
                                                                        << docs_table();
}

TEST(Parameters, RowsAreComplete) {
  std::set<std::string> names;
  std::set<int> places;
  for (const SamplingParameter& parameter : sampling_parameters()) {
    SCOPED_TRACE(parameter.name);
    EXPECT_TRUE(names.insert(parameter.name).second);
    EXPECT_EQ(find_sampling_parameter(parameter.name), &parameter);
    EXPECT_TRUE(check_range(parameter, {}).ok());
    EXPECT_NE(std::string(parameter.help), "");
    EXPECT_FALSE(parameter.unfit_for_beams && parameter.unfit_for_beams({}));
    EXPECT_TRUE(parameter.option == 0 || places.insert(parameter.option).second);
  }
  EXPECT_EQ(find_sampling_parameter("top"), nullptr);
  ASSERT_FALSE(places.empty());
  EXPECT_EQ(*places.begin(), 1);
  EXPECT_EQ(*places.rbegin(), static_cast<int>(places.size()));
}

// Both sides of every limit, and the whole text of the error. An empty text: valid.
TEST(Parameters, Ranges) {
  const struct {
    const char* name;
    double value;
    const char* error;
  } cases[] = {
      {"temperature", 0, ""},
      {"temperature", 1000, ""},
      {"temperature", -0.5, "temperature must be a finite number of at least 0, not -0.5"},
      {"top_k", -1, ""},
      {"top_k", -2, "top_k must be -1 or 0 (off) or positive, not -2"},
      {"top_p", 1e-6, ""},
      {"top_p", 1, ""},
      {"top_p", 0, "top_p must be above 0 and at most 1, not 0"},
      {"top_p", 1.5, "top_p must be above 0 and at most 1, not 1.5"},
      {"min_p", 0, ""},
      {"min_p", 1, ""},
      {"min_p", -0.25, "min_p must be between 0 and 1, not -0.25"},
      {"min_p", 1.25, "min_p must be between 0 and 1, not 1.25"},
      {"top_p_decay", 0, "top_p_decay must be above 0 and at most 1, not 0"},
      {"top_p_min", 2, "top_p_min must be above 0 and at most 1, not 2"},
      {"top_p_reset_id", -7, ""},
      {"presence_penalty", -2, ""},
      {"presence_penalty", 2, ""},
      {"presence_penalty", 2.5, "presence_penalty must be between -2 and 2, not 2.5"},
      {"frequency_penalty", -2.5, "frequency_penalty must be between -2 and 2, not -2.5"},
      {"repetition_penalty", 1e-6, ""},
      {"repetition_penalty", 0, "repetition_penalty must be a finite number above 0, not 0"},
      {"prompt_ignore_length", 0, ""},
      {"prompt_ignore_length", -1, "prompt_ignore_length must not be negative, but is -1"},
      {"no_repeat_ngram_size", 0, ""},
      {"no_repeat_ngram_size", -3, "no_repeat_ngram_size must not be negative, but is -3"},
      {"max_draft_tokens", -1, ""},
      {"max_draft_tokens", 0, ""},
      {"max_draft_tokens", 1000, ""},
      {"max_draft_tokens", -2, "max_draft_tokens must be -1 (as the engine chooses) or at least 0, not -2"},
  };
  for (const auto& c : cases) {
    const SamplingParameter* parameter = find_sampling_parameter(c.name);
    ASSERT_NE(parameter, nullptr) << c.name;
    SamplingParams params;
    ASSERT_TRUE(set_value(*parameter, c.value, params));
    const Status status = check_range(*parameter, params);
    EXPECT_EQ(status.ok() ? "" : status.error().message(), c.error);
    EXPECT_EQ(status.ok() ? c.name : status.error().param(), c.name);
  }
}

TEST(Parameters, NumbersThatAreNotFinite) {
  for (const char* name : {"temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"})
    for (const float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      const SamplingParameter* parameter = find_sampling_parameter(name);
      SamplingParams params;
      params.*std::get<float SamplingParams::*>(parameter->member) = value;
      EXPECT_FALSE(check_range(*parameter, params).ok()) << name << " " << value;
    }
}

TEST(Parameters, ValuesOfTheirTypes) {
  SamplingParams params;
  EXPECT_TRUE(set_value(*find_sampling_parameter("top_k"), 5.75, params));
  EXPECT_EQ(params.top_k, 5);
  EXPECT_FALSE(set_value(*find_sampling_parameter("top_k"), 3e9, params));
  EXPECT_FALSE(set_value(*find_sampling_parameter("top_p"), 1e300, params));
  EXPECT_EQ(params.top_k, 5);
  EXPECT_EQ(params.top_p, 1.0f);
  set_to_default(*find_sampling_parameter("top_k"), params);
  EXPECT_EQ(params.top_k, 0);
}

}  // namespace
}  // namespace weft
