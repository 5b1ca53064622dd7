#include "plan/split_runs.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <random>

#include "base/files.h"
#include "checkpoint/safetensors_writer.h"
#include "plan/split.h"

namespace weft {
namespace {

constexpr int kBlock = 16, kBlocksEach = 4, kMaxTokens = 64, kMaxRank = 8;

Result<PlanShares> load(const Plan& recorded, const std::shared_ptr<const Checkpoint>& checkpoint, const RankTeam& team,
                        const RunOptions& options) {
  const Plan plan = choose_formats(recorded, *checkpoint, options.formats);
  PlanShares shares;
  shares.ranks.reserve(static_cast<size_t>(team.ranks()));
  LoadOptions load{.form = options.formats.form, .quantize = options.formats.quantize, .pack = options.pack};
  const AdapterForm adapters{options.formats.form, kMaxRank};
  const auto share_with = [&](Plan part) -> Result<PlanShare> {
    PlanShare share;
    if (!options.adapters.empty()) share.adapted = prepare_plan(part, *options.table, options.formats.form, &adapters);
    share.plan = prepare_plan(std::move(part), *options.table, options.formats.form);
    WEFT_TRY(share.weights, load_weights(share.plan, checkpoint, *options.table, team.threads(), load));
    return share;
  };
  for (int rank = 0; rank < team.ranks(); ++rank) {
    WEFT_TRY(Plan part, split_plan(plan, team.layout(), rank));
    load.first_thread = rank * team.threads_per_rank(), load.threads = team.threads_per_rank();
    WEFT_TRY(PlanShare share, share_with(std::move(part)));
    shares.ranks.push_back(std::move(share));
    load.others.push_back({&shares.ranks.back().plan, &shares.ranks.back().weights});
  }
  if (team.layout().homes() == 1 || cuts_experts(plan, team.layout())) return shares;
  WEFT_TRY(shares.alone, share_with(plan));
  return shares;
}

// Blocks of kBlocksEach for each sequence, in every group.
struct Caches {
  std::vector<Memory> memory;
  std::vector<CacheMemory> ranks;
};
Caches reserve(const PlanShares& shares, DType dtype, size_t sequences) {
  Caches caches;
  for (const PlanShare& share : shares.ranks) {
    CacheMemory& cache = caches.ranks.emplace_back();
    cache.tokens_per_block = kBlock, cache.dtype = dtype;
    for (const LayerGroup& group : share.plan.groups) {
      CacheSpec spec = group.spec;
      spec.dtype = dtype;
      const size_t stride = kernels::cache_layer_bytes(spec, kBlock) * static_cast<size_t>(group.layers);
      auto memory = Memory::reserve(stride * sequences * kBlocksEach, false);
      EXPECT_TRUE(memory.ok());
      cache.base.push_back(memory->data()), cache.block_stride_bytes.push_back(stride);
      caches.memory.push_back(std::move(*memory));
    }
    if (!share.plan.cross_group) continue;
    CacheSpec spec = share.plan.cross_group->spec;
    spec.dtype = dtype;
    cache.cross_stride_bytes =
        kernels::cache_layer_bytes(spec, kCrossBlock) * static_cast<size_t>(share.plan.cross_group->layers);
    auto memory = Memory::reserve(cache.cross_stride_bytes * sequences, false);
    EXPECT_TRUE(memory.ok());
    cache.cross_base = memory->data();
    caches.memory.push_back(std::move(*memory));
  }
  return caches;
}

// Random keys and values of each sequence's images, in a block of its own; every rank keeps those of its heads.
void write_images(RankedExecutor& executor, const Plan& whole, const RunOptions& options) {
  const LayerGroup& all = *whole.cross_group;
  const int cols = all.spec.kv_heads * all.spec.k_dim;
  std::mt19937 random(9);
  for (size_t s = 0; s < options.images.size(); ++s)
    for (int layer = 0; layer < all.layers; ++layer) {
      const int rows = options.images[s];
      std::vector<float> keys(static_cast<size_t>(2 * rows * cols));
      for (float& key : keys) key = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
      const auto block = static_cast<int32_t>(s);
      const kernels::SequenceView view{.rows = rows};
      for (int rank = 0; rank < executor.ranks() && rows > 0; ++rank) {
        const float* own = keys.data() + executor.rank(rank).plan().cross_group->first_kv_head * all.spec.k_dim;
        options.table->run<kernels::AppendArgs>(
            {own, own + cols, 2 * cols, 2 * cols, executor.rank(rank).cache_view({CacheRef::Kind::cross, 0, layer}),
             &block, &view, 1},
            rows, {0, 1});
      }
    }
}

// Two of three rows of a sequence with an image see it.
void fill_cross(StepInputs& in, const std::vector<StepRows>& rows, const std::vector<int>& images) {
  in.cross.block_table.clear(), in.cross.sequences.clear(), in.has_images = false;
  size_t first = 0;
  for (const StepRows& row : rows) {
    const int keys = images[static_cast<size_t>(row.sequence)];
    in.has_images |= keys > 0;
    for (size_t i = first; i < first + static_cast<size_t>(row.tokens); ++i) {
      const bool sees = keys > 0 && in.positions[i] % 3 != 0;
      in.row_flags[i] = static_cast<uint8_t>((keys > 0 ? kHasImages : 0) | (sees ? kSeesImage : 0));
      in.cross_starts[i] = sees ? keys / 3 : 0, in.cross_ends[i] = keys;
    }
    const auto offset = static_cast<int64_t>(in.cross.block_table.size());
    if (keys > 0) in.cross.block_table.push_back(row.sequence);
    in.cross.sequences.push_back(
        {static_cast<int>(first), row.tokens, 0, offset, in.cross_ends.data() + first, in.cross_starts.data() + first});
    first += static_cast<size_t>(row.tokens);
  }
}

// What all ranks have of each adapter.
void load_adapters(const PlanShares& shares, const RunOptions& options, AdapterTable& table) {
  const AdapterForm form{options.formats.form, kMaxRank};
  for (size_t i = 0; i < options.adapters.size(); ++i) {
    const auto loaded = std::make_shared<LoadedAdapter>();
    const auto pack = [&](const PlanShare& share) {
      auto weights = pack_adapter(*share.adapted, *options.adapters[i], *options.table, form);
      EXPECT_TRUE(weights.ok());
      return std::move(*weights);
    };
    for (const PlanShare& share : shares.ranks) loaded->ranks.push_back(pack(share));
    if (shares.alone) loaded->alone = pack(*shares.alone);
    table.put(static_cast<int>(i), loaded, nullptr);
  }
}

// The step's rows of one home; `position`: how far each sequence is.
void fill(StepInputs& in, const std::vector<StepRows>& rows, const std::vector<int>& position,
          const std::vector<int>& adapter_of, int vocab) {
  in.tokens = 0;
  std::vector<kernels::SequenceView> sequences;
  std::vector<int32_t> table;
  for (const StepRows& row : rows) {
    const auto s = static_cast<size_t>(row.sequence);
    sequences.push_back({in.tokens, row.tokens, position[s], static_cast<int64_t>(table.size())});
    for (int i = 0; i < kBlocksEach; ++i) table.push_back(row.sequence * kBlocksEach + i);
    for (int i = 0; i < row.tokens; ++i, ++in.tokens) {
      in.ids[static_cast<size_t>(in.tokens)] = (31 * row.sequence + 7 * (position[s] + i) + 3) % vocab;
      in.positions[static_cast<size_t>(in.tokens)] = position[s] + i;
      in.output_rows[static_cast<size_t>(in.tokens)] = in.tokens;
      in.adapter_of[static_cast<size_t>(in.tokens)] = adapter_of[s];
    }
  }
  in.outputs = in.tokens;
  for (GroupInputs& group : in.groups) group.block_table = table, group.sequences = sequences;
  for (GroupInputs& group : in.local_groups) group.sequences = sequences;
}

void append_bits(std::vector<uint32_t>& bits, const float* row, int cols) {
  const size_t before = bits.size();
  bits.resize(before + static_cast<size_t>(cols));
  std::memcpy(bits.data() + before, row, static_cast<size_t>(cols) * sizeof(float));
}

// Where outputs are in parts, every third row is wanted as summaries, which have all columns.
void want_summaries(RankedExecutor& executor, int home) {
  StepInputs& in = executor.inputs(home);
  for (int r = 0; r < in.outputs; ++r)
    in.summary_bytes[static_cast<size_t>(r)] =
        executor.in_parts(home) && r % 3 == 1 ? executor.most_summary_bytes() : 0;
}
void append_row(std::vector<uint32_t>& bits, const RankedExecutor& executor, int home, int row) {
  const std::span<const std::byte> parts = executor.summaries(home, row);
  append_bits(bits, parts.empty() ? executor.row(home, row) : reinterpret_cast<const float*>(parts.data()),
              executor.output_cols());
}

void run_step(RankedExecutor& executor, const std::vector<StepRows>& step, const RunOptions& options,
              std::vector<int>& position, RankedRun& result) {
  std::vector<std::vector<StepRows>> by_home(static_cast<size_t>(executor.homes()));
  for (const StepRows& row : step)
    by_home[executor.homes() > 1 ? static_cast<size_t>(options.home_of[static_cast<size_t>(row.sequence)]) : 0]
        .push_back(row);
  const Plan& plan = executor.plan();
  int vocab = 0;
  for (const Op& op : plan.ops)
    if (const auto* embed = std::get_if<EmbedOp>(&op.kind)) vocab = embed->ids_below;
  for (size_t home = 0; home < by_home.size(); ++home) {
    StepInputs& in = executor.inputs(static_cast<int>(home));
    fill(in, by_home[home], position, options.adapter_of, vocab);
    if (plan.cross_group) fill_cross(in, by_home[home], options.images);
    want_summaries(executor, static_cast<int>(home));
  }
  executor.run({}, options.replay);
  for (size_t home = 0; home < by_home.size(); ++home) {
    int r = 0;
    for (const StepRows& row : by_home[home])
      for (int i = 0; i < row.tokens; ++i, ++r) {
        const auto s = static_cast<size_t>(row.sequence);
        const int h = static_cast<int>(home);
        append_row(result.outputs[s], executor, h, r);
        if (plan.taps.storage >= 0)
          append_bits(result.taps[s], executor.taps(h) + r * executor.taps_ld(), plan.taps.cols);
      }
  }
  for (const StepRows& row : step) position[static_cast<size_t>(row.sequence)] += row.tokens;
}

}  // namespace

RankedRun run_on_ranks(const Plan& recorded, const std::shared_ptr<const Checkpoint>& checkpoint,
                       const RankLayout& layout, const RunOptions& options) {
  RankedRun result;
  const RankTeam team(layout.size() * options.threads_per_rank, layout);
  auto shares = load(recorded, checkpoint, team, options);
  if (!shares.ok()) {
    result.error = shares.error().to_string();
    return result;
  }
  result.shares = std::move(*shares);
  const size_t sequences = options.home_of.size();
  result.outputs.resize(sequences), result.taps.resize(sequences);
  Caches caches = reserve(result.shares, options.cache, sequences);
  AdapterTable adapters(kMaxAdapters);
  load_adapters(result.shares, options, adapters);
  RankedExecutor executor(result.shares, *options.table, team, {0, layout.size()}, caches.ranks,
                          {.max_tokens = kMaxTokens,
                           .max_outputs = kMaxTokens,
                           .max_sequences = static_cast<int>(sequences),
                           .max_seq_len = kBlock * kBlocksEach,
                           .piece_rows = options.piece_rows},
                          1, &adapters);
  if (recorded.cross_group) write_images(executor, recorded, options);
  executor.summarise([](const OutputColumns& part, std::span<std::byte> to) {
    std::memcpy(to.data(), part.values.data(), part.values.size_bytes());
  });
  std::vector<int> position(sequences);
  for (const std::vector<StepRows>& step : options.steps) run_step(executor, step, options, position, result);
  return result;
}

namespace {

std::string new_folder(const std::string& config) {
  std::string folder = (std::filesystem::temp_directory_path() / "weft_split_XXXXXX").string();
  folder = ::mkdtemp(folder.data());
  EXPECT_TRUE(write_file(folder + "/config.json", config).ok());
  return folder;
}

struct NamedTensor {
  std::vector<int64_t> shape;
  bool in_fp8 = false;
};
std::map<std::string, NamedTensor> tensors_of(const Plan& plan) {
  std::map<std::string, NamedTensor> all;
  const auto add = [&](const TensorRows& rows, std::vector<int64_t> shape, bool in_fp8) {
    if (!rows.tensor.empty()) all[rows.tensor] = {rows.shape.empty() ? std::move(shape) : rows.shape, in_fp8};
  };
  for (const Matrix& m : plan.matrices) {
    for (const TensorRows& rows : m.sources)
      add(rows, {rows.rows, m.k}, !m.keep_float32 && !rows.transposed && rows.tensor != "embed.weight");
    for (const TensorRows& rows : m.biases) add(rows, {rows.rows}, false);
  }
  for (const VectorWeight& v : plan.vectors) add({v.tensor}, {v.size}, false);
  for (size_t i = 0; i < plan.tables.size(); ++i) add(plan.tables[i], {plan.tables[i].rows, plan.table_cols[i]}, false);
  return all;
}

std::vector<float> random_values(std::mt19937& random, int64_t count, float low, float high) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = low + (high - low) * static_cast<float>(random() % 4096) / 4095.0f;
  return values;
}

void write_fp8(SafetensorsWriter& writer, const std::string& name, const std::vector<int64_t>& shape, int64_t block,
               std::mt19937& random) {
  std::vector<uint8_t> codes(static_cast<size_t>(shape[0] * shape[1]));
  for (uint8_t& code : codes) {
    code = static_cast<uint8_t>(random());
    if ((code & 0x7f) > 0x50) code &= 0xcf;  // no NaN, and none that drowns the others
  }
  const auto blocks = [&](int64_t extent) { return (extent + block - 1) / block; };
  const std::vector<int64_t> grid =
      block == 0 ? std::vector<int64_t>{shape[0], 1} : std::vector<int64_t>{blocks(shape[0]), blocks(shape[1])};
  EXPECT_TRUE(writer.add(name, StorageType::f8_e4m3, shape, std::as_bytes(std::span(codes))).ok());
  EXPECT_TRUE(writer.add(name + "_scale_inv", grid, random_values(random, grid[0] * grid[1], 0.01f, 0.05f)).ok());
}

}  // namespace

