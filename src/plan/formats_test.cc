// Weights kept in the bits of the checkpoint, and quantised while loading: what is packed against what read_rows()
// gives, for whole, sliced and stacked tensors; and which matrices get which format.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/files.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/safetensors_writer.h"
#include "kernels/ref.h"
#include "plan/cpu_executor.h"
#include "plan/plan_builder.h"
#include "plan/quantized_source.h"
#include "plan/weight_formats.h"

namespace weft {
namespace {

using kernels::OffsetKind;
using kernels::Operand;
using kernels::ScaleKind;
using kernels::WeightForm;

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

// A folder with tensors "a" [200, 300], "b" [72, 300] in fp8 with scales of 128 x 128 blocks, "c" [30, 300] with a
// scale per row, "d" [10, 300] in bfloat16.
class Fp8Folder {
 public:
  explicit Fp8Folder(float largest_scale = 0.02f) : random_(3) {
    path_ = (std::filesystem::temp_directory_path() / "weft_formats_XXXXXX").string();
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
    EXPECT_TRUE(write_file(path_ + "/config.json",
                           R"({"architectures": ["X"], "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}})")
                    .ok());
    auto writer = SafetensorsWriter::create(path_ + "/model.safetensors");
    EXPECT_TRUE(writer.ok());
    add_fp8(*writer, "a", 200, {200, 1}, largest_scale);
    add_fp8(*writer, "b", 72, {72, 1}, largest_scale);
    add_fp8(*writer, "c", 30, {30, 1}, largest_scale);
    std::vector<uint16_t> halves(10 * 300);
    for (uint16_t& half : halves) half = float_to_bf16(static_cast<float>(random_() % 1000) / 500.0f - 1.0f);
    EXPECT_TRUE(writer->add("d.weight", StorageType::bf16, {10, 300}, bytes_of(halves)).ok());
    EXPECT_TRUE(writer->finish().ok());
  }
  ~Fp8Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  // With blocks of 128 x 128 instead of a scale per row.
  static std::unique_ptr<Fp8Folder> with_blocks() {
    auto folder = std::make_unique<Fp8Folder>();
    EXPECT_TRUE(
        write_file(
            folder->path_ + "/config.json",
            R"({"architectures": ["X"], "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}})")
            .ok());
    auto writer = SafetensorsWriter::create(folder->path_ + "/model.safetensors");
    folder->add_fp8(*writer, "a", 200, {2, 3}, 0.02f);
    folder->add_fp8(*writer, "b", 72, {1, 3}, 0.02f);
    EXPECT_TRUE(writer->finish().ok());
    return folder;
  }

 private:
  void add_fp8(SafetensorsWriter& writer, const std::string& name, int64_t rows, const std::vector<int64_t>& grid,
               float largest) {
    std::vector<uint8_t> codes(static_cast<size_t>(rows * 300));
    for (uint8_t& code : codes) {
      code = static_cast<uint8_t>(random_());
      if ((code & 0x7f) == 0x7f) code = 0;
    }
    std::vector<float> scales(static_cast<size_t>(grid[0] * grid[1]));
    for (float& scale : scales) scale = largest * static_cast<float>(random_() % 1000 + 1) / 1000.0f;
    scales.back() = largest;
    EXPECT_TRUE(writer.add(name + ".weight", StorageType::f8_e4m3, {rows, 300}, bytes_of(codes)).ok());
    EXPECT_TRUE(writer.add(name + ".weight_scale_inv", grid, scales).ok());
  }

  std::mt19937 random_;
  std::string path_;
};

TensorRows rows_of(const std::string& name, int64_t first, int64_t rows, int64_t of) {
  return {name + ".weight", first, rows, {of, 300}};
}

// A plan of products x W^T over one input of k columns.
Plan plan_of(const std::vector<Matrix>& matrices, int k) {
  PlanBuilder b("test");
  const Value x = b.embed(Scope("table"), 4, k, 1.0f);
  Value out = x;
  for (const Matrix& m : matrices) out = b.linear(x, m);
  b.set_output(out, HeadKind::reward_steps);
  return b.take();
}

// The output of a gated matrix that a row of its stacked sources is.
int gated_column(const Matrix& m, int row) {
  const int half = static_cast<int>(m.out() / 2), own = row % half;
  return own / 16 * 32 + own % 16 + (row >= half ? 16 : 0);
}

