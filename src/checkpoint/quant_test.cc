// Quantised formats: small matrices packed here by each format's definition, and what is refused of them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "checkpoint/quant/coded_matrix.h"
#include "checkpoint/quant/formats.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/test_folder.h"

namespace weft {
namespace {

// Floats that bfloat16 and float16 hold exactly: 1/8 to 2.
float small_float(std::mt19937& random) { return static_cast<float>(1 + random() % 16) / 8; }

// The bits of such a float in float16.
uint16_t f16_of(float value) {
  uint16_t bits = 0;
  for (uint32_t b = 0; b < 0x7c00; ++b)
    if (f16_to_float(static_cast<uint16_t>(b)) == value) bits = static_cast<uint16_t>(b);
  return bits;
}

class QuantFolder : public ::testing::Test {
 protected:
  static constexpr int kRows = 16, kCols = 64, kGroup = 32, kGroups = kCols / kGroup;

  struct Stored {
    StorageType type;
    std::vector<int64_t> shape;
    std::vector<std::byte> bytes;
  };

  template <class T>
  void put(const std::string& name, StorageType type, std::vector<int64_t> shape, const std::vector<T>& values) {
    Stored stored{type, std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
    std::memcpy(stored.bytes.data(), values.data(), stored.bytes.size());
    tensors_[name] = std::move(stored);
  }
  void write() const {
    folder_.write("config.json",
                  R"({"architectures": ["LlamaForCausalLM"], "quantization_config": )" + settings_ + "}");
    auto writer = SafetensorsWriter::create(folder_.path() + "/model.safetensors").value();
    for (const auto& [name, stored] : tensors_)
      ASSERT_TRUE(writer.add(name, stored.type, stored.shape, std::span<const std::byte>(stored.bytes)).ok()) << name;
    ASSERT_TRUE(writer.finish().ok());
  }

  // Codes below `limit`, zero points below `zero_limit`, scales.
  void draw(int limit, int zero_limit, uint32_t seed = 7) {
    std::mt19937 random(seed);
    codes_.clear(), zeros_.clear(), scales_.clear();
    for (int i = 0; i < kRows * kCols; ++i) codes_.push_back(static_cast<int>(random() % static_cast<uint32_t>(limit)));
    for (int i = 0; i < kRows * kGroups; ++i) {
      zeros_.push_back(1 + static_cast<int>(random() % static_cast<uint32_t>(zero_limit - 1)));
      scales_.push_back(small_float(random));
    }
    group_of_.clear();
    for (int c = 0; c < kCols; ++c) group_of_.push_back(c / kGroup);
  }
  int code(int row, int col) const { return codes_[static_cast<size_t>(row * kCols + col)]; }
  size_t group_at(int row, int col) const {
    return static_cast<size_t>(row * kGroups + group_of_[static_cast<size_t>(col)]);
  }
  float integer_value(int row, int col) const {
    return static_cast<float>(code(row, col) - zeros_[group_at(row, col)]) * scales_[group_at(row, col)];
  }
  // [groups, rows] of float16
  std::vector<uint16_t> scales_by_group() const {
    std::vector<uint16_t> bits;
    for (int g = 0; g < kGroups; ++g)
      for (int r = 0; r < kRows; ++r) bits.push_back(f16_of(scales_[static_cast<size_t>(r * kGroups + g)]));
    return bits;
  }
  std::vector<uint16_t> scales_by_row() const {  // bfloat16
    std::vector<uint16_t> bits;
    for (const float scale : scales_) bits.push_back(float_to_bf16(scale));
    return bits;
  }

  // Fields of `bits` bits one after the other, the lowest bits first, in words of 32; each list in words of its own.
  template <class Field>
  static std::vector<std::vector<uint32_t>> streams(int lists, int length, int bits, Field field) {
    std::vector<std::vector<uint32_t>> all;
    for (int list = 0; list < lists; ++list) {
      std::vector<uint32_t> words(static_cast<size_t>((length * bits + 31) / 32));
      for (int i = 0; i < length; ++i)
        for (int b = 0; b < bits; ++b)
          words[static_cast<size_t>((i * bits + b) / 32)] |= (static_cast<uint32_t>(field(list, i)) >> b & 1)
                                                             << ((i * bits + b) % 32);
      all.push_back(std::move(words));
    }
    return all;
  }
  static std::vector<uint32_t> joined(const std::vector<std::vector<uint32_t>>& lists, bool turned) {
    std::vector<uint32_t> words;
    const size_t inner = lists[0].size();
    for (size_t i = 0; i < (turned ? inner : lists.size()); ++i)
      for (size_t j = 0; j < (turned ? lists.size() : inner); ++j) words.push_back(turned ? lists[j][i] : lists[i][j]);
    return words;
  }

  template <class Value>
  void expect_values(const std::string& name, Value value, int rows = kRows, int cols = kCols) {
    write();
    for (const LoadMode mode : {LoadMode::mmap, LoadMode::read}) {
      const auto opened = Checkpoint::open(folder_.path(), mode);
      ASSERT_TRUE(opened.ok()) << opened.error().to_string();
      const TensorInfo* tensor = (*opened)->find(name);
      ASSERT_NE(tensor, nullptr);
      ASSERT_EQ(tensor->shape, (std::vector<int64_t>{rows, cols}));
      const auto all = read_all(*tensor);
      ASSERT_TRUE(all.ok()) << all.error().to_string();
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c)
          ASSERT_EQ((*all)[static_cast<size_t>(r * cols + c)], value(r, c)) << r << " " << c;
      std::vector<float> part(static_cast<size_t>((rows - 3) * (cols - 7)));
      ASSERT_TRUE(read_block(*tensor, 2, rows - 3, 5, cols - 7, part.data(), cols - 7).ok());
      for (int r = 0; r < rows - 3; ++r)
        for (int c = 0; c < cols - 7; ++c)
          ASSERT_EQ(part[static_cast<size_t>(r * (cols - 7) + c)], value(r + 2, c + 5)) << r << " " << c;
    }
  }
  // What opening, or else reading `name`, says.
  void expect_problem(const std::string& text, const std::string& name = "m.weight") {
    write();
    const auto opened = Checkpoint::open(folder_.path());
    std::string said = opened.ok() ? "opened" : opened.error().to_string();
    if (opened.ok()) {
      const TensorInfo* tensor = (*opened)->find(name);
      if (const auto read = tensor ? read_all(*tensor) : Result<std::vector<float>>(std::vector<float>()); !read.ok())
        said = read.error().to_string();
    }
    EXPECT_NE(said.find(text), std::string::npos) << said;
  }
  // A tensor is left out, or has one more row, and the error names it.
  void expect_wrong_tensors_are_named(const std::vector<std::string>& needed, const std::vector<std::string>& shaped) {
    const auto whole = tensors_;
    for (const std::string& name : needed) {
      tensors_.erase(name);
      expect_problem(name);
      tensors_ = whole;
    }
    for (const std::string& name : shaped) {
      Stored& stored = tensors_[name];
      const size_t row = stored.bytes.size() / static_cast<size_t>(stored.shape[0]);
      stored.bytes.resize(stored.bytes.size() + row), ++stored.shape[0];
      expect_problem(name);
      tensors_ = whole;
    }
  }
  template <class T>
  void change(const std::string& name, size_t index, T value) {
    std::memcpy(tensors_[name].bytes.data() + index * sizeof(T), &value, sizeof value);
  }

