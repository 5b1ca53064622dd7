// Folders of safetensors: which files count, scaled fp8 weights, what TensorUsage reports, and the writer.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "base/files.h"
#include "base/json.h"
#include "checkpoint/quant/coded_matrix.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/test_folder.h"
#include "checkpoint/usage.h"

namespace weft {
namespace {

// A header of float32 vectors of two values.
std::string header_of(const std::vector<std::string>& names) {
  Json header = Json::object();
  for (size_t i = 0; i < names.size(); ++i)
    header.members().emplace_back(
        names[i],
        Json::object({{"dtype", "F32"},
                      {"shape", Json::array({2})},
                      {"data_offsets", Json::array({static_cast<long>(8 * i), static_cast<long>(8 * i + 8)})}}));
  return header.dump();
}

std::string file_of(const std::vector<std::string>& names) {
  return safetensors_bytes(header_of(names), 8 * names.size());
}

class Folders : public testing::Test {
 protected:
  Folders() { folder_.write("config.json", R"({"architectures": ["X"]})"); }
  void expect_problem(const char* part) const {
    EXPECT_NE(folder_.problem().find(part), std::string::npos) << folder_.problem() << "\nwithout " << part;
  }
  TestFolder folder_;
};

TEST_F(Folders, ShardsAreTakenAsTheIndexSays) {
  folder_.write("model-1.safetensors", file_of({"a", "both", "extra"}));
  folder_.write("model-2.safetensors", file_of({"b", "both"}));
  folder_.write(
      "model.safetensors.index.json",
      R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "both": "model-2.safetensors"}})");
  const auto opened = Checkpoint::open(folder_.path() + "/");
  ASSERT_TRUE(opened.ok()) << opened.error().to_string();
  EXPECT_EQ((*opened)->names(), (std::vector<std::string_view>{"a", "b", "both", "extra"}));
  const TensorInfo* both = (*opened)->find("both");
  EXPECT_EQ((*opened)->files().at(static_cast<size_t>(both->file)), folder_.path() + "/model-2.safetensors");
  EXPECT_FALSE((*opened)->is_gguf());
  EXPECT_FALSE((*opened)->is_dummy());
}

TEST_F(Folders, WrongIndexesAreRefused) {
  folder_.write("model-1.safetensors", file_of({"a"}));
  const auto index = [&](const std::string& text) { folder_.write("model.safetensors.index.json", text); };
  for (const char* name : {"../model-1.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "", "a\\\\b",
                           "model-1.safetensors\\u0000"}) {
    index(std::string(R"({"weight_map": {"a": ")") + name + "\"}}");
    expect_problem("weight_map.a is");
  }
  index("{\"weight_map\": {\"a\": \"model-1.saf");
  expect_problem("index.json");
  for (const char* text :
       {"[]", "{}", R"({"weight_map": ["model-1.safetensors"]})", R"({"weight_map": null})", R"({"weight_map": {}})"}) {
    index(text);
    expect_problem("weight_map");
  }
  index(R"({"weight_map": {"a": 1}})");
  expect_problem("weight_map.a is 1");
  index(R"({"weight_map": {"a": "model-1.safetensors", "a": "model-1.safetensors"}})");
  expect_problem("weight_map.a is there twice");
  index(R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  expect_problem("model-2.safetensors is missing");
}

// As transformers loads them: an entry may be stale or name the wrong file, and a whole file counts before an index.
TEST_F(Folders, StaleIndexesDoNotMatterWhereTheTensorsAreThere) {
  folder_.write("model-1.safetensors", file_of({"a"}));
  folder_.write("model-2.safetensors", file_of({"b"}));
  folder_.write("model.safetensors.index.json",
                R"({"weight_map": {"a": "model-2.safetensors", "b": "model-2.safetensors",
                                   "gone": "model-1.safetensors"}})");
  auto opened = Checkpoint::open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.error().to_string();
  EXPECT_EQ((*opened)->names(), (std::vector<std::string_view>{"a", "b"}));
  TensorUsage usage(**opened);
  usage.take("gone", {2});
  EXPECT_NE(usage.finish().error().message().find("1 absent tensor: gone"), std::string::npos);
  folder_.write("model.safetensors", file_of({"c"}));
  for (const char* index : {R"({"weight_map": {"a": "model-1.safetensors"}})", "{"}) {
    folder_.write("model.safetensors.index.json", index);
    opened = Checkpoint::open(folder_.path());
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    EXPECT_EQ((*opened)->names(), (std::vector<std::string_view>{"c"}));
  }
}