// Every value of every packed matrix is what read_rows() gives for its place, within `tolerance` times the row's
// largest.
void check_values(const Plan& plan, const Checkpoint& checkpoint, const Weights& weights, float tolerance) {
  for (size_t i = 0; i < plan.matrices.size(); ++i) {
    const Matrix& m = plan.matrices[i];
    int column = 0;
    for (const TensorRows& source : m.sources) {
      std::vector<float> row(static_cast<size_t>(m.k));
      for (int64_t r = 0; r < source.rows; ++r, ++column) {
        ASSERT_TRUE(read_rows(*checkpoint.find(source.tensor), source.first_row + r, 1, row.data(), m.k).ok());
        float largest = 0;
        for (const float value : row) largest = std::max(largest, std::fabs(value));
        for (int k = 0; k < m.k; ++k)
          ASSERT_NEAR(kernels::ref_weight(weights.matrices[i], m.gated ? gated_column(m, column) : column, k),
                      row[static_cast<size_t>(k)], tolerance * largest)
              << source.tensor << " row " << source.first_row + r << " k " << k;
      }
    }
  }
}

struct Loaded {
  Plan plan;
  std::shared_ptr<const Checkpoint> checkpoint;
  Result<Weights> weights;
};
Loaded load(const std::string& path, std::vector<Matrix> matrices, const kernels::CpuTable& table,
            FormatOptions options, bool pack = false) {
  auto checkpoint = Checkpoint::open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
  Plan plan = plan_of(matrices, matrices[0].k);
  plan.tables.clear(), plan.table_cols.clear();  // the input's table is not in the folder
  plan = choose_formats(std::move(plan), **checkpoint, options);
  ThreadTeam team(2);
  auto weights = load_weights(plan, *checkpoint, table, team, {options.form, {}, options.quantize, pack});
  return {std::move(plan), *checkpoint, std::move(weights)};
}

std::vector<Matrix> fp8_matrices() {
  return {{.sources = {rows_of("a", 0, 200, 200)}, .k = 300},
          {.sources = {rows_of("a", 100, 77, 200)}, .k = 300},
          {.sources = {rows_of("b", 5, 60, 72), rows_of("a", 120, 30, 200), rows_of("b", 0, 72, 72)}, .k = 300}};
}

TEST(Formats, Fp8IsKeptWithTheScalesOfTheWholeTensor) {
  const auto blocks = Fp8Folder::with_blocks();
  const Fp8Folder rows;
  for (const std::string& path : {blocks->path(), rows.path()})
    for (const kernels::CpuTable* table : kernels::available_tables()) {
      const Loaded kept = load(path, fp8_matrices(), *table, {.form = WeightForm::bf16});
      ASSERT_TRUE(kept.weights.ok()) << kept.weights.error().to_string();
      for (const Matrix& m : kept.plan.matrices) {
        EXPECT_EQ(m.format->form, WeightForm::fp8);
        EXPECT_EQ(m.format->operand, Operand::f32_as_bf16);
      }
      check_values(kept.plan, *kept.checkpoint, *kept.weights, 0.0f);
      EXPECT_LT(kept.weights->bytes, int64_t{(200 + 77 + 162 + 3 * 64) * 320 * 13 / 10});
    }
}

TEST(Formats, DequantizeWidens) {
  const auto folder = Fp8Folder::with_blocks();
  const Loaded wide =
      load(folder->path(), fp8_matrices(), kernels::ref_table(), {.form = WeightForm::f32, .dequantize = true});
  ASSERT_TRUE(wide.weights.ok());
  for (const Matrix& m : wide.plan.matrices) EXPECT_EQ(m.format->form, WeightForm::f32);
  check_values(wide.plan, *wide.checkpoint, *wide.weights, 0.0f);
}

TEST(Formats, GatedMatricesTakeTheirHalvesInTurn) {
  const Fp8Folder folder;
  const std::vector<Matrix> gated = {
      {.sources = {rows_of("a", 0, 96, 200), rows_of("b", 0, 64, 72), rows_of("a", 100, 32, 200)},
       .k = 300,
       .gated = true}};
  for (const kernels::CpuTable* table : kernels::available_tables()) {
    for (const FormatOptions& options :
         {FormatOptions{.form = WeightForm::bf16}, FormatOptions{.form = WeightForm::f32, .dequantize = true}}) {
      const Loaded kept = load(folder.path(), gated, *table, options);
      ASSERT_TRUE(kept.weights.ok()) << kept.weights.error().to_string();
      EXPECT_TRUE(kept.plan.matrices[0].gated);
      check_values(kept.plan, *kept.checkpoint, *kept.weights, 0.0f);
    }
  }
}