  TestFolder folder_;
  std::string settings_;
  std::map<std::string, Stored> tensors_;
  std::vector<int> codes_, zeros_, group_of_;
  std::vector<float> scales_;
};

class Awq : public QuantFolder {
 protected:
  void make() {
    settings_ = R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": true})";
    draw(16, 16);
    constexpr int kPlace[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // nibble i holds this of 8 outputs
    const auto pack = [&](int lines, auto field) {
      std::vector<uint32_t> words;
      for (int line = 0; line < lines; ++line)
        for (int w = 0; w < kRows / 8; ++w) {
          uint32_t word = 0;
          for (int i = 0; i < 8; ++i) word |= static_cast<uint32_t>(field(line, w * 8 + kPlace[i])) << (4 * i);
          words.push_back(word);
        }
      return words;
    };
    put("m.qweight", StorageType::i32, {kCols, kRows / 8}, pack(kCols, [&](int c, int r) { return code(r, c); }));
    put("m.qzeros", StorageType::i32, {kGroups, kRows / 8},
        pack(kGroups, [&](int g, int r) { return zeros_[static_cast<size_t>(r * kGroups + g)]; }));
    put("m.scales", StorageType::f16, {kGroups, kRows}, scales_by_group());
  }
};

TEST_F(Awq, ValuesAreThoseOfTheFormat) {
  make();
  expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
  // The older file of its own, with other names for the settings.
  settings_ = "null";
  folder_.write("quant_config.json", R"({"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": true})");
  expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
}

TEST_F(Awq, WrongFilesAreRefused) {
  make();
  expect_wrong_tensors_are_named({"m.qzeros", "m.scales"}, {"m.qzeros", "m.scales"});
  change<uint16_t>("m.scales", 3, 0x7c00);
  expect_problem("m.scales");
  make();
  settings_ = R"({"quant_method": "awq", "bits": 4, "group_size": 16})";
  expect_problem("m.scales");
  settings_ = R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"})";
  expect_problem("m.qweight");
  settings_ = R"({"quant_method": "awq", "bits": 3, "group_size": 32})";
  expect_problem("m.qweight");
  settings_ = R"({"quant_method": "awq", "bits": 4, "group_size": 32})";
  put("m.weight", StorageType::f32, {1, 1}, std::vector<float>{1});
  expect_problem("m.weight is there twice");
}

class Gptq : public QuantFolder {
 protected:
  void make(int bits, bool second, bool act_order) {
    tensors_.clear();
    settings_ = R"({"quant_method": "gptq", "group_size": 32, "checkpoint_format": ")" +
                std::string(second ? "gptq_v2" : "gptq") + R"(", "bits": )" + std::to_string(bits) + "}";
    draw(1 << bits, (1 << bits) - 1);
    if (act_order) {
      std::mt19937 random(3);
      std::shuffle(group_of_.begin(), group_of_.end(), random);
      put("m.g_idx", StorageType::i32, {kCols}, group_of_);
    }
    put("m.qweight", StorageType::i32, {kCols * bits / 32, kRows},
        joined(streams(kRows, kCols, bits, [&](int r, int c) { return code(r, c); }), true));
    const auto stored_zero = [&](int g, int r) {
      return zeros_[static_cast<size_t>(r * kGroups + g)] - (second ? 0 : 1);
    };
    put("m.qzeros", StorageType::i32, {kGroups, (kRows * bits + 31) / 32},
        joined(streams(kGroups, kRows, bits, stored_zero), false));
    put("m.scales", StorageType::f16, {kGroups, kRows}, scales_by_group());
  }
};

