// The kernels' interface: pure functions on pointers, one table of them per instruction set.
//
// Every op is called by all threads of a team at once, each with its Part; an op never allocates, throws, locks or
// starts threads. Activations are float32, row-major, with a leading dimension in floats, so that a slice of columns is
// a view.
//
// Exactness (docs/exactness.md): what is computed for one row depends on nothing but that row, its weights and its
// cache. The order of additions for one output is fixed by the weights' shape: never by the number of rows, the Part or
// the tile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "core/cache_spec.h"
#include "core/dtype.h"
#include "core/input_rounding.h"
#include "kernels/elementwise.h"
#include "kernels/weight_form.h"

namespace weft::kernels {

// This thread's share of an op: `index` of `count`.
struct Part {
  int index = 0, count = 1;
};

// ---- Arguments ------------------------------------------------------------------------------------------------------

// Looks up rows of the embedding: out[r, :] = scale * table[ids[r] - first_id, :], zeros for an id that is not among
// the table's (negative, or another rank's). The table is either plain rows (row_data) or, when the output matrix is
// tied to it, the packed matrix itself.
struct EmbedArgs {
  const int32_t* ids = nullptr;
  int32_t first_id = 0, id_count = 0;  // ids of the table; count 0: all that are not negative
  const void* row_data = nullptr;      // [vocab, cols] of row_type (f32, bf16 or f16), or null: use `packed`
  DType row_type = DType::f32;
  PackedMatrix packed;
  int cols = 0;
  float scale = 1.0f;
  float* out = nullptr;
  int64_t ld_out = 0;
};

// y[r, n] = sum_k x[r, k] * w[n, k]  (+ bias[n])  (+ residual[r, n]).  x is in the operand type that the table states
// for the weight's form, or the quantised matrix itself; ld_x counts elements of that type. residual may be y itself.
// With int8 rows the codes of each strip are multiplied and summed as integers, exactly; then sum += integer * (row
// scale * weight scale), strips in ascending order, in float32. With `row_map`, row r of the call stands for row n =
// row_map[r] of y and row n / x_share of x (the rows that an expert computes). With `gate.out`, the columns of w (and
// their biases) come in turn, kGateColumns of gates and the same number of what they gate, and act(gate) * other is
// written instead of y, in `operand` form (not int8), half as many columns; there is no residual then. With `half` > 0
// the columns of w come in turn like that, and y gets both apart: the gates in its first `half` columns, what they gate
// in the next. There is no residual then either.
enum class Activation : uint8_t { silu, gelu_tanh, gelu, relu2, relu, tanh, quick_gelu };
constexpr int kGateColumns = 16;
struct LinearGate {
  void* out = nullptr;
  int64_t ld_out = 0;  // in elements of the operand
  Activation act = Activation::silu;
  Operand operand = Operand::f32;
};
struct LinearArgs {
  const void* x = nullptr;
  int64_t ld_x = 0;
  PackedMatrix w;
  const float* bias = nullptr;
  const float* residual = nullptr;
  int64_t ld_residual = 0;
  float* y = nullptr;
  int64_t ld_y = 0;
  const int32_t* row_map = nullptr;
  int x_share = 1;
  LinearGate gate = {};
  int half = 0;
};

// Writes float32 rows as the operand of a matrix product. int8: per strip, scale = largest magnitude / 127 and code =
// round(x * (127 / largest)), ties to even; a strip with a value that is not finite gets the scale NaN.
struct ToOperandArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  int cols = 0;
  Operand operand = Operand::f32;
  void* out = nullptr;
  int64_t ld_out = 0;  // in elements of the operand
};

// RMS norm: y = w' * x / sqrt(mean(x^2) + eps), w' = w, or 1 + w with one_plus; layer norm: subtracts the mean first
// and adds bias. Statistics in float32. The result is written in `operand` form (f32 for a plain value). w may be null
// (all ones).
struct NormArgs {
  bool layer = false;  // layer norm
  const float* x = nullptr;
  int64_t ld_x = 0;
  int cols = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;  // layer norm only, may be null
  bool one_plus = false;
  float eps = 1e-6f;
  Operand operand = Operand::f32;
  void* out = nullptr;
  int64_t ld_out = 0;
};