TEST(Formats, LargeScalesAreRefusedByName) {
  const Fp8Folder folder(300.0f);
  const Loaded kept = load(folder.path(), fp8_matrices(), kernels::ref_table(), {.form = WeightForm::f32});
  ASSERT_FALSE(kept.weights.ok());
  EXPECT_NE(kept.weights.error().to_string().find("_scale_inv holds"), std::string::npos)
      << kept.weights.error().to_string();
  EXPECT_NE(kept.weights.error().to_string().find("--dequantize"), std::string::npos);
  EXPECT_TRUE(load(folder.path(), fp8_matrices(), kernels::ref_table(), {.form = WeightForm::f32, .dequantize = true})
                  .weights.ok());
}

TEST(Formats, MixedStacksBecomeProductsSideBySide) {
  const Fp8Folder folder;
  const std::vector<Matrix> mixed = {
      {.sources = {rows_of("d", 0, 10, 10), rows_of("a", 0, 200, 200), rows_of("c", 0, 30, 30)}, .k = 300}};
  const Loaded kept = load(folder.path(), mixed, kernels::ref_table(), {.form = WeightForm::f32});
  ASSERT_TRUE(kept.weights.ok()) << kept.weights.error().to_string();
  ASSERT_EQ(kept.plan.matrices.size(), 2u);
  EXPECT_EQ(kept.plan.matrices[0].format->form, WeightForm::f32);
  EXPECT_EQ(kept.plan.matrices[1].format->form, WeightForm::fp8);
  std::vector<Value> outs;
  for (const Op& op : kept.plan.ops)
    if (std::holds_alternative<LinearOp>(op.kind)) outs.push_back(*op.out);
  ASSERT_EQ(outs.size(), 2u);
  EXPECT_EQ(outs[0].storage, outs[1].storage);
  EXPECT_EQ(outs[0].cols, 10);
  EXPECT_EQ(outs[1].first_col, 10);
  EXPECT_EQ(outs[1].cols, 230);
  check_values(kept.plan, *kept.checkpoint, *kept.weights, 0.0f);
}

// "tame" has the exponents of ordinary weights, "wild" two hundred different ones.
TEST(Formats, Bfloat16GoesIntoTwelveBitsWhereItFits) {
  std::string path = (std::filesystem::temp_directory_path() / "weft_formats_XXXXXX").string();
  ASSERT_NE(::mkdtemp(path.data()), nullptr);
  ASSERT_TRUE(write_file(path + "/config.json", R"({"architectures": ["X"]})").ok());
  auto writer = SafetensorsWriter::create(path + "/model.safetensors");
  std::mt19937 random(5);
  std::vector<uint16_t> tame(200 * 320), wild(tame.size());
  for (uint16_t& half : tame) half = float_to_bf16(static_cast<float>(random() % 1000) / 500.0f - 1.0f);
  for (size_t i = 0; i < wild.size(); ++i) wild[i] = static_cast<uint16_t>((random() & 0x807f) | (i % 200 + 20) << 7);
  ASSERT_TRUE(writer->add("tame.weight", StorageType::bf16, {200, 320}, bytes_of(tame)).ok());
  ASSERT_TRUE(writer->add("wild.weight", StorageType::bf16, {200, 320}, bytes_of(wild)).ok());
  ASSERT_TRUE(writer->finish().ok());
  const std::vector<Matrix> matrices = {{.sources = {{"tame.weight", 0, 200}}, .k = 320},
                                        {.sources = {{"wild.weight", 0, 200}}, .k = 320},
                                        {.sources = {{"tame.weight", 0, 192, {200, 320}}}, .k = 320, .gated = true}};
  for (const kernels::CpuTable* table : kernels::available_tables()) {
    const Loaded loaded = load(path, matrices, *table, {.form = WeightForm::bf16}, true);
    ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.error().to_string();
    EXPECT_EQ(loaded.weights->matrices[0].form, table->pack_panel_bf12 ? WeightForm::bf12 : WeightForm::bf16)
        << table->isa;
    EXPECT_EQ(loaded.weights->matrices[1].form, WeightForm::bf16) << table->isa;
    check_values(loaded.plan, *loaded.checkpoint, *loaded.weights, 0.0f);
  }
  std::filesystem::remove_all(path);
}

