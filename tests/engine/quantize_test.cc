// `weft quantize`: what it writes has the values that compressed-tensors' spelling defines, near those it was made
// from, and runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "api/engine.h"
#include "api/recorded_plan.h"
#include "base/files.h"
#include "checkpoint/safetensors.h"
#include "plan/calibration.h"
#include "plan/quantize_checkpoint.h"
#include "plan/trace.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

float bf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

class Quantized : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    const auto reference = read_reference_case(std::get<0>(GetParam()));
    ASSERT_TRUE(reference.ok());
    source_ = reference->folder, prompt_ = reference->prompts.front().input_ids;
    auto opened = Checkpoint::open(source_);
    ASSERT_TRUE(opened.ok());
    checkpoint_ = *opened;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result<QuantizeReport> write(int64_t shard_bytes = int64_t{5} << 30) {
    EngineOptions options;
    options.dtype = ComputeType::float32;
    WEFT_TRY(const RecordedPlan recorded, record_plan(source_, options));
    return quantize_checkpoint(
        *checkpoint_, recorded.plan, folder_,
        {.bits = std::get<1>(GetParam()), .importance = importance_, .shard_bytes = shard_bytes});
  }

  const fs::path folder_ = fs::temp_directory_path() / ("weft_quantized_" + std::to_string(::getpid()));
  std::string source_;
  std::vector<int32_t> prompt_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::map<std::string, std::vector<float>> importance_;
};

INSTANTIATE_TEST_SUITE_P(Models, Quantized,
                         ::testing::Combine(::testing::Values("llama-3.1", "qwen3-moe", "deepseek-v3", "qwen2-vl"),
                                            ::testing::Values(3, 4, 8)),
                         [](const auto& info) {
                           return as_test_name(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param));
                         });

TEST_P(Quantized, ValuesAreThoseOfTheSpelling) {
  const int bits = std::get<1>(GetParam()), group = bits == 8 ? 64 : 32;
  const auto report = write();
  ASSERT_TRUE(report.ok()) << report.error().to_string();
  EXPECT_GT(report->matrices, 0);
  EXPECT_LT(report->bytes_after, report->bytes_before);
  const std::string path = folder_ / "model.safetensors";
  const std::string file = read_file(path, size_t{1} << 30).value();
  const auto stored = parse_safetensors(std::as_bytes(std::span(file)), path);
  ASSERT_TRUE(stored.ok()) << stored.error().to_string();
  std::map<std::string, const TensorInfo*> by_name;
  for (const TensorInfo& tensor : *stored) by_name[tensor.name] = &tensor;
  const auto result = Checkpoint::open(folder_);
  ASSERT_TRUE(result.ok()) << result.error().to_string();
  int found = 0;
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    const TensorInfo* const read = (*result)->find(name);
    ASSERT_TRUE(read) << name;
    const std::vector<float> before = read_all(tensor).value(), after = read_all(*read).value();
    ASSERT_EQ(before.size(), after.size()) << name;
    std::string module = tensor.stored_name.empty() ? tensor.name : tensor.stored_name;
    if (!by_name.contains(module + "_packed")) module = tensor.name;
    if (!by_name.contains(module + "_packed")) {
      EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)), 0) << name;
      continue;
    }
    ++found;
    const auto* const words = reinterpret_cast<const uint8_t*>(by_name[module + "_packed"]->data.data());
    const auto* const scales = reinterpret_cast<const uint16_t*>(by_name[module + "_scale"]->data.data());
    ASSERT_EQ(by_name[module + "_packed"]->shape, (std::vector<int64_t>{tensor.rows(), tensor.cols() * bits / 32}));
    ASSERT_EQ(by_name[module + "_scale"]->shape, (std::vector<int64_t>{tensor.rows(), tensor.cols() / group}));
    for (size_t i = 0; i < before.size(); ++i) {
      uint16_t scale_bits = 0;
      std::memcpy(&scale_bits, scales + i / static_cast<size_t>(group), sizeof scale_bits);
      int code = -(1 << (bits - 1));
      for (int bit = 0; bit < bits; ++bit) {
        const size_t at = i * static_cast<size_t>(bits) + static_cast<size_t>(bit);  // rows fill whole words
        code += static_cast<int>(words[at / 8] >> at % 8 & 1) << bit;
      }
      const float scale = bf16(scale_bits);
      ASSERT_EQ(after[i], static_cast<float>(code) * scale) << name << " " << i;
      // Half a step of the codes; the largest of a group may be cut off.
      ASSERT_LE(std::fabs(before[i] - after[i]), std::fabs(scale) * (bits == 8 ? 0.51f : 1.6f)) << name << " " << i;
    }
  }
  EXPECT_EQ(found, report->matrices);
}