// cos and sin of position * inv_freq[i], times `factor`: out[r, 0:n] = cos, out[r, n:2n] = sin, n = half. The product
// is rounded to float32 as the reference models do; cos and sin are accurate to an ulp. With several position axes
// (M-RoPE) axis_of[i] tells which row of `positions` ([axes, ld_positions]) frequency i uses; null: axis 0.
struct RopeAnglesArgs {
  const int32_t* positions = nullptr;
  int64_t ld_positions = 0;
  const uint8_t* axis_of = nullptr;
  const float* inv_freq = nullptr;
  int half = 0;
  float factor = 1.0f;
  float* out = nullptr;  // [rows, 2 * half]
};

enum class HeadNorm : uint8_t { none, rms, rms_one_plus, l2 };

// For each row and each of `heads` heads of x: an RMS norm over the head (l2: without weight) and the rotation. Head h
// is the `dim` floats at x + h * stride and goes to out + h * out_stride, which may be the same place.
//   rotation of the first 2 * half elements: halves pair (i, i + half), interleaved pair (2i, 2i + 1):
//     a' = a cos - b sin, b' = b cos + a sin
//   norm_after: the norm comes after the rotation (Llama 4).
//   temperature: each row is scaled by log1p(floor((position + 1) / floor_scale)) * attn_scale + 1 (Llama 4's layers
//     without
//   rope); floor_scale 0 switches it off.
struct HeadsArgs {
  const float* x = nullptr;
  int64_t ld_x = 0, stride = 0;
  float* out = nullptr;
  int64_t ld_out = 0, out_stride = 0;
  int heads = 0, dim = 0;
  HeadNorm norm = HeadNorm::none;
  bool norm_after = false;
  const float* norm_weight = nullptr;  // [dim]
  float eps = 1e-6f;
  const float* angles = nullptr;  // [rows, 2 * half] as rope_angles writes them, or null: no rotation
  int half = 0;
  bool interleaved = false;
  const int32_t* positions = nullptr;  // for the temperature
  float floor_scale = 0, attn_scale = 0;
};

// One cache group as kernels see it. Memory is an array of blocks; in a block each layer of the group has its own part:
//   keys   [kv_heads][tiles][ceil(k_dim / 2)][16 tokens][2]   bf16 (pairs along the head dimension, zero-padded)
//          [kv_heads][tiles][k_dim][16 tokens]                f32; i8, each tile followed by float32 scales [16 tokens]
//   values [kv_heads][tiles][16 / 2 token pairs][v_dim][2]    bf16
//          [kv_heads][tiles][16 tokens][v_dim]                f32; i8, each tile followed by float32 scales [16 tokens]
// where tiles = ceil(tokens_per_block / 16). A block of fewer than 16 tokens uses the first lanes of its one tile.
// latent (MLA): there are no values in memory; a token's value is the first v_dim elements of its key. In i8 a key tile
// then has two rows of scales: of the first v_dim elements, and of the others (the rotated part, whose magnitude is
// another). i8: a token's key, and its value, in one head are codes -127 ... 127 times a scale: scale = largest
// magnitude / 127 and code = round(x * (127 / largest)), ties to even; zeros below 1e-30; the scale NaN where an
// element is not finite.
struct CacheView {
  std::byte* base = nullptr;  // of block 0, at this layer's part
  size_t block_stride_bytes = 0;
  int tokens_per_block = 0;  // a power of two
  DType dtype = DType::f32;  // f32, bf16 or i8
  int kv_heads = 0, k_dim = 0, v_dim = 0;
  bool latent = false;
};
constexpr int kTileTokens = 16;
// Bytes of one layer's part of a block (a multiple of 64).
size_t cache_layer_bytes(const CacheSpec& spec, int tokens_per_block);
// Where a head's keys and values are in it: one run of bytes each, heads one behind the other.
struct CacheHeadRuns {
  size_t key_bytes = 0, value_bytes = 0;  // of a head; latent: no values
  size_t values_at = 0;                   // those of head 0; keys of head 0 begin at 0
};
CacheHeadRuns cache_head_runs(const CacheSpec& spec, int tokens_per_block);