TEST(Formats, QuantizeMakesSmallErrors) {
  const Fp8Folder folder;
  const std::vector<Matrix> matrices = {{.sources = {rows_of("d", 2, 8, 10), rows_of("a", 0, 200, 200)}, .k = 300},
                                        {.sources = {rows_of("b", 0, 72, 72)}, .k = 300, .keep_float32 = true}};
  for (const kernels::CpuTable* table : kernels::available_tables())
    for (const Quantize quantize : {Quantize::int8, Quantize::int4}) {
      const Loaded q = load(folder.path(), matrices, *table, {.form = WeightForm::bf16, .quantize = quantize});
      ASSERT_TRUE(q.weights.ok()) << q.weights.error().to_string();
      EXPECT_EQ(q.plan.matrices[0].format->form, quantize == Quantize::int8 ? WeightForm::int8 : WeightForm::int4);
      EXPECT_EQ(q.plan.matrices[0].format->operand, Operand::int8);
      EXPECT_EQ(q.plan.matrices[1].format->form, WeightForm::f32) << "routers are not rounded";
      // Half a step of the largest: 1 / 254; 1 / 16, and the largest of the other sign may be cut to 7 of 8 steps.
      check_values(q.plan, *q.checkpoint, *q.weights, quantize == Quantize::int8 ? 0.0041f : 0.14f);
    }
}

TEST(Formats, GgufBlocksAreKept) {
  for (const char* name : {"llama", "qwen2", "qwen3", "gemma3"}) {
    const std::string path = std::string(WEFT_TEST_DATA) + "/checkpoint/" + name + ".gguf";
    auto checkpoint = Checkpoint::open(path);
    ASSERT_TRUE(checkpoint.ok());
    int kept = 0;
    for (const auto& [tensor_name, tensor] : (*checkpoint)->tensors()) {
      if (tensor.shape.size() != 2 || !is_blocked(tensor.type) || !tensor_name.ends_with(".weight")) continue;
      const int64_t rows = tensor.rows(), some = std::min<int64_t>(rows, 70);
      const std::vector<Matrix> matrices = {
          {.sources = {{tensor_name, 0, some, tensor.shape}, {tensor_name, rows - 1, 1, tensor.shape}},
           .k = static_cast<int>(tensor.cols())}};
      const Loaded loaded = load(path, matrices, kernels::ref_table(), {.form = WeightForm::f32});
      ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.error().to_string();
      check_values(loaded.plan, *loaded.checkpoint, *loaded.weights, 0.0f);
      kept += kernels::is_quantized(loaded.weights->matrices[0].form);
    }
    EXPECT_GT(kept, 0) << name;
  }
}

// Rows of random blocks of a format.
struct RandomBlocks {
  static constexpr int kRows = 5, kK = 1024;
  explicit RandomBlocks(StorageType type) {
    std::mt19937 random(8);
    const StorageLayout shape = layout(type);
    bytes.resize(static_cast<size_t>(kRows * kK / shape.block_values * shape.block_bytes));
    std::vector<float> values(static_cast<size_t>(shape.block_values));
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(shape.block_bytes)) {
      do {  // scales must be finite
        for (int i = 0; i < shape.block_bytes; ++i)
          bytes[at + static_cast<size_t>(i)] = static_cast<std::byte>(random());
        dequantize(type, &bytes[at], shape.block_values, values.data());
      } while (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }));
    }
    tensor.name = name(type), tensor.type = type, tensor.shape = {kRows, kK}, tensor.data = bytes;
  }
  // Whether columns [first_k, first_k + k) of `rows` are unpacked to the values that dequantize() has for them (which
  // checkpoint/gguf_test.cc holds to the reference package's values).
  void check(const kernels::WeightFormat& format, const std::vector<int>& rows, int first_k, int k) const {
    QuantizedSource source(format, k, first_k);
    for (const int row : rows) ASSERT_TRUE(source.append_stored(tensor, row, 1).ok());
    const kernels::CpuTable& table = kernels::ref_table();
    std::vector<std::byte> panel(table.quantized_panel_bytes(format.form, format.groups, k));
    table.pack_panel_quantized(format.form, format.groups, source.rows(), panel.data());
    const kernels::PackedMatrix packed{.form = format.form,
                                       .out = static_cast<int>(rows.size()),
                                       .k = k,
                                       .panel = table.panel_cols(format.form),
                                       .panel_bytes = panel.size(),
                                       .data = panel.data(),
                                       .groups = format.groups};
    for (size_t column = 0; column < rows.size(); ++column) {
      std::vector<float> want(static_cast<size_t>(k));
      ASSERT_TRUE(read_block(tensor, rows[column], 1, first_k, k, want.data(), k).ok());
      for (int i = 0; i < k; ++i) {
        const float got = kernels::ref_weight(packed, static_cast<int>(column), i),
                    wanted = want[static_cast<size_t>(i)];
        ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(wanted))
            << tensor.name << " " << column << " " << i << ": " << got << ", not " << wanted;
      }
    }
  }
  std::vector<std::byte> bytes;
  TensorInfo tensor;
};