TEST_F(Gptq, ValuesAreThoseOfTheFormat) {
  for (const int bits : {2, 3, 4, 8})
    for (const bool second : {false, true})
      for (const bool act_order : {false, true}) {
        make(bits, second, act_order);
        SCOPED_TRACE(std::to_string(bits) + (second ? " v2" : " v1") + (act_order ? " act order" : ""));
        expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
      }
}

TEST_F(Gptq, RulesOfModules) {
  make(4, false, false);
  settings_ = R"({"quant_method": "gptq", "bits": 8, "group_size": 128,
                  "dynamic": {"-:x": {}, "+:n.*": {"bits": 2}, "+:m$": {"bits": 4, "group_size": 32}}})";
  expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
  settings_ = R"({"quant_method": "gptq", "bits": 8, "group_size": 128, "dynamic": {"+:(": {}}})";
  expect_problem("pattern");
}

TEST_F(Gptq, WrongFilesAreRefused) {
  make(4, false, true);
  expect_wrong_tensors_are_named({"m.qzeros", "m.scales"}, {"m.qzeros", "m.scales", "m.g_idx"});
  for (const int32_t group : {-1, kGroups}) {
    make(4, false, true);
    change<int32_t>("m.g_idx", 5, group);
    expect_problem("m.g_idx: column 5");
  }
  make(4, false, false);
  change<uint16_t>("m.scales", 0, 0x7e00);
  expect_problem("m.scales");
  // A zero point of 16, which others take for 0.
  make(4, false, false);
  change<uint32_t>("m.qzeros", 0, 0xffffffffu);
  expect_problem("m.qzeros");
  make(4, false, false);
  settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 64})";
  expect_problem("m.scales");
  settings_ = R"({"quant_method": "gptq", "bits": 5, "group_size": 32})";
  expect_problem("m.qweight");
  settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "marlin"})";
  expect_problem("m.qweight");
  settings_ = R"({"quant_method": "gptq", "group_size": 32})";
  expect_problem("bits");
  make(4, false, false);
  put("m.qweight", StorageType::i32, {int64_t{1} << 60, 0}, std::vector<int32_t>());
  expect_problem("m.qweight");
  // Groups in an order that the file does not have.
  make(4, false, true);
  tensors_.erase("m.g_idx");
  settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true})";
  expect_problem("m.g_idx is absent");
  settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"+:m": {"desc_act": true}}})";
  expect_problem("m.g_idx is absent");
}

