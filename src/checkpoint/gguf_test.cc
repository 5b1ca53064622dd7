// GGUF against the reference package's values (tests/data/checkpoint/make_fixtures.py): blocks to the bit, whole models
// under Hugging Face's names; and files that lie about themselves.
#include <cmath>
#include <cstring>
#include <random>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/test_folder.h"
#include "checkpoint/usage.h"

namespace weft {
namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  return true;
}

// The tensors of a safetensors file of tests/data, and the file.
struct Fixture {
  explicit Fixture(const std::string& name) : file(std::move(MappedFile::open(checkpoint_data(name)).value())) {
    const std::vector<TensorInfo> list = parse_safetensors(file.bytes(), name).value();
    for (const TensorInfo& tensor : list) tensors.emplace(tensor.name, tensor);
  }
  MappedFile file;
  std::map<std::string, TensorInfo> tensors;
};

constexpr StorageType kChecked[] = {StorageType::q4_0,   StorageType::q4_1, StorageType::q5_0,    StorageType::q5_1,
                                    StorageType::q8_0,   StorageType::q2_k, StorageType::q3_k,    StorageType::q4_k,
                                    StorageType::q5_k,   StorageType::q6_k, StorageType::f8_e4m3, StorageType::f8_e5m2,
                                    StorageType::f8_e8m0};

TEST(Dequantize, EveryFormatEqualsTheReference) {
  const Fixture fixture("blocks.safetensors");
  for (const StorageType type : kChecked) {
    std::string key = name(type);
    if (key.starts_with("float8")) key.replace(0, 5, "f");
    const TensorInfo &blocks = fixture.tensors.at(key + ".blocks"), &values = fixture.tensors.at(key + ".values");
    std::vector<float> out(static_cast<size_t>(values.values()));
    dequantize(type, blocks.data.data(), values.values(), out.data());
    EXPECT_TRUE(same_bits(out, *read_all(values))) << key;
    std::vector<float> base(out.size());
    dequantize_base(type, blocks.data.data(), values.values(), base.data());
    EXPECT_TRUE(same_bits(out, base)) << key;
  }
}

TEST(Dequantize, BlocksMayLieAtAnyAddressAndBeCut) {
  const Fixture fixture("blocks.safetensors");
  for (const StorageType type : kChecked) {
    if (!is_blocked(type)) continue;
    const TensorInfo &blocks = fixture.tensors.at(std::string(name(type)) + ".blocks"),
                     &values = fixture.tensors.at(std::string(name(type)) + ".values");
    std::vector<std::byte> moved(blocks.data.size() + 1);
    std::memcpy(moved.data() + 1, blocks.data.data(), blocks.data.size());
    TensorInfo tensor{.name = "t", .type = type, .shape = {values.values()}, .data = std::span(moved).subspan(1)};
    const std::vector<float> all = *read_all(values);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1},
                                       {31, 2},
                                       {5, 3},
                                       {17, 230},
                                       {32, 64},
                                       {100, static_cast<int64_t>(all.size()) - 100}}) {
      if (first + count > values.values()) continue;
      std::vector<float> part(static_cast<size_t>(count));
      ASSERT_TRUE(read_block(tensor, 0, 1, first, count, part.data(), count).ok());
      EXPECT_TRUE(same_bits(part, {all.begin() + first, all.begin() + first + count}))
          << name(type) << " from " << first;
    }
  }
}

TEST(Dequantize, AllHalfPrecisionNumbers) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> got(bits.size()), brain(bits.size());
  dequantize(StorageType::f16, reinterpret_cast<const std::byte*>(bits.data()), 65536, got.data());
  dequantize(StorageType::bf16, reinterpret_cast<const std::byte*>(bits.data()), 65536, brain.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31), fraction = static_cast<int>(i & 1023);
    const double sign = i >= 32768 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_TRUE(fraction ? std::isnan(got[i]) : std::isinf(got[i]) && std::signbit(got[i]) == (sign < 0)) << i;
    } else {
      EXPECT_EQ(got[i], sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24)))
          << i;
    }
    EXPECT_EQ(std::bit_cast<uint32_t>(brain[i]), static_cast<uint32_t>(i) << 16);
  }
  std::vector<float> base(bits.size());
  dequantize_base(StorageType::f16, reinterpret_cast<const std::byte*>(bits.data()), 65536, base.data());
  EXPECT_TRUE(same_bits(base, got));
}

class GgufModel : public testing::TestWithParam<const char*> {};