// The scale of a block, or of the whole, is a half that is no number.
TEST(Formats, BlocksWithoutAFiniteScaleAreRefused) {
  for (const StorageType type : {StorageType::q8_0, StorageType::q4_1, StorageType::q6_k, StorageType::q4_k}) {
    RandomBlocks blocks(type);
    const StorageLayout shape = layout(type);
    const size_t at = type == StorageType::q6_k ? 208 : 0;
    const auto row_bytes = static_cast<size_t>(RandomBlocks::kK / shape.block_values * shape.block_bytes);
    blocks.bytes[3 * row_bytes + at] = std::byte{0}, blocks.bytes[3 * row_bytes + at + 1] = std::byte{0x7c};
    QuantizedSource source(*stored_format(blocks.tensor, RandomBlocks::kK, Operand::f32), RandomBlocks::kK, 0);
    EXPECT_TRUE(source.append_stored(blocks.tensor, 2, 1).ok());
    const Status refused = source.append_stored(blocks.tensor, 3, 1);
    ASSERT_FALSE(refused.ok()) << blocks.tensor.name;
    EXPECT_NE(refused.error().message().find("row 3"), std::string::npos) << refused.error().message();
    EXPECT_FALSE(read_all(blocks.tensor).ok());
  }
}

TEST(Formats, EveryKindOfBlockIsUnpacked) {
  for (const StorageType type : block_types()) {
    const RandomBlocks blocks(type);
    const auto format = stored_format(blocks.tensor, RandomBlocks::kK, Operand::f32);
    const bool widened = type == StorageType::iq2_xs || type == StorageType::iq2_s;
    ASSERT_EQ(format.has_value(), !widened) << blocks.tensor.name;
    if (format) blocks.check(*format, {2, 3, 4, 0}, 0, RandomBlocks::kK);
  }
}

// Ranks share k at multiples of a group, which may be inside a block.
TEST(Formats, BlocksOfCodesMayBeCut) {
  for (const StorageType type : block_types()) {
    const RandomBlocks blocks(type);
    const auto format = stored_format(blocks.tensor, RandomBlocks::kK, Operand::f32);
    if (!is_code_block(type) || !format) continue;
    const int unit = std::max(format->groups.size, kernels::kStrip);
    for (const auto& [first, count] : {std::pair{1, 2}, {3, 1}}) {
      if ((first + count) * unit <= RandomBlocks::kK) blocks.check(*format, {1, 4}, first * unit, count * unit);
    }
  }
}

TEST(GgufDocs, SayHowTypesAreHeld) {
  const std::string docs = read_file(std::string(WEFT_DOCS) + "/gguf.md").value();
  for (const StorageType type : block_types()) {
    const RandomBlocks blocks(type);
    const auto format = stored_format(blocks.tensor, RandomBlocks::kK, Operand::f32);
    const size_t at = docs.find("| " + std::string(name(type)) + " | ");
    ASSERT_NE(at, std::string::npos) << name(type);
    const std::string row = docs.substr(at, docs.find('\n', at) - at);
    EXPECT_TRUE(row.ends_with(std::string("| ") + (format ? kernels::name(format->form) : "widened") + " |")) << row;
  }
}

TEST(Formats, TheHeadIsInt8AndATiedEmbeddingStaysAsItIs) {
  const Fp8Folder folder;
  PlanBuilder b("test");
  const int head = b.matrix({.sources = {rows_of("d", 0, 10, 10)}, .k = 300});
  const Value x = b.embed_tied(head, 1.0f);
  const Value y =
      b.linear(x, {.sources = {rows_of("a", 0, 200, 200), rows_of("b", 0, 72, 72), rows_of("c", 0, 28, 30)}, .k = 300});
  b.set_output(b.linear(y, head), HeadKind::lm);
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok());
  const Plan plan = choose_formats(b.take(), **checkpoint, {.form = WeightForm::f32, .quantize = Quantize::int4});
  EXPECT_EQ(plan.matrices[0].format->form, WeightForm::int8);
  EXPECT_EQ(plan.matrices[1].format->form, WeightForm::int4);
  EXPECT_EQ(plan.matrices[1].format->operand, Operand::f32) << "float32 takes no rounding of activations";
  ASSERT_EQ(plan.tables.size(), 1u);
  EXPECT_EQ(std::get<EmbedOp>(plan.ops[0].kind).table, 0);
  EXPECT_EQ(std::get<EmbedOp>(plan.ops[0].kind).matrix, -1);
}

}  // namespace
}  // namespace weft