// GPTQModel names the format of zero points in either key.
TEST_F(Gptq, FormatOfZeroPoints) {
  for (const bool second : {false, true})
    for (const char* key : {"checkpoint_format", "format"}) {
      make(4, second, false);
      settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, ")" + std::string(key) +
                  (second ? R"(": "gptq_v2"})" : R"(": "gptq"})");
      expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
    }
  settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "format": "bitblas"})";
  expect_problem("format \"bitblas\"");
}

// Patterns of untrusted files: refused where they are too large or take too long.
TEST_F(Gptq, PatternsAreBounded) {
  make(4, false, false);
  const std::string deep(3000, '('), shut(3000, ')');
  const auto rule = [&](const std::string& pattern) {
    settings_ = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"+:)" + pattern + R"(": {}}})";
  };
  for (const std::string& pattern : {deep + "a" + shut, std::string(5000, 'a'), std::string("((a{100}){100}){100}")})
    rule(pattern), expect_problem("pattern");
  rule("((.*)*)*z");
  expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
}

class Compressed : public QuantFolder {
 protected:
  void settings(const std::string& format, const std::string& weights, const std::string& more = "") {
    settings_ = R"({"quant_method": "compressed-tensors", "format": ")" + format +
                R"(", "config_groups": {"group_0": {"targets": ["Linear"], "weights": {)" + weights + "}}}" + more +
                "}";
  }
  void make(int bits, bool symmetric, bool act_order) {
    tensors_.clear();
    settings("pack-quantized", R"("type": "int", "strategy": "group", "group_size": 32, "num_bits": )" +
                                   std::to_string(bits) + R"(, "symmetric": )" + (symmetric ? "true" : "false"));
    draw(1 << bits, 1 << bits);
    if (symmetric) zeros_.assign(zeros_.size(), 1 << (bits - 1));
    if (act_order) {
      std::mt19937 random(3);
      std::shuffle(group_of_.begin(), group_of_.end(), random);
      put("m.weight_g_idx", StorageType::i32, {kCols}, group_of_);
    }
    put("m.weight_packed", StorageType::i32, {kRows, kCols * bits / 32},
        joined(streams(kRows, kCols, bits, [&](int r, int c) { return code(r, c); }), false));
    put("m.weight_shape", StorageType::i64, {2}, std::vector<int64_t>{kRows, kCols});
    put("m.weight_scale", StorageType::bf16, {kRows, kGroups}, scales_by_row());
    if (symmetric) return;
    const auto zero = [&](int g, int r) { return zeros_[static_cast<size_t>(r * kGroups + g)]; };
    put("m.weight_zero_point", StorageType::i32, {(kRows * bits + 31) / 32, kGroups},
        joined(streams(kGroups, kRows, bits, zero), true));
  }
};