TEST_P(GgufModel, TensorsAreThoseBeforeConversion) {
  const auto opened = Checkpoint::open(checkpoint_data(std::string(GetParam()) + ".gguf"));
  ASSERT_TRUE(opened.ok()) << opened.error().to_string();
  const Checkpoint& checkpoint = **opened;
  EXPECT_TRUE(checkpoint.is_gguf());
  const Fixture expected(std::string(GetParam()) + ".safetensors");
  EXPECT_EQ(checkpoint.tensors().size(), expected.tensors.size());
  for (const auto& [name, want] : expected.tensors) {
    const TensorInfo* tensor = checkpoint.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->shape, want.shape) << name;
    EXPECT_TRUE(same_bits(*read_all(*tensor), *read_all(want))) << name;
    // Any part of it too, rotary order or not.
    const int64_t rows = want.rows() / 2, cols = want.cols() / 2;
    std::vector<float> part(static_cast<size_t>(rows * cols)), wanted(part.size());
    ASSERT_TRUE(read_block(*tensor, want.rows() - rows, rows, 1, cols, part.data(), cols).ok());
    ASSERT_TRUE(read_block(want, want.rows() - rows, rows, 1, cols, wanted.data(), cols).ok());
    EXPECT_TRUE(same_bits(part, wanted)) << name;
    checkpoint.drop(*tensor);
    EXPECT_TRUE(same_bits(*read_all(*tensor), *read_all(want))) << name << " after drop()";
  }
}

TEST_P(GgufModel, ConfigHasHuggingFaceKeys) {
  const std::string arch = GetParam();
  const auto opened = Checkpoint::open(checkpoint_data(arch + ".gguf"));
  ASSERT_TRUE(opened.ok());
  const HfConfig c((*opened)->config());
  EXPECT_EQ(c.architecture(), arch == "llama"   ? "LlamaForCausalLM"
                              : arch == "qwen2" ? "Qwen2ForCausalLM"
                              : arch == "qwen3" ? "Qwen3ForCausalLM"
                                                : "Gemma3ForCausalLM");
  EXPECT_EQ(c.count("hidden_size"), 32);
  EXPECT_EQ(c.count("num_hidden_layers"), 1);
  EXPECT_EQ(c.count("intermediate_size"), 64);
  EXPECT_EQ(c.count("num_attention_heads"), 2);
  EXPECT_EQ(c.kv_heads(), 1);
  EXPECT_EQ(c.head_dim(), arch == "gemma3" ? 32 : 16);
  EXPECT_EQ(c.count("vocab_size"), 24);
  EXPECT_EQ(c.positions("max_position_embeddings"), 512);
  EXPECT_FLOAT_EQ(static_cast<float>(c.positive("rms_norm_eps")), 1e-5f);
  EXPECT_EQ(c.flag("tie_word_embeddings", false), arch != "llama");
  EXPECT_EQ(c.rope().theta, 50000);
  EXPECT_EQ(c.rope().scaling, arch == "llama"    ? RopeConfig::Scaling::factors
                              : arch == "gemma3" ? RopeConfig::Scaling::linear
                                                 : RopeConfig::Scaling::none);
  EXPECT_EQ((*opened)->rope_factors() != nullptr, arch == "llama");
  if (arch == "llama") {
    EXPECT_TRUE(c.flag("attention_bias", false));
  }
  if (arch == "gemma3") {
    EXPECT_EQ(c.rope().factor, 8);
    EXPECT_EQ(c.rope(LayerKind::window).theta, 10000);
    EXPECT_EQ(c.rope(LayerKind::window).scaling, RopeConfig::Scaling::none);
    EXPECT_EQ(c.count("sliding_window"), 8);
    EXPECT_EQ(c.count("sliding_window_pattern"), 6);
    EXPECT_EQ(c.positive("query_pre_attn_scalar"), 32);
  }
  EXPECT_EQ(c.eos_token_ids(), std::vector<int>{2});
  EXPECT_EQ(HfConfig((*opened)->generation_config()).token_ids("bos_token_id"), std::vector<int>{1});
  EXPECT_TRUE(c.status().ok()) << c.status().error().message();
}

TEST_P(GgufModel, TokenizerComesAlong) {
  const auto opened = Checkpoint::open(checkpoint_data(std::string(GetParam()) + ".gguf"));
  ASSERT_TRUE(opened.ok());
  const GgufTokenizer* t = (*opened)->gguf_tokenizer();
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(t->model, "gpt2");
  EXPECT_EQ(t->pre, "smollm");
  ASSERT_EQ(t->tokens.size(), 24u);
  EXPECT_EQ(t->tokens[23], "t23");
  EXPECT_EQ(t->merges, (std::vector<std::string_view>{"t 1", "t 2"}));
  ASSERT_EQ(t->token_type.size(), 24u);
  EXPECT_EQ(t->token_type[0], 3);
  EXPECT_EQ(t->bos, 1);
  EXPECT_EQ(t->eos, 2);
  EXPECT_EQ(t->eot, std::nullopt);
  EXPECT_EQ(t->add_bos, true);
  EXPECT_EQ(t->add_eos, std::nullopt);
  EXPECT_EQ(t->chat_template, "{{ messages }}");
}

