// GGUF against the reference package's values (tests/data/checkpoint/make_fixtures.py): blocks to the bit, whole models
// under Hugging Face's names; and files that lie about themselves.
#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "base/files.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_architecture.h"
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

// Formats with a file of golden blocks; the others are checked by their definition.
constexpr StorageType kChecked[] = {StorageType::q4_0,   StorageType::q4_1, StorageType::q5_0,    StorageType::q5_1,
                                    StorageType::q8_0,   StorageType::q2_k, StorageType::q3_k,    StorageType::q4_k,
                                    StorageType::q5_k,   StorageType::q6_k, StorageType::f8_e4m3, StorageType::f8_e5m2,
                                    StorageType::f8_e8m0};

constexpr StorageType kCheckedCodes[] = {
    StorageType::iq1_s,   StorageType::iq1_m, StorageType::iq2_xxs, StorageType::iq2_xs, StorageType::iq2_s,
    StorageType::iq3_xxs, StorageType::iq3_s, StorageType::iq4_nl,  StorageType::iq4_xs, StorageType::tq1_0,
    StorageType::tq2_0,   StorageType::mxfp4, StorageType::nvfp4};

class GoldenBlocks : public testing::TestWithParam<StorageType> {
 protected:
  GoldenBlocks()
      : fixture(is_code_block(GetParam()) ? "code_blocks.safetensors" : "blocks.safetensors"), key(name(GetParam())) {
    if (key.starts_with("float8")) key.replace(0, 5, "f");
  }
  Fixture fixture;
  std::string key;
};
INSTANTIATE_TEST_SUITE_P(Plain, GoldenBlocks, testing::ValuesIn(kChecked), [](const auto& i) { return name(i.param); });
INSTANTIATE_TEST_SUITE_P(Codes, GoldenBlocks, testing::ValuesIn(kCheckedCodes),
                         [](const auto& i) { return name(i.param); });

TEST_P(GoldenBlocks, EqualTheReference) {
  const StorageType type = GetParam();
  {
    const TensorInfo &blocks = fixture.tensors.at(key + ".blocks"), &values = fixture.tensors.at(key + ".values");
    ASSERT_EQ(static_cast<int64_t>(blocks.data.size()),
              values.values() / layout(type).block_values * layout(type).block_bytes);
    std::vector<float> out(static_cast<size_t>(values.values()));
    dequantize(type, blocks.data.data(), values.values(), out.data());
    EXPECT_TRUE(same_bits(out, *read_all(values))) << key;
    std::vector<float> base(out.size());
    dequantize_base(type, blocks.data.data(), values.values(), base.data());
    EXPECT_TRUE(same_bits(out, base)) << key;
  }
}

TEST_P(GoldenBlocks, MayLieAtAnyAddressAndBeCut) {
  const StorageType type = GetParam();
  if (is_blocked(type)) {
    const TensorInfo &blocks = fixture.tensors.at(key + ".blocks"), &values = fixture.tensors.at(key + ".values");
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

// The three that the package has no values for: {f16 d, 128 signs}, {f16 d, f16, 32 int8}, {f32 d, 256 int8, sums}.
TEST(Dequantize, FormatsOfNoFileByTheirDefinition) {
  std::mt19937 rng(9);
  const auto check = [&](StorageType type, size_t first, auto value) {
    const StorageLayout shape = layout(type);
    std::vector<uint8_t> block(static_cast<size_t>(shape.block_bytes));
    for (uint8_t& byte : block) byte = static_cast<uint8_t>(rng());
    const float d = -0.0625f;
    if (type == StorageType::q8_k) std::memcpy(block.data(), &d, 4);
    else block[0] = 0x00, block[1] = 0xac;  // -2^-4 in float16
    std::vector<float> got(static_cast<size_t>(shape.block_values));
    dequantize(type, reinterpret_cast<const std::byte*>(block.data()), shape.block_values, got.data());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], d * value(block.data() + first, i)) << name(type) << i;
  };
  check(StorageType::q1_0, 2, [](const uint8_t* q, size_t i) { return q[i / 8] >> (i % 8) & 1 ? 1.0f : -1.0f; });
  check(StorageType::q8_1, 4, [](const uint8_t* q, size_t i) { return static_cast<float>(static_cast<int8_t>(q[i])); });
  check(StorageType::q8_k, 4, [](const uint8_t* q, size_t i) { return static_cast<float>(static_cast<int8_t>(q[i])); });
}