TEST_F(Compressed, PackedIntegers) {
  for (const int bits : {2, 3, 4, 5, 8})
    for (const bool symmetric : {true, false})
      for (const bool act_order : {false, true}) {
        make(bits, symmetric, act_order);
        SCOPED_TRACE(std::to_string(bits) + (symmetric ? " symmetric" : "") + (act_order ? " act order" : ""));
        expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
      }
}

TEST_F(Compressed, BytesOfIntegers) {
  settings("int-quantized", R"("type": "int", "strategy": "channel", "num_bits": 8)");
  draw(256, 2);
  std::vector<int8_t> values;
  for (const int code : codes_) values.push_back(static_cast<int8_t>(code - 128));
  put("m.weight", StorageType::i8, {kRows, kCols}, values);
  std::vector<float> scales(scales_.begin(), scales_.begin() + kRows);
  put("m.weight_scale", StorageType::f32, {kRows, 1}, scales);
  expect_values("m.weight",
                [&](int r, int c) { return static_cast<float>(code(r, c) - 128) * scales[static_cast<size_t>(r)]; });
  expect_wrong_tensors_are_named({"m.weight_scale"}, {"m.weight_scale"});
  change<float>("m.weight_scale", 1, INFINITY);
  expect_problem("m.weight_scale");
}

// Two values in a byte; scales of e4m3 (0x38 is 1, 0x40 is 2), divided by the outer one.
TEST_F(Compressed, Nvfp4AndMxfp4) {
  constexpr float kLevels[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
  draw(16, 2);
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < codes_.size(); i += 2) bytes.push_back(static_cast<uint8_t>(codes_[i] | codes_[i + 1] << 4));
  const auto level = [&](int r, int c) { return kLevels[code(r, c) & 7] * (code(r, c) >= 8 ? -1.0f : 1.0f); };
  put("m.weight_packed", StorageType::u8, {kRows, kCols / 2}, bytes);
  std::vector<uint8_t> scales;
  for (int i = 0; i < kRows * kCols / 16; ++i) scales.push_back(i % 3 == 0 ? 0x38 : 0x40);
  put("m.weight_scale", StorageType::f8_e4m3, {kRows, kCols / 16}, scales);
  put("m.weight_global_scale", StorageType::f32, {1}, std::vector<float>{3});
  settings("nvfp4-pack-quantized", R"("type": "float", "strategy": "tensor_group", "group_size": 16, "num_bits": 4)");
  expect_values("m.weight", [&](int r, int c) {
    return level(r, c) * ((scales[static_cast<size_t>(r * kCols / 16 + c / 16)] == 0x38 ? 1.0f : 2.0f) / 3.0f);
  });
  expect_wrong_tensors_are_named({"m.weight_scale", "m.weight_global_scale"},
                                 {"m.weight_scale", "m.weight_global_scale"});
  for (const float wrong : {0.0f, INFINITY}) {
    change<float>("m.weight_global_scale", 0, wrong);
    expect_problem("m.weight_global_scale");
  }
  tensors_.erase("m.weight_global_scale");
  std::vector<uint8_t> exponents;
  for (int i = 0; i < kRows * kGroups; ++i) exponents.push_back(static_cast<uint8_t>(120 + i % 9));
  put("m.weight_scale", StorageType::u8, {kRows, kGroups}, exponents);
  settings("mxfp4-pack-quantized", R"("type": "float", "strategy": "group", "group_size": 32, "num_bits": 4)");
  expect_values("m.weight", [&](int r, int c) {
    return std::ldexp(level(r, c), exponents[static_cast<size_t>(r * kGroups + c / kGroup)] - 127);
  });
  change<uint8_t>("m.weight_scale", 4, 255);
  expect_problem("m.weight_scale");
}