// One sequence of the step, seen from one cache group: `rows` query rows from `first_row` on, at positions
// first_position, first_position + 1, ... Position p lies in block block_table[table_offset + p / tokens_per_block];
// entries of blocks that no row reads or writes may hold anything.
struct SequenceView {
  int first_row = 0, rows = 0;
  int first_position = 0;
  int64_t table_offset = 0;
  // Per row the first key that it does not see, in place of what the mask says, and the first that it sees; null: the
  // mask's. The keys must be in the cache by the end of the step's append. (Tokens of one image that see each other,
  // cross attention, padding.)
  const int32_t* ends = nullptr;
  const int32_t* starts = nullptr;
};

// Writes keys and values of the step's rows into the cache.
struct AppendArgs {
  const float *k = nullptr, *v = nullptr;  // [rows, kv_heads * k_dim], [rows, kv_heads * v_dim] (latent: null)
  int64_t ld_k = 0, ld_v = 0;
  CacheView cache;
  const int32_t* block_table = nullptr;
  const SequenceView* sequences = nullptr;
  int sequence_count = 0;
};

// A piece of attention work: query rows [first_row, first_row + rows) of a sequence (relative to its first row), all
// query heads of one kv head. partial < 0: the whole result goes to `out`. Otherwise only key splits [first_split,
// first_split + splits) are walked and their (max, sum, accumulator) go to the partial buffer from entry `partial` on,
// one entry per split, for attend_combine.
struct AttendItem {
  int sequence = 0;
  int first_row = 0, rows = 0;
  int kv_head = 0;
  int partial = -1;
  int first_split = 0, splits = 0;
};
// Work items for one step, cut so that `threads` threads are busy. Items of thread t: [begin[t], begin[t + 1]).
struct AttendPlan {
  std::vector<AttendItem> items;
  std::vector<int> begin;
  // For attend_combine: sequences (of one row) whose key splits were spread; one entry per (sequence, kv head).
  struct Combine {
    int sequence = 0, kv_head = 0, partial = 0, first_split = 0, splits = 0;
  };
  std::vector<Combine> combines;
  int partial_count = 0;  // entries of the partial buffer in use
};
constexpr int kStepTokens = 64;    // the online softmax takes this many keys at a time
constexpr int kSplitTokens = 512;  // keys are summed in splits at absolute multiples of this, joined in ascending order

enum class Mask : uint8_t { causal, none };

// Softmax attention: out[r, h] = sum_j softmax_j(scale * q[r, h] . k[j]) v[j] over the keys j that the mask allows for
// the row's position i: causal: j <= i; window > 0: also j > i - window; chunk > 0: also floor(j / chunk) == floor(i /
// chunk). Mask::none (encoders): all keys of the sequence (first_position + rows of them). Query head h reads kv head h
// / (heads / kv_heads). Keys are walked in steps of kStepTokens at absolute positions; within each split of
// kSplitTokens an online softmax, then splits are joined in ascending order, whoever computed them. Keys that the mask
// hides are never multiplied, whatever their memory holds. With soft_cap > 0 a score s (scaled already) becomes
// soft_cap * tanh(s / soft_cap) before the softmax. A cache of i8: q . k[j] is the sum over codes times the key's scale
// (latent: the two parts' sums, each times its scale, added), and the softmax's weight of j times the value's scale
// multiplies the value's codes.
struct AttendArgs {
  const float* q = nullptr;  // [rows, heads * k_dim]
  int64_t ld_q = 0;
  CacheView cache;
  const int32_t* block_table = nullptr;
  const SequenceView* sequences = nullptr;
  const AttendPlan* plan = nullptr;
  int heads = 0;
  float scale = 1.0f, soft_cap = 0.0f;
  Mask mask = Mask::causal;
  int window = 0, chunk = 0;
  Operand operand = Operand::f32;
  void* out = nullptr;  // [rows, heads * v_dim] in operand form
  int64_t ld_out = 0;
  float* partials = nullptr;     // [partial_count, partial_floats()]
  std::byte* scratch = nullptr;  // [threads, scratch_bytes]
  size_t scratch_bytes = 0;      // per thread, from CpuTable::attend_scratch_bytes
};
// Joins what the plan's partial items have left, for the same arguments; after all threads have done attention.
struct AttendCombineArgs {
  AttendArgs attend;
};