std::shared_ptr<const Checkpoint> fp8_weights(const Plan& plan, int64_t scale_block) {
  const std::string block = std::to_string(scale_block),
                    sizes = scale_block > 0 ? R"(, "weight_block_size": [)" + block + ", " + block + "]" : "";
  const std::string folder = new_folder(
      R"({"architectures": ["X"], "quantization_config": {"quant_method": "fp8", "fmt": "e4m3")" + sizes + "}}");
  auto writer = SafetensorsWriter::create(folder + "/model.safetensors");
  EXPECT_TRUE(writer.ok());
  std::mt19937 random(6);
  for (const auto& [name, tensor] : tensors_of(plan)) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    if (tensor.in_fp8) write_fp8(*writer, name, tensor.shape, scale_block, random);
    else EXPECT_TRUE(writer->add(name, tensor.shape, random_values(random, count, -0.3f, 0.4f)).ok());
  }
  EXPECT_TRUE(writer->finish().ok());
  auto checkpoint = Checkpoint::open(folder);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
  const std::shared_ptr<const Checkpoint> opened = *checkpoint;
  return {opened.get(), [opened, folder](const Checkpoint*) { std::filesystem::remove_all(folder); }};
}

std::shared_ptr<const Adapter> random_adapter(const Plan& plan, int rank, uint32_t seed, const std::string& part) {
  const auto adapter = std::make_shared<Adapter>();
  std::mt19937 random(seed);
  for (const auto& [name, module] : adapter_modules(plan)) {
    if (name.find(part) == std::string::npos) continue;
    AdapterPair& pair = adapter->pairs[name];
    pair = {.rank = rank, .in = module.in, .out = module.out, .scale = 0.75f, .a_name = name, .b_name = name};
    pair.a = random_values(random, module.in * rank, -0.5f, 0.5f);
    pair.b = random_values(random, module.out * rank, -0.1f, 0.1f);
  }
  adapter->largest_rank = rank;
  return adapter;
}