TEST_F(Compressed, GroupsOfModules) {
  make(4, true, false);
  const std::string four = R"("weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32})",
                    other = R"("weights": {"num_bits": 8, "type": "int", "strategy": "channel"})";
  const auto groups = [&](const std::string& a, const std::string& b) {
    settings_ =
        R"({"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": {"a": {"targets": )" +
        a + R"(, "format": "pack-quantized", )" + four + R"(}, "b": {"targets": )" + b +
        R"(, "format": "int-quantized", )" + other + "}}}";
  };
  for (const auto& [a, b] : {std::pair(R"(["re:m$"])", R"(["Linear"])"), std::pair(R"(["m"])", R"(["re:.*"])")}) {
    groups(a, b);
    expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
  }
  groups(R"(["re:n"])", R"(["re:.*"])");
  expect_problem("m.weight_packed");
  groups(R"(["re:n"])", R"(["re:x"])");
  expect_problem("m.weight_packed");
}

TEST_F(Compressed, WrongFilesAreRefused) {
  make(4, false, true);
  expect_wrong_tensors_are_named({"m.weight_scale", "m.weight_shape", "m.weight_zero_point"},
                                 {"m.weight_scale", "m.weight_shape", "m.weight_zero_point", "m.weight_g_idx"});
  change<int64_t>("m.weight_shape", 1, kCols + 8);
  expect_problem("m.weight_packed");
  make(4, false, true);
  change<int32_t>("m.weight_g_idx", 0, 7);
  expect_problem("m.weight_g_idx");
  make(4, true, false);
  settings("pack-quantized", R"("type": "int", "strategy": "group", "group_size": 16, "num_bits": 4)");
  expect_problem("m.weight_scale");
  settings("pack-quantized", R"("type": "int", "strategy": "group", "group_size": 32, "num_bits": 8)");
  expect_problem("m.weight_packed");
  make(4, true, false);
  tensors_.erase("m.weight_g_idx");
  settings("pack-quantized",
           R"("type": "int", "strategy": "group", "group_size": 32, "num_bits": 4, "actorder": "group")");
  expect_problem("m.weight_g_idx is absent");
  settings("sparse-24-bitmask", R"("type": "int", "strategy": "group", "group_size": 32, "num_bits": 4)");
  expect_problem("sparse-24-bitmask");
  settings("pack-quantized", R"("type": "int", "strategy": "group", "group_size": 32, "num_bits": 4)",
           R"(, "transform_config": {"config_groups": {}})");
  expect_problem("transform_config");
}

// Weights that are symmetric as the settings have it: zero points that say nothing else may lie beside them.
TEST_F(Compressed, ZeroPointsOfSymmetricWeights) {
  const auto zeros = [&](int first) {
    put("m.weight_zero_point", StorageType::i32, {kRows * 4 / 32, kGroups},
        joined(streams(kGroups, kRows, 4, [&](int g, int r) { return g == 0 && r == 0 ? first : 8; }), true));
  };
  make(4, true, false);
  zeros(8);
  expect_values("m.weight", [&](int r, int c) { return integer_value(r, c); });
  zeros(7);
  expect_problem("m.weight_zero_point");
}