// gated: out[r, c] = act(x[r, c]) * x[r, cols + c]; plain: out[r, c] = act(x[r, c]). With slots, a row of the call is
// so many of these rows, one after the other.
struct ActivateArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  int cols = 0;  // of the output
  Activation act = Activation::silu;
  bool gated = true;
  Operand operand = Operand::f32;
  void* out = nullptr;
  int64_t ld_out = 0;
  int slots = 1;
};

// out[r, c] = x[r, order[c]] * factors[c], then rounded. Null: c, and 1. `order` holds whole numbers. With slots a row
// of the call is so many of these rows, `slot_stride` floats apart in x and out.
struct ArrangeArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  const float* order = nullptr;    // [cols]
  const float* factors = nullptr;  // [cols]
  InputRounding rounding = {};
  int slots = 1, slot_stride = 0;
  int cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};

// out[i, :] = x[rows[i], :]
struct SelectRowsArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  const int32_t* rows = nullptr;
  int cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};

// ---- Vision ---------------------------------------------------------------------------------------------------------

// out[r, p] = mean of the rows entries[offsets[i] .. offsets[i + 1]) of x, i = r * parts + p; zeros where there are
// none. Parts lie side by side. Pooling, neighbours put together (pixel shuffle, patch mergers), padding and dropping
// of rows are tables of this kind.
struct MixRowsArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  const int32_t* offsets = nullptr;  // [rows * parts + 1]
  const int32_t* entries = nullptr;
  int cols = 0, parts = 1;  // columns of a part
  float* out = nullptr;
  int64_t ld_out = 0;
};
// out[r] = x[r] * tanh(*gate), or * (1 - tanh(*gate)); zeros in rows whose flags lack `bit` (flags null: no such rows).
struct GateArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  int cols = 0;
  const float* gate = nullptr;
  bool complement = false;
  const uint8_t* flags = nullptr;
  uint8_t bit = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};
// out[r, c * step] = x[r, c].
struct PlaceArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  int cols = 0, step = 1;
  float* out = nullptr;
  int64_t ld_out = 0;
};
// out[r] = *rows[r] where rows[r] is not null (features of images in place of their tokens' embeddings).
struct MergeRowsArgs {
  const float* const* rows = nullptr;
  int cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};

// ---- Mixture of experts ---------------------------------------------------------------------------------------------

constexpr int kMaxExperts = 1024, kMaxChosen = 64;