// No format may be added without its values being checked.
TEST(Dequantize, EveryBlockFormatIsChecked) {
  std::set<StorageType> checked = {StorageType::q1_0, StorageType::q8_1, StorageType::q8_k};
  for (const StorageType type : kChecked) checked.insert(type);
  for (const StorageType type : kCheckedCodes) checked.insert(type);
  for (const StorageType type : block_types()) EXPECT_TRUE(checked.contains(type)) << name(type);
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

// Models of all architectures, and those of which other things are checked too.
class GgufTensors : public testing::TestWithParam<const char*> {};
class GgufModel : public testing::TestWithParam<const char*> {};

std::string gguf_path(const std::string& name) {
  return checkpoint_data(name + (name == "parts" ? "-00001-of-00004.gguf" : ".gguf"));
}

TEST_P(GgufTensors, AreThoseBeforeConversion) {
  const auto opened = Checkpoint::open(gguf_path(GetParam()));
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

constexpr const char* kModels[] = {"llama",     "qwen2",         "qwen3", "gemma3",  "mixtral",  "qwen3moe", "llama4",
                                   "deepseek2", "deepseek2-old", "deci",  "qwen2vl", "nemotron", "parts"};
INSTANTIATE_TEST_SUITE_P(All, GgufTensors, testing::ValuesIn(kModels), [](const auto& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
});

// Every architecture of the table has a file here.
TEST(GgufConfig, EveryArchitectureIsChecked) {
  std::set<const GgufArchitecture*> checked;
  for (const char* name : kModels) {
    const MappedFile file = std::move(MappedFile::open(gguf_path(name)).value());
    const GgufHeader header = parse_gguf(file.bytes(), &file).value();
    checked.insert(gguf_architecture(header.metadata).value());
  }
  for (const GgufArchitecture& known : gguf_architectures())
    EXPECT_TRUE(checked.contains(&known)) << known.name << ", " << known.architecture;
}

TEST(GgufDocs, HaveTheArchitectures) {
  const std::string docs = read_file(std::string(WEFT_DOCS) + "/gguf.md").value();
  for (const GgufArchitecture& known : gguf_architectures()) {
    const std::string row = "| " + std::string(known.name) + " | " + std::string(known.architecture) + " | " +
                            std::string(known.gives) + " |";
    EXPECT_NE(docs.find(row), std::string::npos) << "docs/gguf.md lacks " << row;
  }
}

TEST(GgufSplit, AnyPartStandsForTheWholeAndAllMustBeThere) {
  const TestFolder folder;
  const auto part = [](int number) { return "parts-0000" + std::to_string(number) + "-of-00004.gguf"; };
  for (const int number : {1, 2, 4}) folder.write(part(number), read_file(checkpoint_data(part(number))).value());
  const auto problem = [&](const std::string& path) {
    const auto opened = Checkpoint::open(path);
    return opened.ok() ? std::string("ok") : opened.error().message();
  };
  EXPECT_NE(problem(folder.path()).find(part(3) + " is missing; the model has 4 parts"), std::string::npos);
  folder.write(part(3), read_file(checkpoint_data(part(3))).value());
  EXPECT_EQ(problem(folder.path()), "ok");
  EXPECT_EQ(problem(folder.path() + "/" + part(3)), "ok");
  EXPECT_EQ((*Checkpoint::open(folder.path()))->files().size(), 4u);
  folder.write(part(3), read_file(checkpoint_data(part(2))).value());
  EXPECT_NE(problem(folder.path()).find("split.no is 1, but must be 2"), std::string::npos) << problem(folder.path());
  folder.write("other.gguf", read_file(checkpoint_data(part(1))).value());
  EXPECT_NE(problem(folder.path() + "/other.gguf").find("split.count is 4, so the file's name must end in"),
            std::string::npos)
      << problem(folder.path() + "/other.gguf");
}

TEST(GgufConfig, SaysWhatTheMetadataAndTheNameSay) {
  const auto config = [](const char* name) {
    const auto opened = Checkpoint::open(gguf_path(name));
    EXPECT_TRUE(opened.ok()) << opened.error().to_string();
    return HfConfig((*opened)->config());
  };
  const HfConfig mixtral = config("mixtral");
  EXPECT_EQ(mixtral.count("num_local_experts"), 2);
  EXPECT_EQ(mixtral.count("num_experts_per_tok"), 1);
  const HfConfig qwen = config("qwen3moe");
  EXPECT_EQ(qwen.count("num_experts"), 2);
  EXPECT_EQ(qwen.count("moe_intermediate_size"), 16);
  EXPECT_TRUE(qwen.flag("norm_topk_prob", false));
  const HfConfig llama4 = config("llama4");
  EXPECT_EQ(llama4.count("intermediate_size"), 16);
  EXPECT_EQ(llama4.count("intermediate_size_mlp"), 32);
  EXPECT_EQ(llama4.count("interleave_moe_layer_step"), 2);
  EXPECT_EQ(llama4.count("attention_chunk_size"), 8192);
  EXPECT_TRUE(llama4.flag("use_qk_norm", false));
  for (const char* name : {"deepseek2", "deepseek2-old"}) {
    const HfConfig c = config(name);
    EXPECT_EQ(c.flag("kv_b_split", false), std::string(name) == "deepseek2");
    EXPECT_EQ(c.count("qk_nope_head_dim"), 16);
    EXPECT_EQ(c.count("qk_rope_head_dim"), 8);
    EXPECT_EQ(c.count("v_head_dim"), 16);
    EXPECT_EQ(c.count("q_lora_rank"), 16);
    EXPECT_EQ(c.count("kv_lora_rank"), 24);
    EXPECT_EQ(c.count("first_k_dense_replace"), 1);
    EXPECT_EQ(c.count("n_group"), 1);
    EXPECT_FLOAT_EQ(static_cast<float>(c.positive("routed_scaling_factor")), 2.5f);
    EXPECT_FLOAT_EQ(static_cast<float>(c.positive("latent_norm_eps")), 1e-5f);
    EXPECT_EQ(c.rope().scaling, RopeConfig::Scaling::yarn);
    EXPECT_FLOAT_EQ(static_cast<float>(c.rope().mscale_all_dim.value_or(0)), 1.0f);
    EXPECT_TRUE(c.status().ok()) << c.status().error().message();
  }
  const HfConfig nemotron = config("nemotron");
  EXPECT_EQ(static_cast<int>(nemotron.rope().partial_rotary_factor * 16), 8);
  EXPECT_FLOAT_EQ(static_cast<float>(nemotron.positive("norm_eps")), 1e-5f);
  const std::vector<HfConfig> blocks = config("deci").list("block_configs");
  ASSERT_EQ(blocks.size(), 4u);
  EXPECT_EQ(blocks[0].count("attention.n_heads_in_group"), 2);
  EXPECT_EQ(blocks[0].count("ffn.intermediate_size"), 32);
  EXPECT_TRUE(blocks[1].flag("attention.no_op", false));
  EXPECT_TRUE(blocks[2].flag("attention.replace_with_linear", false));
  EXPECT_EQ(blocks[3].count("attention.n_heads_in_group"), 1);
  EXPECT_TRUE(blocks[3].flag("ffn.no_op", false));
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
  const auto config = [](std::vector<int64_t> heads, double attention_factor = 1) {
    GgufHeader header;
    auto& values = header.metadata.values;
    values["general.architecture"].value = std::string_view("llama");
    values["llama.embedding_length"].value = int64_t{8};
    values["llama.block_count"].value = int64_t{2};
    values["llama.attention.head_count"].value = int64_t{4};
    values["llama.attention.head_count_kv"].value = std::move(heads);
    values["llama.attention.layer_norm_rms_epsilon"].value = 1e-5;
    values["llama.rope.scaling.attn_factor"].value = attention_factor;
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
  EXPECT_NE(other.error().message().find("llama.attention.head_count_kv is a list of 2 numbers"), std::string::npos);
  const auto short_list = config({2});
  ASSERT_FALSE(short_list.ok());
  EXPECT_NE(short_list.error().message().find("for each of 2 layers"), std::string::npos)
      << short_list.error().message();
  const auto factor = config({2, 2}, 1.5);
  ASSERT_FALSE(factor.ok()) << "also without a kind of scaling";
  EXPECT_NE(factor.error().message().find("llama.rope.scaling.attn_factor is 1.5"), std::string::npos);
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
  expect(GgufWriter().start(1, 0).tensor("w", {8}, 0, ~uint64_t{0} - 31), "beyond the end");
  expect(GgufWriter().start(1, 0).tensor("w", {8}, 0, 7), "no multiple of the alignment 32");
  expect(GgufWriter().start(2, 0).tensor("v", {16}, 0, 0).tensor("w", {8}, 0, 32), "tensor w begins within tensor v");
  expect(GgufWriter().start(1, 0).tensor("w", {33}, 8, 0), "q8_0 stores them in blocks of 32");
  // Of a type that is not known: refused only where it is used.
  EXPECT_EQ(GgufWriter().start(1, 0).tensor("w", {32}, 99, 0).problem(), "ok");
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