TEST_P(Quantized, Runs) {
  ASSERT_TRUE(write(200'000).ok());  // in several files
  EXPECT_TRUE(fs::exists(folder_ / "model.safetensors.index.json"));
  EngineOptions options;
  options.threads = 2, options.kv_cache_memory = int64_t{64} << 20;
  const auto answer_of = [&](const std::string& path) {
    auto engine = Engine::load(path, options);
    EXPECT_TRUE(engine.ok()) << engine.error().to_string();
    if (!engine.ok()) return Answer();
    Request request;
    request.prompt_token_ids = prompt_;
    request.max_tokens = 8;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    return ask(**engine, request);
  };
  const Answer answer = answer_of(folder_);
  EXPECT_EQ(answer.error, "");
  ASSERT_EQ(answer.choices.size(), 1u);
  EXPECT_EQ(answer.choices[0].ids().size(), 8u);
}

// What the columns of each product are multiplied with, by all values of a trace.
TEST_P(Quantized, ImportanceIsTheMeanSquareOfTheInputs) {
  const auto traced = [&](PlanTrace::Keep keep) {
    EngineOptions options;
    options.threads = 2, options.dtype = ComputeType::float32, options.enable_block_reuse = false;
    options.trace = std::make_shared<PlanTrace>(std::vector<std::string>(), keep);
    auto engine = Engine::load(source_, options);
    EXPECT_TRUE(engine.ok());
    Request request;
    request.prompt_token_ids = prompt_;
    request.max_tokens = 1;
    EXPECT_EQ(ask(**engine, request).error, "");
    return options.trace;
  };
  const auto rows = traced(PlanTrace::Keep::rows), sums = traced(PlanTrace::Keep::square_sums);
  const auto inputs = rows->product_inputs();
  std::map<std::string, TracedValue> values;
  for (TracedValue& value : rows->take()) values[value.name] = value;
  const auto importance = column_importance(*sums);
  ASSERT_TRUE(importance.ok());
  for (const auto& [tensor, columns] : *importance) {
    const TensorInfo* const weights = checkpoint_->find(tensor);
    ASSERT_TRUE(weights) << tensor;
    ASSERT_EQ(columns.size(), static_cast<size_t>(weights->cols())) << tensor;
    const TracedValue& input = values.at(inputs.at(tensor).value);
    std::vector<double> squares(columns.size());
    for (size_t i = 0; i < input.values.size(); ++i)
      squares[i % columns.size()] += double{input.values[i]} * input.values[i];
    for (size_t c = 0; c < columns.size(); ++c)
      ASSERT_NEAR(columns[c],
                  squares[c] * static_cast<double>(columns.size()) / static_cast<double>(input.values.size()),
                  1e-5 * columns[c] + 1e-12)
          << tensor << " " << c;
  }
  // A projection behind a norm, one behind attention, and one behind the activation.
  const auto count_of = [&](std::string_view what) {
    return std::count_if(importance->begin(), importance->end(),
                         [&](const auto& entry) { return entry.first.ends_with(what); });
  };
  EXPECT_GE(count_of(".o_proj.weight"), 2);
  EXPECT_GE(count_of(".down_proj.weight"), 2);
  EXPECT_GE(count_of(".gate_proj.weight"), 2);
  EXPECT_TRUE(count_of(".q_proj.weight") >= 2 || count_of(".q_a_proj.weight") >= 2 ||
              count_of(".q_b_proj.weight") >= 2);
  // It changes what is written, and every matrix has it.
  if (std::get<1>(GetParam()) == 8) return;
  importance_ = *importance;
  const auto report = write();
  ASSERT_TRUE(report.ok()) << report.error().to_string();
  EXPECT_EQ(report->calibrated, report->matrices);
}

TEST_P(Quantized, WhatCannotBeDoneIsAnError) {
  if (std::get<1>(GetParam()) != 8) {  // in the middle of the work: nothing is left, so that it can be tried again
    for (const auto& [name, tensor] : checkpoint_->tensors()) importance_[name] = {1.0f};
    EXPECT_FALSE(write().ok());
    EXPECT_FALSE(fs::exists(folder_));
    importance_.clear();
  }
  ASSERT_TRUE(write().ok());
  const auto again = write();
  ASSERT_FALSE(again.ok());
  EXPECT_NE(again.error().message().find("is not empty"), std::string::npos);
  const auto quantized = Checkpoint::open(folder_);
  ASSERT_TRUE(quantized.ok());
  const auto twice = quantize_checkpoint(**quantized, Plan(), folder_.string() + "_2", {});
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.error().message().find("is quantised already"), std::string::npos);
  const auto bits = quantize_checkpoint(*checkpoint_, Plan(), folder_.string() + "_2", {.bits = 5});
  ASSERT_FALSE(bits.ok());
  EXPECT_NE(bits.error().message().find("5 bits"), std::string::npos);
}

}  // namespace
}  // namespace weft::testing
