// Reading checkpoints: what is written comes back, what is wrong is refused with its name, whatever the bytes.
#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/files.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/usage.h"

namespace weft {
namespace {

std::string temporary_folder() {
  std::string name = (std::filesystem::temp_directory_path() / "weft_checkpoint_XXXXXX").string();
  return ::mkdtemp(name.data());
}

struct Folder {
  std::string path = temporary_folder();
  ~Folder() { std::filesystem::remove_all(path); }
  void write(const std::string& name, const std::string& text) const { ASSERT_TRUE(write_file(path + "/" + name, text).ok()); }
};

std::string message_of(const Folder& folder) {
  const auto opened = Checkpoint::open(folder.path);
  return opened.ok() ? "ok" : opened.error().to_string();
}

TEST(Safetensors, WriterAndReaderAgree) {
  const Folder folder;
  folder.write("config.json", R"({"architectures": ["X"]})");
  std::vector<float> values(12);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 5.5f;
  {
    auto writer = SafetensorsWriter::create(folder.path + "/model.safetensors", {.metadata = {}, .expected_tensors = 0});  // the header must grow
    ASSERT_TRUE(writer.ok());
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(writer->add("t" + std::to_string(i), {3, 4}, std::span<const float>(values)).ok());
    EXPECT_FALSE(writer->add("t0", {3, 4}, std::span<const float>(values)).ok()) << "a name used twice";
    ASSERT_TRUE(writer->finish().ok());
  }
  const auto checkpoint = Checkpoint::open(folder.path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
  const TensorInfo* tensor = (*checkpoint)->find("t39");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(*read_all(*tensor), values);
  std::vector<float> part(2 * 4);
  ASSERT_TRUE(read_rows(*tensor, 1, 2, part.data(), 4).ok());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 4));
}

std::string safetensors(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, '\0');
}

TEST(Safetensors, HostileHeadersAreRefused) {
  const char* const headers[] = {
      "", "{", "[]", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
      R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", R"({"a":{"dtype":"XX","shape":[2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"};
  for (const char* header : headers) {
    const std::string file = safetensors(header, 8);
    EXPECT_FALSE(parse_safetensors(std::as_bytes(std::span(file)), "file").ok()) << header;
  }
  const std::string good = safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  EXPECT_TRUE(parse_safetensors(std::as_bytes(std::span(good)), "file").ok());
  EXPECT_FALSE(parse_safetensors(std::as_bytes(std::span(good)).first(good.size() - 1), "file").ok()) << "truncated";
}

TEST(Safetensors, RandomDamageNeverCrashes) {
  const std::string good = safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})", 12);
  std::mt19937 rng(5);
  for (int round = 0; round < 20000; ++round) {
    std::string file = good;
    for (int n = 1 + static_cast<int>(rng() % 4); n > 0; --n) file[rng() % file.size()] = static_cast<char>(rng());
    file.resize(rng() % 8 == 0 ? rng() % file.size() : file.size());
    const auto parsed = parse_safetensors(std::as_bytes(std::span(file)), "file");
    if (!parsed.ok()) continue;
    for (const TensorInfo& tensor : *parsed)
      if (is_float(tensor.type)) (void)read_all(tensor).ok();
  }
}

TEST(Folders, WhatIsMissingIsNamed) {
  Folder folder;
  EXPECT_NE(message_of(folder).find("not a model folder"), std::string::npos);
  folder.write("config.json", R"({"architectures": ["X"]})");
  EXPECT_NE(message_of(folder).find("no weights"), std::string::npos);
  folder.write("pytorch_model.bin", "x");
  EXPECT_NE(message_of(folder).find("pickle"), std::string::npos);
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "../outside.safetensors"}})");
  EXPECT_NE(message_of(folder).find("weight_map.a"), std::string::npos);
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "part-1.safetensors"}})");
  EXPECT_NE(message_of(folder).find("part-1.safetensors is missing"), std::string::npos);
  folder.write("part-1.safetensors", safetensors(R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
  EXPECT_NE(message_of(folder).find("a is not in part-1"), std::string::npos);
}

TEST(Usage, AllProblemsAreReportedTogether) {
  const Folder folder;
  folder.write("config.json", R"({"architectures": ["X"]})");
  folder.write("model.safetensors", safetensors(R"({"n":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]}})", 16));
  const auto checkpoint = Checkpoint::open(folder.path);
  ASSERT_TRUE(checkpoint.ok());
  TensorUsage usage(**checkpoint);
  EXPECT_EQ(usage.take("absent.weight", {3}), nullptr);
  EXPECT_EQ(usage.take("w", {1, 2}), nullptr);
  EXPECT_EQ(usage.take("n", {2}), nullptr);
  const std::string problem = usage.finish().error().message();
  for (const char* part : {"absent.weight", "w is [2, 1] instead of [1, 2]", "n holds int32"}) EXPECT_NE(problem.find(part), std::string::npos) << problem;
}

std::string fault(const char* json, const std::function<void(const HfConfig&)>& read) {
  const HfConfig config(*parse_json(json));
  read(config);
  return config.status().ok() ? "ok" : config.status().error().message();
}

TEST(Config, FaultsNameTheKey) {
  const auto count = [](const HfConfig& c) { EXPECT_GE(c.count("hidden_size"), 1); };
  EXPECT_EQ(fault(R"({"hidden_size": 64})", count), "ok");
  for (const char* json : {"{}", R"({"hidden_size": 0})", R"({"hidden_size": -4})", R"({"hidden_size": "64"})", R"({"hidden_size": 1.5})",
                           R"({"hidden_size": 99999999999})", R"({"hidden_size": [64]})"})
    EXPECT_NE(fault(json, count).find("hidden_size"), std::string::npos) << json;
  const auto rope = [](const HfConfig& c) { (void)c.rope(); };
  EXPECT_EQ(fault(R"({"rope_scaling": null, "rope_theta": 10000})", rope), "ok");
  for (const char* json : {R"({"rope_scaling": {"type": "dynamic", "factor": 2}})", R"({"rope_scaling": {"rope_type": "linear", "factor": 0.5}})",
                           R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})", R"({"rope_scaling": 3})",
                           R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 64}})"})
    EXPECT_NE(fault(json, rope).find("rope_scaling"), std::string::npos) << json;
}