// How a token's experts and their weights follow from the router's logits. Ties: the lower id.
struct RouteRule {
  // softmax:       scores are the softmax over all logits; the `chosen` largest (Mixtral, Qwen3-MoE).
  // sigmoid:       scores are sigmoids; chosen by score + bias, the weight is the score without it. With groups > 1 the
  // experts are
  //                in so many groups of equal size, a group's rank is the sum of its two best biased scores, and only
  //                  the best
  //                kept_groups groups are chosen from (DeepSeek-V3, arXiv 2412.19437 section 2.1.2).
  // sigmoid_after: the largest logits; weights are their sigmoids (Llama 4).
  enum class Kind : uint8_t { softmax, sigmoid, sigmoid_after };
  Kind kind = Kind::softmax;
  int experts = 0, chosen = 1;
  int groups = 1, kept_groups = 1;
  bool normalize = false;  // weights divided by their sum
  float scale = 1.0f;      // then multiplied by this
};
// The table of the chosen: row r of `out` holds `chosen` expert ids (int32) in ascending order, then their weights
// (float).
struct RouteArgs {
  const float* logits = nullptr;
  int64_t ld_logits = 0;
  RouteRule rule;
  const float* bias = nullptr;  // [experts], of the choice
  float* out = nullptr;
  int64_t ld_out = 0;
};
// Sorts the step's (row, slot) pairs by expert: out[0 .. experts] are offsets into what follows, where expert e's
// entries row * slots + slot are in ascending order. Done by part 0.
struct GroupRowsArgs {
  const float* chosen = nullptr;
  int64_t ld_chosen = 0;
  int experts = 0, slots = 0;
  int32_t* out = nullptr;  // [experts + 1 + rows * slots]
};
// out[r, j] = weight of row r's j-th expert * x[r]
struct ScaleRowsArgs {
  const float* x = nullptr;
  int64_t ld_x = 0;
  const float* chosen = nullptr;
  int64_t ld_chosen = 0;
  int cols = 0, slots = 0, slot_stride = 0;
  Operand operand = Operand::f32;
  void* out = nullptr;
  int64_t ld_out = 0;
};
// The sums of experts are cut into so many groups of equal size, by id (the largest power of two up to 8 that divides
// their number), whatever a step's rows have chosen: ranks that share the experts own whole groups.
constexpr int expert_groups(int experts) {
  return experts % 8 == 0 ? 8 : experts % 4 == 0 ? 4 : experts % 2 == 0 ? 2 : 1;
}
// out[r] = sum over j of w[j] * x[r, j] for the chosen experts with ids first_expert <= id < last_expert; w = 1 unless
// weighted. Within an expert group j ascends (so in order of ids), from zero on; the groups' sums are added as a
// balanced binary tree. first_expert and last_expert are bounds of groups, and the groups between them a subtree.
struct CombineArgs {
  int experts = 0, first_expert = 0, last_expert = 0;
  const float* x = nullptr;
  int64_t ld_x = 0;
  const float* chosen = nullptr;
  int64_t ld_chosen = 0;
  int cols = 0, slots = 0, slot_stride = 0;
  bool weighted = true;
  float* out = nullptr;
  int64_t ld_out = 0;
};

// ---- Ranks ----------------------------------------------------------------------------------------------------------
// What ranks that compute one step together have each computed a part of (comm/communicator.h); parts in order of
// ranks.

constexpr int kMaxRanks = 64;

// out[r, c] = sum of the parts as a balanced binary tree (their number is a power of two), + bias[c], + residual[r, c].
struct ReduceArgs {
  const float* const* parts = nullptr;  // [count], read at run time: [rows, cols] each
  int count = 0;
  int64_t ld_part = 0;
  int cols = 0;
  const float* bias = nullptr;
  const float* residual = nullptr;
  int64_t ld_residual = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};
// out[r] = row r of the one part in which it is not all zero bits (zeros: of none).
struct PickRowsArgs {
  const float* const* parts = nullptr;  // [count], read at run time
  int count = 0;
  int64_t ld_part = 0;
  int cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};
// out[r] = the parts' rows side by side: part p's has `cols` columns of all, but the last may have fewer.
struct JoinColumnsArgs {
  const float* const* parts = nullptr;  // [count], read at run time
  int count = 0;
  int64_t ld_part = 0;
  int cols = 0, all_cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};
// The parts' rows one below the other: row r of the call is row r - first[p] of part p, first[p] <= r < first[p + 1].
struct JoinRowsArgs {
  const float* const* parts = nullptr;  // [count], read at run time
  int count = 0;
  const int32_t* first = nullptr;  // [count + 1], likewise
  int64_t ld_part = 0;
  int cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};

// ---- The table ------------------------------------------------------------------------------------------------------

// A kernel is a function of its arguments, the number of rows (read at run time) and this thread's Part.
template <class Args>
using Kernel = void (*)(const Args&, int rows, Part);