std::shared_ptr<const Checkpoint> merged_weights(const Plan& plan, const Adapter* adapter) {
  const std::string folder = new_folder(R"({"architectures": ["X"]})");
  auto writer = SafetensorsWriter::create(folder + "/model.safetensors");
  EXPECT_TRUE(writer.ok());
  std::mt19937 random(7);
  for (const auto& [name, tensor] : tensors_of(plan)) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    std::vector<float> values = random_values(random, count, -0.3f, 0.3f);
    const std::string module = name.substr(0, name.rfind('.'));
    if (adapter && adapter->pairs.contains(module) && name.ends_with(".weight")) {
      const AdapterPair& p = adapter->pairs.at(module);
      for (int64_t n = 0; n < p.out; ++n)
        for (int64_t k = 0; k < p.in; ++k) {
          double sum = 0;
          for (int r = 0; r < p.rank; ++r)
            sum += double{p.b[static_cast<size_t>(n * p.rank + r)]} * p.a[static_cast<size_t>(r * p.in + k)];
          values[static_cast<size_t>(n * p.in + k)] += static_cast<float>(p.scale * sum);
        }
    }
    EXPECT_TRUE(writer->add(name, tensor.shape, values).ok());
  }
  EXPECT_TRUE(writer->finish().ok());
  auto checkpoint = Checkpoint::open(folder);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
  const std::shared_ptr<const Checkpoint> opened = *checkpoint;
  return {opened.get(), [opened, folder](const Checkpoint*) { std::filesystem::remove_all(folder); }};
}

std::shared_ptr<const Checkpoint> dummy_weights() {
  const std::string folder = new_folder(R"({"architectures": ["X"]})");
  auto checkpoint = Checkpoint::open_dummy(folder);
  EXPECT_TRUE(checkpoint.ok());
  const std::shared_ptr<const Checkpoint> opened = *checkpoint;
  return {opened.get(), [opened, folder](const Checkpoint*) { std::filesystem::remove_all(folder); }};
}

}  // namespace weft