TEST(Config, BothSpellingsOfRope) {
  const HfConfig old(*parse_json(R"({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}})"));
  const HfConfig fresh(*parse_json(R"({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4}})"));
  EXPECT_EQ(old.rope(), fresh.rope());
  const HfConfig layered(*parse_json(
      R"({"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8}, "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}})"));
  EXPECT_EQ(layered.rope(LayerKind::full).factor, 8);
  EXPECT_EQ(layered.rope(LayerKind::window).theta, 1e4);
  EXPECT_EQ(layered.rope(LayerKind::window).scaling, RopeConfig::Scaling::none);
  EXPECT_TRUE(layered.status().ok());
}

// A GGUF file of one Q8_0 and one Q4_0 tensor, written by hand after the format's description.
std::string tiny_gguf() {
  std::string file;
  const auto put = [&](auto value) { file.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto text = [&](const std::string& words) { put(static_cast<uint64_t>(words.size())), file += words; };
  file += "GGUF", put(uint32_t{3}), put(uint64_t{2}), put(uint64_t{1});
  text("general.architecture"), put(uint32_t{8}), text("llama");
  text("a"), put(uint32_t{2}), put(uint64_t{32}), put(uint64_t{1}), put(uint32_t{8}), put(uint64_t{0});
  text("b"), put(uint32_t{2}), put(uint64_t{32}), put(uint64_t{1}), put(uint32_t{2}), put(uint64_t{64});
  file.resize((file.size() + 31) / 32 * 32, '\0');
  const size_t data = file.size();
  put(uint16_t{0x3800});  // 0.5 in half precision
  for (int i = 0; i < 32; ++i) put(static_cast<int8_t>(i - 16));
  file.resize(data + 64, '\0');
  put(uint16_t{0x4000});  // 2.0
  for (int i = 0; i < 16; ++i) put(static_cast<uint8_t>(i | (15 - i) << 4));
  return file;
}

TEST(Gguf, BlocksFollowTheirDefinition) {
  const std::string file = tiny_gguf();
  const auto header = parse_gguf(std::as_bytes(std::span(file)));
  ASSERT_TRUE(header.ok()) << header.error().to_string();
  EXPECT_EQ(header->metadata.text("general.architecture"), "llama");
  const std::vector<float> a = *read_all(header->tensors[0]), b = *read_all(header->tensors[1]);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(a[static_cast<size_t>(i)], 0.5f * static_cast<float>(i - 16));
    EXPECT_EQ(b[static_cast<size_t>(i)], 2.0f * static_cast<float>((i < 16 ? i : 31 - i) - 8));  // low nibbles first, offset 8
  }
}

TEST(Gguf, RandomDamageNeverCrashes) {
  const std::string good = tiny_gguf();
  std::mt19937 rng(6);
  for (int round = 0; round < 20000; ++round) {
    std::string file = good;
    for (int n = 1 + static_cast<int>(rng() % 4); n > 0; --n) file[rng() % file.size()] = static_cast<char>(rng());
    file.resize(rng() % 8 == 0 ? rng() % file.size() : file.size());
    const auto parsed = parse_gguf(std::as_bytes(std::span(file)));
    if (!parsed.ok()) continue;
    for (const TensorInfo& tensor : parsed->tensors)
      if (is_float(tensor.type)) (void)read_all(tensor).ok();
  }
}

}  // namespace
}  // namespace weft