// The kernels, by their arguments: each has a slot in every table. reference() computes it there (ref.cc, ref_*.cc),
// and where there is one, compute<V>() for the vectors V of the table's instruction set (simd/).
template <class... F>
auto list_kernels(TypeList<F...>)
    -> TypeList<EmbedArgs, LinearArgs, ToOperandArgs, NormArgs, RopeAnglesArgs, HeadsArgs, AppendArgs, AttendArgs,
                AttendCombineArgs, ActivateArgs, ArrangeArgs, SelectRowsArgs, MixRowsArgs, MergeRowsArgs, GateArgs,
                PlaceArgs, RouteArgs, GroupRowsArgs, ScaleRowsArgs, CombineArgs, ReduceArgs, PickRowsArgs,
                JoinColumnsArgs, JoinRowsArgs, ElementwiseArgs<F>...>;
using Kernels = decltype(list_kernels(ElementwiseOps{}));

template <class... Args>
auto kernel_slots(TypeList<Args...>) -> std::tuple<Kernel<Args>...>;

struct CpuTable {
  const char* isa = "";
  // What a matrix product with weights of this form reads (f32 and bf16; quantised matrices carry their own).
  Operand (*operand)(WeightForm) = nullptr;
  // Output columns per panel, and bytes of one panel with this k.
  int (*panel_cols)(WeightForm) = nullptr;
  size_t (*panel_bytes)(WeightForm, int k) = nullptr;
  // Packs up to panel_cols rows of weights (float32, [rows, ld]) into one panel; missing rows become zero.
  void (*pack_panel)(WeightForm, const float* rows, int64_t ld, int row_count, int k, std::byte* panel) = nullptr;
  // The same from bfloat16 rows, for form bf16 only (no detour over float32 when loading).
  void (*pack_panel_bf16)(const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel) = nullptr;
  // Form bf12: from a bf16 panel. False if the weights' exponents are too many. Null in tables without products with
  // it.
  bool (*pack_panel_bf12)(int k, const std::byte* bf16_panel, std::byte* panel) = nullptr;
  bool prefers_bf12 = false;  // products with it are about as fast with many rows, and faster with few
  // The quantised forms: bytes of a panel, and packing of up to panel_cols rows; missing rows become zero.
  size_t (*quantized_panel_bytes)(WeightForm, WeightGroups, int k) = nullptr;
  void (*pack_panel_quantized)(WeightForm, WeightGroups, const QuantizedRows& rows, std::byte* panel) = nullptr;
  size_t (*attend_scratch_bytes)(int heads, const CacheView&) = nullptr;  // per thread
  // Whether attention over a bfloat16 cache, or an int8 cache that is not latent, multiplies in bfloat16: queries are
  // rounded to it, and softmax weights too (int8: after they are multiplied with the values' scales). The sums are
  // float32 either way.
  bool attend_rounds = false;

  decltype(kernel_slots(Kernels{})) kernels;
  template <class Args>
  Kernel<Args>& kernel() {
    return std::get<Kernel<Args>>(kernels);
  }
  template <class Args>
  void run(const Args& args, int rows, Part part) const {
    std::get<Kernel<Args>>(kernels)(args, rows, part);
  }
};

// Cuts the step's attention of one cache group into items for `threads` threads. `heads` are query heads.
void plan_attention(std::span<const SequenceView> sequences, const CacheView& cache, int heads, Mask mask, int window,
                    int chunk, int threads, AttendPlan& plan);
// Floats of one entry of the partial buffer, and the largest number of entries that plan_attention makes for these
// limits.
size_t partial_floats(int heads, const CacheView& cache);
int max_partials(int max_sequences, int max_position, int kv_heads);

const CpuTable& ref_table();
// The best table this machine and its operating system support, or the one that the environment variable WEFT_ISA names
// (ref, avx2, avx512, avx512_bf16, amx); null if that one cannot run here or is unknown.
const CpuTable* cpu_table();
// Every table that can run here, ref first.
std::vector<const CpuTable*> available_tables();

}  // namespace weft::kernels