TEST_F(Folders, TensorsOfUnknownTypesMayBeThereButNotBeUsed) {
  folder_.write("model.safetensors", safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                                       R"("c":{"dtype":"C64","shape":[2],"data_offsets":[8,24]}})",
                                                       24));
  const auto opened = Checkpoint::open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.error().to_string();
  TensorUsage without(**opened), with(**opened);
  without.take("a", {2}), with.take("c", {2});
  EXPECT_TRUE(without.finish().ok());
  EXPECT_NE(with.finish().error().message().find("c is of type \"C64\", which is not known"), std::string::npos);
}

TEST_F(Folders, FilesAreChosenByName) {
  expect_problem("no weights");
  folder_.write("pytorch_model.bin", "x");
  expect_problem("pytorch_model.bin");
  folder_.write("other.safetensors", file_of({"a"}));
  EXPECT_EQ(folder_.problem(), "ok");
  folder_.write("more.safetensors", file_of({"b"}));
  expect_problem("2 .safetensors files");
  folder_.write("model.safetensors", file_of({"c"}));
  EXPECT_EQ(folder_.problem(), "ok");
  folder_.write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n");
  expect_problem("Git LFS pointer");
  folder_.write("model.safetensors", "");
  expect_problem("model.safetensors");
}

TEST_F(Folders, ConfigIsRequiredAndGenerationConfigIsNot) {
  folder_.write("model.safetensors", file_of({"a"}));
  EXPECT_TRUE(Checkpoint::open(folder_.path()).value()->generation_config().is_null());
  folder_.write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(Checkpoint::open(folder_.path()).value()->generation_config().find("eos_token_id")->as_integer(), 7);
  for (const char* bad : {"{", "[]", ""}) {
    folder_.write("generation_config.json", bad);
    const auto opened = Checkpoint::open(folder_.path());
    ASSERT_TRUE(opened.ok()) << bad;
    EXPECT_TRUE((*opened)->generation_config().is_null());
  }
  for (const char* bad : {"", "{", "not json", "[]", "3", "{\"a\": 1} x"}) {
    folder_.write("config.json", bad);
    expect_problem("config.json");
  }
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  folder_.write("config.json", deep);
  expect_problem("config.json");
  folder_.remove("config.json");
  expect_problem("config.json");
  EXPECT_FALSE(Checkpoint::open(folder_.path() + "/missing").ok());
  EXPECT_FALSE(Checkpoint::open("").ok());
}