TEST_P(GgufModel, DummyNeedsNoTensor) {
  const auto opened = Checkpoint::open_dummy(checkpoint_data(std::string(GetParam()) + ".gguf"));
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE((*opened)->tensors().empty());
  EXPECT_NE(HfConfig((*opened)->config()).rope().scaling, RopeConfig::Scaling::factors);
  TensorUsage usage(**opened);
  const TensorInfo* tensor = usage.take("model.norm.weight", {32});
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(read_all(*tensor)->size(), 32u);
}

INSTANTIATE_TEST_SUITE_P(All, GgufModel, testing::Values("llama", "qwen2", "qwen3", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

// Newer converters write one number per layer.
TEST(GgufConfig, ListsOfEqualNumbersCountAsTheNumber) {
  const auto config = [](std::vector<int64_t> heads) {
    GgufHeader header;
    auto& values = header.metadata.values;
    values["general.architecture"].value = std::string_view("llama");
    values["llama.attention.head_count"].value = int64_t{4};
    values["llama.attention.head_count_kv"].value = std::move(heads);
    values["llama.feed_forward_length"].value = std::vector<int64_t>{24, 24};
    TensorInfo embedding;
    embedding.name = "token_embd.weight", embedding.shape = {5, 8};
    header.tensors.push_back(embedding);
    return gguf_config(header);
  };
  const auto equal = config({2, 2});
  ASSERT_TRUE(equal.ok()) << equal.error().message();
  EXPECT_EQ(equal->find("num_key_value_heads")->as_integer(), 2);
  EXPECT_EQ(equal->find("intermediate_size")->as_integer(), 24);
  const auto other = config({2, 1});
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.error().message().find("llama.attention.head_count_kv is a list"), std::string::npos);
}

// A GGUF file made by hand, to lie in.
class GgufWriter {
 public:
  template <class T>
  GgufWriter& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufWriter& text(const std::string& words) {
    put(static_cast<uint64_t>(words.size()));
    bytes_ += words;
    return *this;
  }
  GgufWriter& start(uint64_t tensors, uint64_t values) {
    bytes_ += "GGUF";
    return put(uint32_t{3}).put(tensors).put(values);
  }
  GgufWriter& tensor(const std::string& name, const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset) {
    text(name).put(static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) put(extent);
    return put(type).put(offset);
  }
  std::string problem(size_t data_bytes = 64) const {
    const std::string file = bytes_ + std::string(data_bytes, '\0');
    const auto parsed = parse_gguf(std::as_bytes(std::span(file)));
    return parsed.ok() ? "ok" : parsed.error().message();
  }

 private:
  std::string bytes_;
};

TEST(GgufHostile, WrongHeadersAreRefusedByName) {
  const auto expect = [](const GgufWriter& file, const char* part) {
    EXPECT_NE(file.problem().find(part), std::string::npos) << file.problem();
  };
  expect(GgufWriter().start(1, 0).tensor("w", {32}, 0, 0), "beyond the end");
  EXPECT_EQ(GgufWriter().start(1, 0).tensor("w", {8}, 0, 0).problem(), "ok");
  expect(GgufWriter().put(uint32_t{0x46554746}), "not a GGUF file");
  expect(GgufWriter().put(uint32_t{0x46554747}).put(uint32_t{1}), "version 1");
  expect(GgufWriter().start(uint64_t{1} << 60, 0), "claims");
  expect(GgufWriter().start(0, uint64_t{1} << 60), "claims");
  expect(GgufWriter().start(0, 1).put(~uint64_t{0}), "beyond the file");
  expect(GgufWriter().start(0, 1).text("k").put(uint32_t{9}).put(uint32_t{4}).put(uint64_t{1} << 40), "array");
  expect(GgufWriter().start(0, 1).text("k").put(uint32_t{9}).put(uint32_t{9}).put(uint64_t{1}),
         "an array inside an array");
  expect(GgufWriter().start(0, 1).text("k").put(uint32_t{99}), "type 99");
  expect(
      GgufWriter().start(0, 2).text("k").put(uint32_t{4}).put(uint32_t{1}).text("k").put(uint32_t{4}).put(uint32_t{1}),
      "twice");
  expect(GgufWriter().start(1, 0).tensor("", {8}, 0, 0), "a tensor has no name");
  expect(GgufWriter().start(1, 0).tensor("w", {1, 1, 1, 1, 1}, 0, 0), "5 dimensions");
  expect(GgufWriter().start(1, 0).tensor("w", {0}, 0, 0), "dimension of size 0");
  expect(GgufWriter().start(1, 0).tensor("w", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0), "more values than");
  // 2^62 float32 values: their bytes are 0 modulo 2^64.
  expect(GgufWriter().start(1, 0).tensor("w", {uint64_t{1} << 31, uint64_t{1} << 31}, 0, 0), "beyond the end");
  expect(GgufWriter().start(1, 0).tensor("w", {8}, 0, ~uint64_t{0} - 15), "beyond the end");
  expect(GgufWriter().start(1, 0).tensor("w", {33}, 8, 0), "q8_0 stores them in blocks of 32");
  // Of a type that is not known: refused only where it is used.
  EXPECT_EQ(GgufWriter().start(1, 0).tensor("w", {32}, 16, 0).problem(), "ok");
  expect(GgufWriter().start(1, 1).text("general.alignment").put(uint32_t{4}).put(uint32_t{0}), "");
}

// A copy of a good file with some bytes replaced.
std::string patched(const std::string& name, const std::string& key, const std::string& value_bytes) {
  std::string file = read_file(checkpoint_data(name)).value();
  const size_t at = file.find(key);
  EXPECT_NE(at, std::string::npos) << key;
  file.replace(at + key.size() + 4, value_bytes.size(), value_bytes);  // behind the key stands its type
  return file;
}

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

TEST(GgufHostile, WrongMetadataIsAnErrorNotACrash) {
  const TestFolder folder;
  const auto status = [&](const std::string& file) {
    folder.write("m.gguf", file);
    const auto opened = Checkpoint::open(folder.path());
    if (!opened.ok()) return opened.error().message();
    const HfConfig c((*opened)->config());
    (void)c.rope(), (void)c.positive("rms_norm_eps"), (void)c.head_dim(), (void)c.kv_heads();
    return c.status().ok() ? std::string("ok") : c.status().error().message();
  };
  EXPECT_EQ(status(patched("llama.gguf", "llama.rope.freq_base", bytes_of(10000.0f))), "ok");
  for (const float bad : {std::nanf(""), HUGE_VALF, -1.0f, 0.0f}) {
    EXPECT_NE(status(patched("llama.gguf", "llama.rope.freq_base", bytes_of(bad))).find("rope_theta"),
              std::string::npos)
        << bad;
    EXPECT_NE(
        status(patched("llama.gguf", "llama.attention.layer_norm_rms_epsilon", bytes_of(bad))).find("rms_norm_eps"),
        std::string::npos)
        << bad;
  }
  for (const uint32_t heads : {0u, 3u, 0x40000001u, 0x80000000u, 0xffffffffu})
    EXPECT_NE(status(patched("llama.gguf", "llama.attention.head_count", bytes_of(heads))), "ok") << heads;
  EXPECT_NE(status(patched("llama.gguf", "llama.rope.dimension_count", bytes_of(8u))).find("rope.dimension_count"),
            std::string::npos);
}

TEST(GgufHostile, RandomDamageToWholeModelsNeverCrashes) {
  const TestFolder folder;
  std::mt19937 rng(7);
  for (const char* name : {"llama.gguf", "gemma3.gguf"}) {
    const std::string good = read_file(checkpoint_data(name)).value();
    const size_t header = good.size() < 4096 ? good.size() : 4096;  // where names, counts and offsets are
    for (int round = 0; round < 1500; ++round) {
      std::string file = good;
      for (int n = 1 + static_cast<int>(rng() % 3); n > 0; --n)
        file[rng() % header] = static_cast<char>(rng() % 3 == 0 ? 0xff : rng());
      if (rng() % 8 == 0) file.resize(rng() % file.size());
      // A heap copy of just this size, so that the sanitizer sees a read past its end.
      const std::vector<char> exact(file.begin(), file.end());
      const auto parsed = parse_gguf(std::as_bytes(std::span(exact)));
      if (!parsed.ok()) continue;
      for (const TensorInfo& tensor : parsed->tensors)
        if (is_float(tensor.type)) (void)read_all(tensor).ok();
      folder.write("m.gguf", file);
      const auto opened = Checkpoint::open(folder.path());
      if (!opened.ok()) continue;
      const HfConfig c((*opened)->config());
      (void)c.rope(), (void)c.rope(LayerKind::window), (void)c.head_dim(), (void)c.kv_heads(), (void)c.eos_token_ids(),
          (void)c.status();
      for (const auto& [tensor_name, tensor] : (*opened)->tensors())
        if (is_float(tensor.type)) (void)read_all(tensor).ok();
    }
  }
}

}  // namespace
}  // namespace weft