class ModelOpt : public QuantFolder {};
TEST_F(ModelOpt, FourBitsWithFactorsOfTheInput) {
  settings_ = R"({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 32})";
  draw(16, 2);
  std::vector<uint8_t> bytes;  // two rows in a byte, two's complement
  for (int r = 0; r < kRows; r += 2)
    for (int c = 0; c < kCols; ++c) bytes.push_back(static_cast<uint8_t>((code(r, c) ^ 8) | (code(r + 1, c) ^ 8) << 4));
  put("m.weight", StorageType::u8, {kRows / 2, kCols}, bytes);
  put("m.weight_scale", StorageType::bf16, {kRows, kGroups}, scales_by_row());
  const auto value = [&](int r, int c) { return static_cast<float>(code(r, c) - 8) * scales_[group_at(r, c)]; };
  expect_values("m.weight", value);
  std::vector<float> factors;
  for (int c = 0; c < kCols; ++c) factors.push_back(1 + static_cast<float>(c) / 4);
  put("m.pre_quant_scale", StorageType::f32, {kCols}, factors);
  expect_values("m.weight", [&](int r, int c) { return value(r, c) * factors[static_cast<size_t>(c)]; });
  expect_wrong_tensors_are_named({"m.weight_scale"}, {"m.weight_scale", "m.pre_quant_scale"});
  settings_ = R"({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"})";
  expect_problem("m.weight");
  settings_ = R"({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                  "quantized_layers": {"m": {"quant_algo": "W4A16_AWQ", "group_size": 32}}})";
  expect_values("m.weight", [&](int r, int c) { return value(r, c) * factors[static_cast<size_t>(c)]; });
  settings_ = R"({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {}})";
  expect_problem("m.weight");
}

class BitsAndBytes : public QuantFolder {
 protected:
  static constexpr float kMap[16] = {-1, -.7f, -.5f, -.4f, -.3f, -.2f, -.1f, 0, .1f, .2f, .3f, .4f, .5f, .6f, .7f, 1};
  // Blocks of 64 values, wherever rows end.
  void make(int cols, bool nested) {
    settings_ = R"({"quant_method": "bitsandbytes", "load_in_4bit": true})";
    tensors_.clear();
    draw(16, 2);
    const int count = kRows * cols, blocks = (count + 63) / 64;
    std::vector<uint8_t> bytes;
    for (size_t i = 0; i < static_cast<size_t>(count); i += 2)
      bytes.push_back(static_cast<uint8_t>(codes_[i] << 4 | codes_[i + 1]));
    put("m.weight", StorageType::u8, {count / 2, 1}, bytes);
    put("m.weight.quant_map", StorageType::f32, {16}, std::vector<float>(kMap, kMap + 16));
    const std::string state = R"({"quant_type": "nf4", "blocksize": 64, "shape": [16, )" + std::to_string(cols) +
                              R"(], "nested_blocksize": 4, "nested_offset": 0.5})";
    put("m.weight.quant_state.bitsandbytes__nf4", StorageType::u8, {static_cast<int64_t>(state.size())},
        std::vector<char>(state.begin(), state.end()));
    absmax_.clear();
    std::vector<uint8_t> inner;
    std::vector<float> map, outer((static_cast<size_t>(blocks) + 3) / 4);
    for (int i = 0; i < 256; ++i) map.push_back(static_cast<float>(i) / 128);
    for (size_t i = 0; i < outer.size(); ++i) outer[i] = static_cast<float>(i + 1);
    for (int i = 0; i < blocks; ++i) {
      inner.push_back(static_cast<uint8_t>(17 * i));
      absmax_.push_back(nested ? map[inner.back()] * outer[static_cast<size_t>(i) / 4] + 0.5f
                               : static_cast<float>(i + 1));
    }
    if (!nested) return put("m.weight.absmax", StorageType::f32, {blocks}, absmax_);
    put("m.weight.absmax", StorageType::u8, {blocks}, inner);
    put("m.weight.nested_absmax", StorageType::f32, {static_cast<int64_t>(outer.size())}, outer);
    put("m.weight.nested_quant_map", StorageType::f32, {256}, map);
  }
  std::vector<float> absmax_;
};