// Without files the configuration says which matrices are fp8, and in blocks of which size; lists of exceptions count.
TEST_F(Folders, ConfigurationsDescribeQuantisedMatrices) {
  const MatrixShape matrices[] = {{"a.q.weight", 200, 300}, {"a.gate.weight", 8, 300}};
  const auto none = Checkpoint::open_described(folder_.path(), matrices);
  ASSERT_TRUE(none.ok()) << none.error().to_string();
  EXPECT_TRUE((*none)->tensors().empty());
  folder_.write("config.json", R"({"architectures": ["X"], "quantization_config": {"quant_method": "fp8",
    "fmt": "e4m3", "weight_block_size": [128, 128], "modules_to_not_convert": ["a.gate"]}})");
  for (const std::string& path : {folder_.path(), folder_.path() + "/config.json"}) {
    const auto opened = Checkpoint::open_described(path, matrices);
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    const TensorInfo* tensor = (*opened)->find("a.q.weight");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->type, StorageType::f8_e4m3);
    ASSERT_NE(tensor->scale, nullptr);
    EXPECT_EQ(tensor->scale->shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(tensor->scale_block_cols, 128);
    EXPECT_EQ((*opened)->find("a.gate.weight"), nullptr);
  }
  folder_.write("config.json", R"({"architectures": ["X"], "quantization_config": {"quant_method": "foo"}})");
  EXPECT_FALSE(Checkpoint::open_described(folder_.path(), matrices).ok());
  folder_.write("config.json", R"({"architectures": ["X"], "quantization_config": {"quant_method": "gptq", "bits": 3,
    "group_size": 64, "sym": true}})");
  const auto opened = Checkpoint::open_described(folder_.path(), matrices);
  ASSERT_TRUE(opened.ok()) << opened.error().to_string();
  const TensorInfo* tensor = (*opened)->find("a.q.weight");
  ASSERT_TRUE(tensor && tensor->coded);
  EXPECT_EQ(tensor->coded->codes.bits, 3);
  EXPECT_EQ(tensor->coded->groups, 5);
  EXPECT_EQ(tensor->coded->sole_zero, 4);
}

TEST_F(Folders, DummyNeedsTheConfigOnly) {
  const auto opened = Checkpoint::open_dummy(folder_.path());
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE((*opened)->is_dummy());
  TensorUsage usage(**opened);
  const TensorInfo* matrix = usage.take("model.layers.0.mlp.up_proj.weight", {64, 48});
  const TensorInfo* norm = usage.take("model.norm.weight", {48});
  EXPECT_EQ(usage.take_optional("lm_head.bias", {64}), nullptr);
  ASSERT_TRUE(matrix && norm);
  EXPECT_EQ(usage.take("model.norm.weight", {48}), norm);
  EXPECT_EQ(matrix->type, StorageType::random);
  const std::vector<float> values = *read_all(*matrix), again = *read_all(*matrix);
  EXPECT_EQ(values, again);
  double sum = 0, squares = 0;
  for (const float v : values) sum += v, squares += static_cast<double>(v) * v;
  EXPECT_NEAR(sum / static_cast<double>(values.size()), 0, 0.02);
  EXPECT_NEAR(squares / static_cast<double>(values.size()), 1.0 / 48, 0.1 / 48);
  std::vector<float> part(3 * 5);
  ASSERT_TRUE(read_block(*matrix, 7, 3, 11, 5, part.data(), 5).ok());
  for (size_t i = 0; i < part.size(); ++i)
    EXPECT_EQ(part[i], values[(7 + i / 5) * 48 + 11 + i % 5]) << "any cut is the same";
  const std::vector<float> norms = *read_all(*norm);
  for (const float v : norms) EXPECT_TRUE(v >= 0.9f && v <= 1.1f) << v;
  EXPECT_TRUE(usage.finish().ok());
  EXPECT_EQ(usage.take("model.norm.weight", {49}), nullptr);
  EXPECT_EQ(usage.take("huge", {int64_t{1} << 40, int64_t{1} << 40}), nullptr);
  EXPECT_EQ(usage.take("any", {-1, 4}), nullptr);
  EXPECT_FALSE(usage.finish().ok());
}

