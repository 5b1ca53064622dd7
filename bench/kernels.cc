// Measures the kernels against the machine's own limits, taken in the same run, and prints one JSON object per line.
//
//   bench_kernels [threads=2] [filter]     filter: a word that the "bench" name must contain
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/peak.h"
#include "base/thread_team.h"
#include "kernels/kernels.h"

namespace weft::bench {
namespace {

using kernels::Part;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Zeroed memory on large pages where the system gives them; never returned.
std::byte* big(size_t bytes) {
  bytes = (bytes + (size_t{4} << 20)) >> 21 << 21;
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::abort();
  ::madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<std::byte*>(p);
}

struct Bench {
  const kernels::CpuTable& table;
  ThreadTeam team;
  std::string filter;
  double read_bytes_per_s = 0, f32_flops = 0, bf16_flops = 0, int8_ops = 0;

  bool wanted(const char* name) const { return filter.empty() || std::string(name).find(filter) != std::string::npos; }
  // The best time of one run of `work` by the whole team, after one run to warm up.
  double best_seconds(const std::function<void(Part)>& work, double seconds = 0.6) {
    const std::function<void(int)> thread = [&](int i) { work({i, team.size()}); };
    team.run(thread);
    double best = 1e30;
    for (const double begin = now(); now() - begin < seconds;) {
      const double start = now();
      team.run(thread);
      best = std::min(best, now() - start);
    }
    return best;
  }
  double dot_flops(kernels::WeightForm form, kernels::Operand operand = kernels::Operand::f32) const {
    if (operand == kernels::Operand::int8) return int8_ops;
    const bool dot = form == kernels::WeightForm::bf16 || form == kernels::WeightForm::bf12;
    return dot && bf16_flops > 0 ? bf16_flops : f32_flops;
  }
};

void measure_limits(Bench& b) {
  const MachineLimits limits = measure_limits(b.team, ReadBuffer(), 2.0);
  b.read_bytes_per_s = limits.read_bytes_per_s;
  const bool tiles = std::string(b.table.isa) == "amx" && limits.bf16_tile_flops > 0;
  b.f32_flops = limits.f32_flops, b.bf16_flops = tiles ? limits.bf16_tile_flops : limits.bf16_flops,
  b.int8_ops = tiles ? limits.int8_tile_ops : limits.int8_ops;
  std::printf(
      "{\"bench\":\"limits\",\"isa\":\"%s\",\"threads\":%d,\"read_gb_s\":%.1f,\"f32_gflops\":%.0f,\"bf16_gflops\":%.0f,"
      "\"int8_gops\":%.0f}\n",
      b.table.isa, b.team.size(), b.read_bytes_per_s / 1e9, b.f32_flops / 1e9, b.bf16_flops / 1e9, b.int8_ops / 1e9);
}

// Quantised panels get the bits of bfloat16: finite as float32, bfloat16 or float16 scales, and any codes.
void fill_random(std::byte* data, size_t bytes, kernels::WeightForm form) {
  uint32_t state = 1;
  for (size_t i = 0; i < bytes / 4; ++i) {
    state = state * 1664525u + 1013904223u;
    // Floats (or pairs of bfloat16) between 2^-7 and 2^-6, of both signs.
    uint32_t bits =
        form != kernels::WeightForm::f32 ? (state & 0x807f807fu) | 0x3c003c00u : (state & 0x807fffffu) | 0x3c000000u;
    // Codes of fp8 are seldom subnormal in trained weights, and some processors are slow at these.
    if (form == kernels::WeightForm::fp8) bits |= 0x38383838u;
    std::memcpy(data + i * 4, &bits, 4);
  }
}

// One panel of bfloat16 with the exponents of trained weights, many times.
void fill_bf12(const kernels::CpuTable& table, int k, int panels, size_t panel_bytes, std::byte* data) {
  const int columns = table.panel_cols(kernels::WeightForm::bf12);
  std::vector<float> rows(static_cast<size_t>(columns) * static_cast<size_t>(k));
  uint32_t state = 1;
  for (float& value : rows) {
    value = 0;
    for (int i = 0; i < 4; ++i)
      state = state * 1664525u + 1013904223u, value += static_cast<float>(state >> 8) / (1 << 24) - 0.5f;
  }
  std::byte* plain = big(table.panel_bytes(kernels::WeightForm::bf16, k));
  table.pack_panel(kernels::WeightForm::bf16, rows.data(), k, columns, k, plain);
  if (!table.pack_panel_bf12(k, plain, data)) std::abort();
  for (int i = 1; i < panels; ++i) std::memcpy(data + static_cast<size_t>(i) * panel_bytes, data, panel_bytes);
}

struct LinearForm {
  const char* name;
  kernels::WeightFormat format;
};

// `shards`: in so many parts k is summed, as row-sharded matrices are.
void linear(Bench& b, const LinearForm& kind, int out, int k, std::initializer_list<int> row_counts, int shards = 1) {
  if (!b.wanted("linear") && !b.wanted(kind.name)) return;
  kernels::LinearArgs a;
  const kernels::WeightFormat& format = kind.format;
  const kernels::WeightForm form = format.form;
  const kernels::Operand operand = kernels::is_quantized(form) ? format.operand : b.table.operand(form);
  const int panel = b.table.panel_cols(form), panels = (out + panel - 1) / panel;
  const size_t panel_bytes = kernels::is_quantized(form) ? b.table.quantized_panel_bytes(form, format.groups, k)
                                                         : b.table.panel_bytes(form, k);
  a.w = {.form = form,
         .out = out,
         .k = k,
         .panel = panel,
         .panel_bytes = panel_bytes,
         .shards = shards,
         .groups = format.groups,
         .operand = format.operand};
  if (form == kernels::WeightForm::bf12 && !b.table.pack_panel_bf12) return;
  const size_t bytes = a.w.panel_bytes * static_cast<size_t>(panels);
  const int copies = static_cast<int>(std::max<size_t>(1, (size_t{400} << 20) / bytes));  // more than any cache
  std::byte* weights = big(bytes * static_cast<size_t>(copies) + 8192);
  if (form == kernels::WeightForm::bf12) fill_bf12(b.table, k, panels * copies, a.w.panel_bytes, weights);
  else fill_random(weights, bytes * static_cast<size_t>(copies), form);
  for (int rows : row_counts) {
    std::byte* x = big(static_cast<size_t>(rows) * static_cast<size_t>(k) * 4);
    fill_random(x, static_cast<size_t>(rows) * static_cast<size_t>(k) * 4,
                operand == kernels::Operand::bf16 ? kernels::WeightForm::bf16 : kernels::WeightForm::f32);
    a.x = x;
    a.ld_x = k;
    std::byte* codes = nullptr;
    const int64_t ld_codes = (kernels::operand_row_elements(operand, k) + 63) / 64 * 64;
    if (operand == kernels::Operand::int8) {
      codes = big(static_cast<size_t>(rows * ld_codes));
      b.table.run<kernels::ToOperandArgs>({.x = reinterpret_cast<const float*>(x),
                                           .ld_x = k,
                                           .cols = k,
                                           .operand = operand,
                                           .out = codes,
                                           .ld_out = ld_codes},
                                          rows, {});
      a.x = codes, a.ld_x = ld_codes;
    }
    a.y = reinterpret_cast<float*>(big(static_cast<size_t>(rows) * static_cast<size_t>(out) * 4));
    a.ld_y = out;
    const int used = rows >= 64 ? std::min(2, copies) : copies;
    const double seconds = b.best_seconds([&](Part part) {
      kernels::LinearArgs call = a;
      for (int i = 0; i < used; ++i) {
        call.w.data = weights + bytes * static_cast<size_t>(i);
        b.table.run(call, rows, part);
      }
    }) / used;
    const double gb = static_cast<double>(bytes) / seconds, flops = 2.0 * rows * out * k / seconds;
    std::printf(
        "{\"bench\":\"linear\",\"isa\":\"%s\",\"threads\":%d,\"form\":\"%s\",\"m\":%d,\"n\":%d,\"k\":%d,\"shards\":%d,"
        "\"gb_s\":%.1f,\"read_pct\":"
        "%.0f,\"gflops\":%.1f,"
        "\"peak_pct\":%.0f}\n",
        b.table.isa, b.team.size(), kind.name, rows, out, k, shards, gb / 1e9, 100 * gb / b.read_bytes_per_s,
        flops / 1e9, 100 * flops / b.dot_flops(form, operand));
    std::fflush(stdout);
    ::munmap(x, static_cast<size_t>(rows) * static_cast<size_t>(k) * 4);
    if (codes) ::munmap(codes, static_cast<size_t>(rows * ld_codes));
    ::munmap(a.y, static_cast<size_t>(rows) * static_cast<size_t>(out) * 4);
  }
  ::munmap(weights, bytes * static_cast<size_t>(copies));
}

struct AttentionShape {
  int heads, kv_heads, dim;
  DType dtype;
};

// `rows` query rows at the end of a context of `context` keys, repeated over enough layers to leave the caches.
void attention(Bench& b, const AttentionShape& shape, int rows, int context, int layers) {
  if (!b.wanted("attention")) return;
  const CacheSpec spec{.kv_heads = shape.kv_heads, .k_dim = shape.dim, .v_dim = shape.dim, .dtype = shape.dtype};
  constexpr int kBlock = 64;
  const int blocks = (context + kBlock - 1) / kBlock;
  kernels::AttendArgs a;
  a.cache = {.block_stride_bytes = kernels::cache_layer_bytes(spec, kBlock),
             .tokens_per_block = kBlock,
             .dtype = shape.dtype,
             .kv_heads = shape.kv_heads,
             .k_dim = shape.dim,
             .v_dim = shape.dim};
  const size_t layer_bytes = a.cache.block_stride_bytes * static_cast<size_t>(blocks);
  std::byte* cache = big(layer_bytes * static_cast<size_t>(layers));
  fill_random(cache, layer_bytes * static_cast<size_t>(layers),
              shape.dtype == DType::f32 ? kernels::WeightForm::f32 : kernels::WeightForm::bf16);
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  for (int i = 0; i < blocks; ++i) table[static_cast<size_t>(i)] = i;
  const kernels::SequenceView sequence{.rows = rows, .first_position = context - rows};
  kernels::AttendPlan plan;
  a.cache.base = cache;
  kernels::plan_attention({&sequence, 1}, a.cache, shape.heads, kernels::Mask::causal, 0, 0, b.team.size(), plan);
  const size_t width = static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.dim);
  std::vector<float> q(static_cast<size_t>(rows) * width, 0.01f), out(q.size());
  std::vector<float> partials(static_cast<size_t>(plan.partial_count + 1) *
                              kernels::partial_floats(shape.heads, a.cache));
  a.q = q.data();
  a.ld_q = a.ld_out = static_cast<int64_t>(width);
  a.block_table = table.data();
  a.sequences = &sequence;
  a.plan = &plan;
  a.heads = shape.heads;
  a.scale = 0.1f;
  a.out = out.data();
  a.partials = partials.data();
  a.scratch_bytes = b.table.attend_scratch_bytes(shape.heads, a.cache);
  a.scratch = big(a.scratch_bytes * static_cast<size_t>(b.team.size()));
  const double seconds = b.best_seconds([&](Part part) {
    kernels::AttendArgs call = a;
    for (int layer = 0; layer < layers; ++layer) {
      call.cache.base = cache + layer_bytes * static_cast<size_t>(layer);
      b.table.run(call, rows, part);
      if (!plan.combines.empty()) {
        b.team.barrier();
        b.table.run(kernels::AttendCombineArgs{call}, rows, part);
        b.team.barrier();
      }
    }
  }) / layers;
  double visits = 0;  // (row, key) pairs
  for (int r = 0; r < rows; ++r) visits += context - rows + r + 1;
  const double flops = visits * static_cast<double>(width) * 4 / seconds;
  const double gb = static_cast<double>(layer_bytes) / seconds;
  std::printf(
      "{\"bench\":\"attention\",\"isa\":\"%s\",\"threads\":%d,\"cache\":\"%s\",\"heads\":%d,\"kv_heads\":%d,\"dim\":%d,"
      "\"rows\":%d,"
      "\"context\":%d,\"us\":%.1f,"
      "\"gb_s\":%.1f,\"read_pct\":%.0f,\"gflops\":%.1f,\"peak_pct\":%.0f}\n",
      b.table.isa, b.team.size(),
      shape.dtype == DType::bf16 ? "bf16"
      : shape.dtype == DType::i8 ? "int8"
                                 : "f32",
      shape.heads, shape.kv_heads, shape.dim, rows, context, seconds * 1e6, gb / 1e9, 100 * gb / b.read_bytes_per_s,
      flops / 1e9,
      100 * flops / b.dot_flops(shape.dtype == DType::bf16 ? kernels::WeightForm::bf16 : kernels::WeightForm::f32));
  std::fflush(stdout);
  ::munmap(cache, layer_bytes * static_cast<size_t>(layers));
}

// Ops on rows, by elements per second of the whole team.
void row_ops(Bench& b, int rows, int cols) {
  std::vector<float> x(static_cast<size_t>(rows) * static_cast<size_t>(cols) * 2, 0.5f), out(x.size()),
      weight(static_cast<size_t>(cols), 1.0f);
  const auto report = [&](const char* name, const std::function<void(Part)>& work) {
    if (!b.wanted(name)) return;
    const double seconds = b.best_seconds(work, 0.2);
    std::printf(
        "{\"bench\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"rows\":%d,\"cols\":%d,\"us\":%.2f,\"ns_per_element\":%.3f}"
        "\n",
        name, b.table.isa, b.team.size(), rows, cols, seconds * 1e6, seconds * 1e9 / rows / cols);
  };
  kernels::NormArgs norm{
      .x = x.data(), .ld_x = cols, .cols = cols, .weight = weight.data(), .out = out.data(), .ld_out = cols};
  report("rms_norm", [&](Part part) { b.table.run(norm, rows, part); });
  norm.layer = true;
  report("layer_norm", [&](Part part) { b.table.run(norm, rows, part); });
  kernels::ActivateArgs act{.x = x.data(), .ld_x = 2 * cols, .cols = cols, .out = out.data(), .ld_out = cols};
  report("silu_gated", [&](Part part) { b.table.run(act, rows, part); });
  act.act = kernels::Activation::gelu;
  report("gelu_gated", [&](Part part) { b.table.run(act, rows, part); });
  std::vector<float> angles(static_cast<size_t>(rows) * 128, 0.5f);
  kernels::HeadsArgs heads{.x = out.data(),
                           .ld_x = cols,
                           .heads = cols / 128,
                           .dim = 128,
                           .norm = kernels::HeadNorm::rms,
                           .norm_weight = weight.data(),
                           .angles = angles.data(),
                           .half = 64};
  report("heads_rms_rope", [&](Part part) { b.table.run(heads, rows, part); });
}

int run(int threads, const char* filter) {
  const kernels::CpuTable* table = kernels::cpu_table();
  if (!table) {
    std::fprintf(stderr, "WEFT_ISA names a table that cannot run here\n");
    return 1;
  }
  Bench b{*table, ThreadTeam(threads), filter};
  measure_limits(b);
  using kernels::WeightForm, kernels::ScaleKind, kernels::OffsetKind, kernels::Operand;
  const LinearForm f32{"f32", {WeightForm::f32}}, bf16{"bf16", {WeightForm::bf16}};
  linear(b, bf16, 8192, 2048, {1, 2, 4, 8, 16, 32, 64, 512});
  linear(b, bf16, 2048, 8192, {1, 8, 512});
  linear(b, {"bf12", {WeightForm::bf12}}, 8192, 2048, {1, 2, 4, 8, 16, 32, 512});
  linear(b, f32, 8192, 2048, {1, 2, 4, 8, 16, 32, 512});
  linear(b, bf16, 896, 896, {1, 8, 512});
  const LinearForm sharded{"sharded_bf16", {WeightForm::bf16}};
  linear(b, sharded, 1024, 3072, {1, 512}, 8);
  linear(b, sharded, 1024, 2048, {1, 512}, 8);
  const LinearForm quantized[] = {
      {"int8_by_int8", {WeightForm::int8, {64, ScaleKind::bf16, OffsetKind::none}, Operand::int8}},  // --quantize int8
      {"int4_by_int8", {WeightForm::int4, {32, ScaleKind::bf16, OffsetKind::none}, Operand::int8}},  // --quantize int4
      {"int8_by_f32", {WeightForm::int8, {64, ScaleKind::bf16, OffsetKind::none}, Operand::f32}},
      {"int4_by_f32", {WeightForm::int4, {32, ScaleKind::bf16, OffsetKind::none}, Operand::f32}},
      {"int4_zeros", {WeightForm::int4, {128, ScaleKind::f16, OffsetKind::zero}, Operand::f32_as_bf16}},  // AWQ
      {"nvfp4", {WeightForm::fp4, {16, ScaleKind::f32, OffsetKind::none}, Operand::f32_as_bf16}},
      {"fp8", {WeightForm::fp8, {128, ScaleKind::f32, OffsetKind::none}, Operand::f32_as_bf16}},
      {"q8_0", {WeightForm::int8, {32, ScaleKind::f16, OffsetKind::none}, Operand::f32_as_bf16}},
      {"q4_0", {WeightForm::int4, {32, ScaleKind::f16, OffsetKind::none}, Operand::f32_as_bf16}},
      {"q4_1", {WeightForm::int4, {32, ScaleKind::f16, OffsetKind::minimum}, Operand::f32_as_bf16}},
      {"q4_k", {WeightForm::int4, {32, ScaleKind::super, OffsetKind::minimum}, Operand::f32_as_bf16}},
      {"q6_k", {WeightForm::int6, {16, ScaleKind::super, OffsetKind::none}, Operand::f32_as_bf16}},
  };
  for (const LinearForm& form : quantized) linear(b, form, 8192, 2048, {1, 2, 4, 8, 32, 512});
  for (const DType dtype : {DType::bf16, DType::f32, DType::i8}) {
    attention(b, {32, 8, 128, dtype}, 1, 16384, 4);
    attention(b, {14, 2, 64, dtype}, 1, 16384, 12);
    attention(b, {8, 8, 128, dtype}, 1, 16384, 4);
    attention(b, {32, 8, 128, dtype}, 512, 512, 4);
    attention(b, {32, 8, 128, dtype}, 256, 8192, 1);
    attention(b, {8, 8, 64, dtype}, 512, 2048, 2);
  }
  for (const int rows : {1, 512}) row_ops(b, rows, 4096);
  return 0;
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  return weft::bench::run(argc > 1 ? std::atoi(argv[1]) : weft::ThreadTeam::default_size(), argc > 2 ? argv[2] : "");
}