TEST_F(BitsAndBytes, FourBits) {
  for (const int cols : {64, 32, 48, 20})
    for (const bool nested : {false, true}) {
      make(cols, nested);
      SCOPED_TRACE(std::to_string(cols) + (nested ? " nested" : ""));
      expect_values(
          "m.weight",
          [&](int r, int c) {
            const int at = r * cols + c;
            return kMap[codes_[static_cast<size_t>(at)]] * absmax_[static_cast<size_t>(at / 64)];
          },
          kRows, cols);
    }
  make(64, true);
  expect_wrong_tensors_are_named(
      {"m.weight.absmax", "m.weight.quant_map", "m.weight.nested_quant_map"},
      {"m.weight", "m.weight.absmax", "m.weight.quant_map", "m.weight.nested_absmax", "m.weight.nested_quant_map"});
  tensors_.erase("m.weight.quant_state.bitsandbytes__nf4");
  expect_problem("m.weight");
}

TEST_F(BitsAndBytes, Int8) {
  settings_ = R"({"quant_method": "bitsandbytes", "load_in_8bit": true})";
  draw(256, 2);
  std::vector<int8_t> values;
  for (const int code : codes_) values.push_back(static_cast<int8_t>(code - 128));
  put("m.weight", StorageType::i8, {kRows, kCols}, values);
  put("m.SCB", StorageType::f32, {kRows}, std::vector<float>(scales_.begin(), scales_.begin() + kRows));
  expect_values("m.weight", [&](int r, int c) {
    return static_cast<float>(code(r, c) - 128) * (scales_[static_cast<size_t>(r)] / 127);
  });
  expect_wrong_tensors_are_named({"m.SCB"}, {"m.SCB"});
  put("m.weight_format", StorageType::u8, {}, std::vector<uint8_t>{0});
  expect_problem("opened");
  put("m.weight_format", StorageType::u8, {}, std::vector<uint8_t>{2});
  expect_problem("m.weight_format names the layout 2");
}

// docs/checkpoints.md lists the formats that the code has, in its words, and no others.
TEST(QuantFormats, TheDocumentListsThem) {
  const std::string text = read_file(std::string(WEFT_TEST_DATA) + "/../../docs/checkpoints.md").value();
  size_t rows = 0;
  for (const QuantFormat& format : quant_formats()) {
    const std::string row = "\n| `" + std::string(format.method) + "` | " + format.what + " |\n";
    EXPECT_NE(text.find(row), std::string::npos) << row;
  }
  for (size_t at = text.find("\n| `"); at != std::string::npos; at = text.find("\n| `", at + 1)) ++rows;
  EXPECT_EQ(rows, quant_formats().size() + 1) << "and the table's head";
}

class Mxfp4 : public QuantFolder {};
TEST_F(Mxfp4, BlocksAndExperts) {
  settings_ = R"({"quant_method": "mxfp4"})";
  constexpr float kLevels[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
  draw(16, 2);
  std::vector<uint8_t> bytes, exponents;
  for (size_t i = 0; i < codes_.size(); i += 2) bytes.push_back(static_cast<uint8_t>(codes_[i] | codes_[i + 1] << 4));
  for (int i = 0; i < kRows * kGroups; ++i) exponents.push_back(static_cast<uint8_t>(120 + i % 9));
  put("m.weight_blocks", StorageType::u8, {kRows, kGroups, 16}, bytes);
  put("m.weight_scales", StorageType::u8, {kRows, kGroups}, exponents);
  const auto value = [&](int r, int c) {
    const float level = kLevels[code(r, c) & 7] * (code(r, c) >= 8 ? -1.0f : 1.0f);
    return std::ldexp(level, exponents[static_cast<size_t>(r * kGroups + c / kGroup)] - 127);
  };
  expect_values("m.weight", value);
  expect_wrong_tensors_are_named({"m.weight_scales"}, {"m.weight_scales"});
  tensors_.clear();
  put("model.layers.0.mlp.experts.down_proj_blocks", StorageType::u8, {2, kRows / 2, kGroups, 16}, bytes);
  put("model.layers.0.mlp.experts.down_proj_scales", StorageType::u8, {2, kRows / 2, kGroups}, exponents);
  expect_problem("down_proj_blocks");  // Llama has no experts
}

}  // namespace
}  // namespace weft