// Weights of e4m3 ones (0x38) and scales that count from 1: the value of a weight is then its scale.
class Fp8 : public Folders {
 protected:
  static constexpr int kRows = 10, kCols = 12;
  void write(const std::string& quantization, const std::vector<int64_t>& scale_shape,
             const char* scale_name = "w_scale_inv") const {
    folder_.write("config.json", "{" + quantization + "}");
    auto writer = SafetensorsWriter::create(folder_.path() + "/model.safetensors").value();
    const std::vector<std::byte> ones(kRows * kCols, std::byte{0x38});
    ASSERT_TRUE(writer.add("w", StorageType::f8_e4m3, {kRows, kCols}, ones).ok());
    int64_t count = 1;
    for (const int64_t extent : scale_shape) count *= extent;
    std::vector<float> scales;
    for (int64_t i = 0; i < count; ++i) scales.push_back(static_cast<float>(i + 1));
    if (scale_name[0]) {
      ASSERT_TRUE(writer.add(scale_name, scale_shape, std::span<const float>(scales)).ok());
    }
    ASSERT_TRUE(writer.finish().ok());
  }
  void expect_values(const std::function<int(int row, int col)>& want) const {
    const auto opened = Checkpoint::open(folder_.path());
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    const TensorInfo& w = *(*opened)->find("w");
    EXPECT_FALSE(w.is_plain());
    const std::vector<float> values = *read_all(w);
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c)
        EXPECT_EQ(values[static_cast<size_t>(r * kCols + c)], want(r, c)) << r << " " << c;
    std::vector<float> part(4 * 7);
    ASSERT_TRUE(read_block(w, 5, 4, 3, 7, part.data(), 7).ok());
    for (int i = 0; i < 28; ++i) EXPECT_EQ(part[static_cast<size_t>(i)], want(5 + i / 7, 3 + i % 7));
    TensorUsage usage(**opened);
    EXPECT_EQ(usage.take("w", {kRows, kCols}), &w);
    EXPECT_TRUE(usage.unused().empty()) << "the scale belongs to it";
    TensorUsage other(**opened);
    other.ignore("w");
    EXPECT_TRUE(other.unused().empty()) << "and is left with it";
  }
};

constexpr const char* kBlocks =
    R"("quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [4, 5]})";
constexpr const char* kNoBlocks = R"("quantization_config": {"quant_method": "fp8", "activation_scheme": "static"})";

TEST_F(Fp8, BlocksWithShorterOnesAtTheEdges) {
  write(kBlocks, {3, 3});  // 10 = 4 + 4 + 2 rows, 12 = 5 + 5 + 2 columns
  expect_values([](int r, int c) { return r / 4 * 3 + c / 5 + 1; });
}

TEST_F(Fp8, OneScaleOrOnePerRow) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {1, 1}}) {
    write(kNoBlocks, shape, "w_scale");
    expect_values([](int, int) { return 1; });
  }
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{kRows}, {kRows, 1}}) {
    write(kNoBlocks, shape, "w_scale");
    expect_values([](int r, int) { return r + 1; });
  }
}

TEST_F(Fp8, ScalesAreFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    write(kBlocks, {3, 3});
    const std::string file = folder_.path() + "/model.safetensors";
    std::string bytes = read_file(file).value();
    const float ninth = 9;
    const size_t at = bytes.rfind(std::string(reinterpret_cast<const char*>(&ninth), sizeof ninth));
    ASSERT_NE(at, std::string::npos);
    std::memcpy(bytes.data() + at, &bad, sizeof bad);
    ASSERT_TRUE(write_file(file, bytes).ok());
    const auto opened = Checkpoint::open(folder_.path());
    ASSERT_TRUE(opened.ok());
    const auto values = read_all(*(*opened)->find("w"));
    ASSERT_FALSE(values.ok());
    EXPECT_NE(values.error().message().find("w_scale_inv"), std::string::npos) << values.error().message();
  }
}

TEST_F(Fp8, WrongScalesAreRefused) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3, 2}, {2, 3}, {9}, {1}, {3, 3, 1}}) {
    write(kBlocks, shape);
    expect_problem("w_scale_inv");
  }
  write(kNoBlocks, {kCols});
  expect_problem("w_scale_inv");
  write(kBlocks, {3, 3}, "");
  expect_problem("w_scale_inv is absent");
  write(R"("model_type": "x")", {3, 3});
  expect_problem("no quantization_config");
  write(R"("model_type": "x")", {3, 3}, "");
  EXPECT_EQ(folder_.problem(), "ok") << "plain numbers of 8 bits";
  for (const char* size : {"[0, 5]", "[4]", "4", "[4, -1]", "[\"4\", 5]", "[4, 1e9]"}) {
    write(R"("quantization_config": {"quant_method": "fp8", "weight_block_size": )" + std::string(size) + "}", {3, 3});
    expect_problem("weight_block_size");
  }
}

TEST_F(Fp8, ModelOptAndCompressedTensors) {
  for (
      const char* settings :
      {R"({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]})",
       R"({"quant_method": "modelopt", "quantization": {"quant_algo": "fp8", "kv_cache_quant_algo": null}})",
       R"({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {"targets": ["Linear"],
                                   "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}}})"}) {
    write("\"quantization_config\": " + std::string(settings), {}, "w_scale");
    expect_values([](int, int) { return 1; });
  }
  const auto compressed = [&](const std::string& weights, const std::string& format = "float-quantized") {
    return R"("quantization_config": {"quant_method": "compressed-tensors", "format": ")" + format +
           R"(", "config_groups": {"group_7": {"weights": {)" + weights + "}}}}";
  };
  write(compressed(R"("num_bits": 8, "type": "float", "strategy": "channel")"), {kRows, 1}, "w_scale");
  expect_values([](int r, int) { return r + 1; });
  write(compressed(R"("num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 5])"), {3, 3},
        "w_scale");
  expect_values([](int r, int c) { return r / 4 * 3 + c / 5 + 1; });
  write(compressed(R"("num_bits": 4, "type": "int", "strategy": "group")"), {});
  expect_problem("group_7");
  write(compressed(R"("num_bits": 8, "type": "float", "strategy": "group")"), {});
  expect_problem("\"group\"");
  write(compressed("", "pack-quantized"), {});
  expect_problem("num_bits");
  write(compressed(R"("num_bits": 8, "type": "float", "strategy": "tensor")", "marlin-24"), {});
  expect_problem("marlin-24");
  write(R"("quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"})", {});
  expect_problem("NVFP4");
  write(R"("model_type": "x")", {}, "w_scale");
  folder_.write("hf_quant_config.json", R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})");
  expect_values([](int, int) { return 1; });
  folder_.write("hf_quant_config.json", R"({"quantization": {"quant_algo": "W4A16_AWQ"}})");
  expect_problem("W4A16_AWQ");
}

TEST_F(Fp8, OtherMethodsAreRefused) {
  for (const char* method : {"gptq", "awq", "foo", "bitsandbytes", "compressed-tensors", "modelopt", "mxfp4"}) {
    write("\"quantization_config\": {\"quant_method\": \"" + std::string(method) + "\"}", {3, 3});
    expect_problem(method);
    expect_problem("unsupported");
  }
  for (const char* settings :
       {R"({"bits": 4})", "5", "[]", R"({"quant_method": 3})", R"({"quant_method": "fp8", "fmt": "e5m2"})"}) {
    write("\"quantization_config\": " + std::string(settings), {3, 3});
    expect_problem("quantization_config");
  }
  write(R"("text_config": {"quantization_config": {"quant_method": "awq"}})", {3, 3});
  expect_problem("awq");
  for (const char* nothing : {"{}", "null"}) {
    write("\"quantization_config\": " + std::string(nothing), {}, "");
    EXPECT_EQ(folder_.problem(), "ok");
  }
  folder_.write("hf_quant_config.json", "{}");
  expect_problem("hf_quant_config.json");
}

TEST(Usage, BooksAreKept) {
  const TestFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", file_of({"a.weight", "b.weight", "mtp.0.c.weight", "mtp.0.d.weight", "mtpx.weight",
                                             "x.rotary_emb.inv_freq", "z.weight"}));
  const auto opened = Checkpoint::open(folder.path());
  ASSERT_TRUE(opened.ok());
  TensorUsage usage(**opened);
  EXPECT_NE(usage.take("a.weight", {2}), nullptr);
  EXPECT_NE(usage.take_optional("b.weight", {-1}), nullptr);
  EXPECT_EQ(usage.take_optional("absent", {2}), nullptr);
  EXPECT_TRUE(usage.has("z.weight"));
  usage.ignore("mtp");
  EXPECT_EQ(usage.unused(), (std::vector<std::string>{"mtpx.weight", "z.weight"}));
  EXPECT_EQ(usage.unused({"mtp*"}), std::vector<std::string>{"z.weight"});
  EXPECT_TRUE(usage.finish({"mtp*", "z*"}).ok());
  for (int i = 0; i < 12; ++i) EXPECT_EQ(usage.take("layer." + std::to_string(i), {1}), nullptr);
  EXPECT_EQ(usage.take("a.weight", {2, 1}), nullptr);
  EXPECT_EQ(usage.finish().error().code(), Code::not_found);
  const std::string message = usage.finish().error().message();
  for (const char* part : {"12 absent", "layer.0, ", "layer.9, ...", "a.weight is [2] instead of [2, 1]"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(message.find("layer.10"), std::string::npos) << message;
}

TEST(Usage, IntegersAreNoWeights) {
  const TestFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", safetensors_bytes(R"({"n":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})", 8));
  const auto opened = Checkpoint::open(folder.path());
  ASSERT_TRUE(opened.ok());
  TensorUsage usage(**opened);
  EXPECT_EQ(usage.take("n", {2}), nullptr);
  EXPECT_EQ(usage.finish().error().code(), Code::data_corrupt);
  EXPECT_NE(usage.finish().error().message().find("n holds int32"), std::string::npos);
}

TEST(Usage, Patterns) {
  for (const auto& [name, pattern] : {std::pair{"", ""},
                                      {"", "*"},
                                      {"abc", "abc"},
                                      {"abc", "*"},
                                      {"abc", "a*c"},
                                      {"abc", "a*bc"},
                                      {"aab", "*ab"},
                                      {"abab", "*ab"},
                                      {"a.b.c", "a.*.c"},
                                      {"abc", "***"},
                                      {"mississippi", "m*iss*pi"}})
    EXPECT_TRUE(matches_pattern(name, pattern)) << name << " " << pattern;
  for (const auto& [name, pattern] : {std::pair{"", "a"},
                                      {"abc", ""},
                                      {"abc", "ab"},
                                      {"abc", "bc"},
                                      {"abc", "a*b"},
                                      {"abc", "*d*"},
                                      {"mississippi", "m*iss*x*pi"}})
    EXPECT_FALSE(matches_pattern(name, pattern)) << name << " " << pattern;
}

TEST(Writer, OrderMistakesAreErrorsAndLeaveNothing) {
  const TestFolder folder;
  const std::string path = folder.path() + "/out.safetensors";
  {
    auto writer = SafetensorsWriter::create(path).value();
    const std::vector<float> two = {1, 2};
    EXPECT_FALSE(writer.append(std::as_bytes(std::span(two))).ok()) << "before begin()";
    ASSERT_TRUE(writer.begin("a", StorageType::f32, {3}).ok());
    ASSERT_TRUE(writer.append(std::as_bytes(std::span(two))).ok());
    EXPECT_FALSE(writer.begin("b", StorageType::f32, {1}).ok()) << "a is not complete";
    EXPECT_FALSE(writer.append(std::as_bytes(std::span(two))).ok()) << "too much";
    EXPECT_FALSE(writer.finish().ok());
    EXPECT_FALSE(writer.begin("q", StorageType::q8_0, {32}).ok());
    EXPECT_FALSE(writer.begin("r", StorageType::random, {32}).ok());
    EXPECT_FALSE(is_file(path));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_FALSE(SafetensorsWriter::create(folder.path() + "/no/such/folder.safetensors").ok());
}

TEST(Writer, WrongShapesAndNames) {
  const TestFolder folder;
  auto writer = SafetensorsWriter::create(folder.path() + "/x.safetensors").value();
  EXPECT_FALSE(writer.begin("a", StorageType::f32, {-1}).ok());
  EXPECT_FALSE(writer.begin("a", StorageType::f32, {int64_t{1} << 40, int64_t{1} << 40}).ok());
  EXPECT_FALSE(writer.begin("", StorageType::f32, {1}).ok());
  EXPECT_FALSE(writer.begin("__metadata__", StorageType::f32, {1}).ok()) << "readers take that for the metadata";
  EXPECT_TRUE(writer.begin("a", StorageType::f32, {0, 3}).ok());
  EXPECT_TRUE(writer.finish().ok());
}

TEST(Writer, EveryTypeAndAnyNumberOfTensorsComeBack) {
  for (const size_t expected : {size_t{0}, size_t{500}}) {
    const TestFolder folder;
    const std::string path = folder.path() + "/model.safetensors";
    auto writer = SafetensorsWriter::create(
                      path, {.metadata = {{"format", "pt"}, {"quote\"", "é"}}, .expected_tensors = expected})
                      .value();
    std::vector<std::byte> bytes(6 * 8);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37);
    int types = 0;
    for (int type = 0; type < static_cast<int>(StorageType::unknown); ++type, ++types) {
      const auto storage = static_cast<StorageType>(type);
      ASSERT_TRUE(writer
                      .add(name(storage), storage, {2, 3},
                           std::span(bytes).first(static_cast<size_t>(6 * layout(storage).block_bytes)))
                      .ok());
    }
    for (int i = 0; i < 300; ++i) ASSERT_TRUE(writer.add("t" + std::to_string(i), {1}, std::vector<int64_t>{i}).ok());
    ASSERT_TRUE(writer.add("scalar", {}, std::vector<float>{4.5f}).ok());
    ASSERT_TRUE(writer.add("empty", {0}, std::span<const float>()).ok());
    EXPECT_FALSE(is_file(path)) << "not before it is complete";
    ASSERT_TRUE(writer.finish().ok());
    const auto file = MappedFile::open(path);
    ASSERT_TRUE(file.ok());
    const auto read = parse_safetensors(file->bytes(), path);
    ASSERT_TRUE(read.ok()) << read.error().message();
    EXPECT_EQ(read->size(), static_cast<size_t>(types) + 302);
    for (const TensorInfo& tensor : *read) {
      if (tensor.shape != std::vector<int64_t>{2, 3}) continue;
      EXPECT_EQ(tensor.name, name(tensor.type));
      EXPECT_EQ(std::memcmp(tensor.data.data(), bytes.data(), tensor.data.size()), 0) << tensor.name;
    }
  }
}

TEST(TensorInfo, IntegersAreAnError) {
  std::vector<std::byte> bytes(8);
  const TensorInfo tensor{.name = "ids", .type = StorageType::i64, .shape = {1}, .data = bytes};
  EXPECT_NE(read_all(tensor).error().message().find("ids"), std::string::npos);
}

TEST(TensorInfo, RowsAreWhatLiesAlongTheLastDimension) {
  std::vector<float> values(24);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const TensorInfo tensor{
      .name = "t", .type = StorageType::f32, .shape = {2, 3, 4}, .data = std::as_bytes(std::span(values))};
  EXPECT_EQ(tensor.rows(), 6);
  EXPECT_EQ(tensor.cols(), 4);
  EXPECT_TRUE(tensor.is_plain());
  std::vector<float> out(3 * 6, -1);
  ASSERT_TRUE(read_rows(tensor, 2, 3, out.data(), 6).ok());
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 6; ++c)
      EXPECT_EQ(out[static_cast<size_t>(r * 6 + c)], c < 4 ? static_cast<float>((2 + r) * 4 + c) : -1)
          << "beyond a row nothing is written";
  EXPECT_EQ((TensorInfo{.name = "s", .type = StorageType::f32, .shape = {}}.rows()), 1);
}

}  // namespace
}  // namespace weft
