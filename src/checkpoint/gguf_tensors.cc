// The tensors of a GGUF file under Hugging Face's names, with notes on what the converter did to their values.
#include <algorithm>
#include <optional>

#include "checkpoint/builder.h"
#include "checkpoint/gguf_architecture.h"
#include "checkpoint/hf_config.h"

namespace weft {
namespace {

constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},           {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},      {"attn_k_norm", "self_attn.k_norm"},
    {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
};
// The three matrices of an MLP, and what a name of one ends in.
constexpr std::pair<std::string_view, int> kMlpNames[] = {{"ffn_gate", 0}, {"ffn_up", 1}, {"ffn_down", 2}};
constexpr const char* kMlpEnds[] = {"gate_proj", "up_proj", "down_proj"};

// Names of the whole model.
constexpr std::pair<std::string_view, std::string_view> kWholeNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output_norm.bias", "model.norm.bias"},
    {"output.weight", "lm_head.weight"},
    {"rope_freqs.weight", "rope_factors"},
};

constexpr int64_t kMostExperts = 1 << 14;

std::string joined(std::initializer_list<std::string_view> parts) {
  std::string name;
  for (const std::string_view part : parts) name += part;
  return name;
}

// A name of GGUF in its parts: blk.LAYER.PART.KIND.
struct LayerTensor {
  int layer = 0;
  std::string_view part, kind;  // kind: ".weight" or ".bias"
};
std::optional<LayerTensor> parse_layer(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  const size_t dot = name.find('.', 4), end = name.rfind('.');
  if (dot == std::string_view::npos || end <= dot || dot == 4 || dot > 9) return std::nullopt;
  LayerTensor t{0, name.substr(dot + 1, end - dot - 1), name.substr(end)};
  for (const char digit : name.substr(4, dot - 4)) {
    if (digit < '0' || digit > '9') return std::nullopt;
    t.layer = 10 * t.layer + (digit - '0');
  }
  return t;
}

// Rows [first, first + count) of a matrix, or values of a vector.
TensorInfo rows_of(const TensorInfo& whole, int64_t first, int64_t count, std::vector<int64_t> shape) {
  TensorInfo part = whole;
  part.shape = std::move(shape);
  const size_t row_bytes =
      whole.data.size() / static_cast<size_t>(whole.shape.size() <= 1 ? whole.cols() : whole.rows());
  part.data = whole.data.subspan(static_cast<size_t>(first) * row_bytes, static_cast<size_t>(count) * row_bytes);
  return part;
}

class Renamer {
 public:
  Renamer(CheckpointBuilder& builder, const GgufArchitecture& architecture, const GgufMetadata& metadata)
      : builder_(builder), a_(architecture), metadata_(metadata) {}

  Status add(TensorInfo tensor) {
    tensor.source = &builder_.file(tensor.file);
    if (const std::string_view other = whole_name(tensor.name); !other.empty()) {
      const bool norm = tensor.name == "output_norm.weight";
      tensor.name = other;
      if (norm && a_.one_plus_norms) tensor.offset = -1;
      return builder_.add(std::move(tensor));
    }
    const std::optional<LayerTensor> place = parse_layer(tensor.name);
    // A name that is not known stays, and shows up as unused.
    if (!place) return builder_.add(std::move(tensor));
    return add_layer(std::move(tensor), {place->layer, std::string(place->part), std::string(place->kind)});
  }

 private:
  struct Place {
    int layer;
    std::string part, kind;
  };

  static std::string_view whole_name(std::string_view name) {
    for (const auto& [gguf, hf] : kWholeNames)
      if (name == gguf) return hf;
    return {};
  }

  std::string full(const Place& p, std::string_view part) const {
    return joined({"model.layers.", std::to_string(p.layer), ".", part, p.kind});
  }

  Status add_as(TensorInfo tensor, std::string name) {
    tensor.name = std::move(name);
    return builder_.add(std::move(tensor));
  }

  Status add_layer(TensorInfo tensor, const Place& p) {
    if (p.part == "attn_qkv") return add_fused(tensor, p);
    if (a_.rotary_order && (p.part == "attn_q" || p.part == "attn_k")) {
      WEFT_RETURN_IF_ERROR(interleave(tensor, p.part == "attn_q" ? heads(p.layer) : kv_heads(p.layer)));
    }
    if (a_.one_plus_norms && p.kind == ".weight" && p.part.ends_with("norm")) tensor.offset = -1;
    // One matrix in place of attention.
    if (a_.name == "deci" && p.part == "attn_output" && heads(p.layer) > 0 && kv_heads(p.layer) == 0)
      return add_as(std::move(tensor), full(p, "self_attn.linear_attn"));
    for (const auto& [gguf, hf] : a_.names)
      if (p.part == gguf) return add_as(std::move(tensor), full(p, hf));
    for (const auto& [gguf, hf] : kLayerNames)
      if (p.part == gguf) return add_as(std::move(tensor), full(p, hf));
    if (p.part == "ffn_gate_inp") return add_as(std::move(tensor), full(p, a_.router));
    if (p.part == "exp_probs_b")
      return add_as(std::move(tensor),
                    joined({"model.layers.", std::to_string(p.layer), ".", a_.router, ".e_score_correction_bias"}));
    if (p.part == "ffn_gate_up_exps") return add_experts(tensor, p, 0, 2);
    for (const auto& [gguf, which] : kMlpNames) {
      if (!p.part.starts_with(gguf)) continue;
      const std::string_view rest = std::string_view(p.part).substr(gguf.size());
      if (rest.empty()) return add_as(std::move(tensor), full(p, joined({a_.mlp, ".", kMlpEnds[which]})));
      if (rest == "_shexp") return add_as(std::move(tensor), full(p, joined({a_.shared, ".", kMlpEnds[which]})));
      if (rest == "_exps") return add_experts(tensor, p, which, 1);
      if (rest[0] == '.')  // old files have one tensor for each expert
        return add_as(std::move(tensor),
                      full(p, joined({a_.experts, rest, ".", a_.expert[static_cast<size_t>(which)]})));
    }
    return builder_.add(std::move(tensor));
  }

  // The experts of one tensor [experts, rows, columns], in which each has `together` matrices one behind the other, the
  // first being number `which` of an MLP.
  Status add_experts(const TensorInfo& tensor, const Place& p, int which, int together) {
    if (tensor.shape.size() != 3 || tensor.shape[1] % together != 0)
      return fail(Code::data_corrupt, "tensor ", tensor.name, " must have the extents experts, rows and columns");
    if (tensor.type == StorageType::unknown) return builder_.add(tensor);  // its bytes are not known
    const int64_t stated = metadata_.integer(joined({a_.name, ".expert_count"}), 0);
    if (stated > kMostExperts)
      return fail(Code::unsupported, "metadata key ", a_.name, ".expert_count is ", stated, "; at most ", kMostExperts,
                  " experts are read");
    if (tensor.shape[0] != stated)
      return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", tensor.shape[0], " experts, but metadata key ",
                  a_.name, ".expert_count is ", stated);
    const int64_t rows = tensor.shape[1] / together;
    for (int64_t e = 0; e < tensor.shape[0]; ++e)
      for (int i = 0; i < together; ++i)
        WEFT_RETURN_IF_ERROR(add_as(
            rows_of(tensor, (e * together + i) * rows, rows, {rows, tensor.shape[2]}),
            full(p, joined({a_.experts, ".", std::to_string(e), ".", a_.expert[static_cast<size_t>(which + i)]}))));
    return {};
  }

  // q, k and v in one tensor.
  Status add_fused(const TensorInfo& tensor, const Place& p) {
    const bool vector = tensor.shape.size() <= 1;
    const int64_t all = vector ? tensor.cols() : tensor.rows(), groups = heads(p.layer) + 2 * kv_heads(p.layer);
    if (heads(p.layer) < 1 || groups > all || all % groups != 0)
      return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", all, " rows, which cannot be divided into ",
                  heads(p.layer), " heads of queries and twice ", kv_heads(p.layer), " of keys and values");
    int64_t first = 0;
    for (const auto& [part, count] : {std::pair<const char*, int64_t>{"attn_q", heads(p.layer)},
                                      {"attn_k", kv_heads(p.layer)},
                                      {"attn_v", kv_heads(p.layer)}}) {
      const int64_t rows = count * (all / groups);
      WEFT_RETURN_IF_ERROR(add_layer(
          rows_of(tensor, first, rows, vector ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, tensor.cols()}),
          {p.layer, part, p.kind}));
      first += rows;
    }
    return {};
  }

  int64_t of_layer(std::string_view name, int layer, int64_t absent) const {
    const std::string key = joined({a_.name, ".", name});
    const std::vector<int64_t>* list = metadata_.integers(key);
    if (!list) return metadata_.integer(key, absent);
    return layer < static_cast<int>(list->size()) ? (*list)[static_cast<size_t>(layer)] : 0;
  }
  int64_t heads(int layer) const { return of_layer("attention.head_count", layer, 0); }
  int64_t kv_heads(int layer) const { return of_layer("attention.head_count_kv", layer, heads(layer)); }

  // The converter has put the rows of this matrix (the values of this bias) in another order within each head.
  static Status interleave(TensorInfo& tensor, int64_t heads) {
    const int64_t rows = tensor.shape.size() <= 1 ? tensor.cols() : tensor.rows();
    if (heads < 1 || heads > rows || rows % (2 * heads) != 0)
      return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", rows, " rows, which cannot be divided into ",
                  heads, " attention heads with an even number of rows each");
    if (heads > HfConfig::kMaxCount) return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", heads, " heads");
    tensor.rotary_heads = static_cast<int>(heads);
    return {};
  }

  CheckpointBuilder& builder_;
  const GgufArchitecture& a_;
  const GgufMetadata& metadata_;
};

// What follows `start` in a name that begins so.
std::optional<std::string_view> after(std::string_view name, std::string_view start) {
  if (!name.starts_with(start)) return std::nullopt;
  return name.substr(start.size());
}

std::string part_of_mlp(std::string_view end, std::span<const std::string_view> ends, std::string_view more) {
  for (const auto& [gguf, which] : kMlpNames)
    if (end == ends[static_cast<size_t>(which)]) return joined({gguf, more});
  return "";
}

// The part of a layer that `rest` names ("self_attn.q_proj"), without ".weight"; an expert's index goes to `expert`.
std::string gguf_part(const GgufArchitecture& a, std::string_view rest, int& expert) {
  constexpr std::array<std::string_view, 3> kEnds = {kMlpEnds[0], kMlpEnds[1], kMlpEnds[2]};
  if (a.name == "deci" && rest == "self_attn.linear_attn") return "attn_output";
  for (const auto& [gguf, hf] : a.names)
    if (rest == hf) return std::string(gguf);
  for (const auto& [gguf, hf] : kLayerNames)
    if (rest == hf) return std::string(gguf);
  if (a.with_experts) {
    if (rest == a.router) return "ffn_gate_inp";
    if (rest == joined({a.router, ".e_score_correction_bias"})) return "exp_probs_b";
    if (const auto end = after(rest, joined({a.shared, "."}))) return part_of_mlp(*end, kEnds, "_shexp");
    if (const auto of_expert = after(rest, joined({a.experts, "."}))) {
      const size_t dot = of_expert->find('.');
      if (dot == std::string_view::npos || dot == 0 || dot > 5) return "";
      expert = 0;
      for (const char digit : of_expert->substr(0, dot)) {
        if (digit < '0' || digit > '9') return "";
        expert = 10 * expert + (digit - '0');
      }
      return part_of_mlp(of_expert->substr(dot + 1), a.expert, "_exps");
    }
  }
  if (const auto end = after(rest, joined({a.mlp, "."}))) return part_of_mlp(*end, kEnds, "");
  return "";
}

}  // namespace

std::optional<GgufPlace> gguf_place(const GgufArchitecture& a, std::string_view name) {
  GgufPlace place;
  for (const auto& [gguf, hf] : kWholeNames)
    if (name == hf) {
      place.tensor = gguf, place.one_plus = a.one_plus_norms && gguf == "output_norm.weight";
      return place;
    }
  const auto rest = after(name, "model.layers.");
  if (!rest) return std::nullopt;
  const size_t first = rest->find('.');
  if (first == std::string_view::npos) return std::nullopt;
  const std::string_view layer = rest->substr(0, first);
  std::string_view part = rest->substr(first + 1), kind = ".bias";
  if (!part.ends_with("e_score_correction_bias")) {
    const size_t last = part.rfind('.');
    if (last == std::string_view::npos) return std::nullopt;
    kind = part.substr(last), part = part.substr(0, last);
  }
  const std::string gguf = gguf_part(a, part, place.expert);
  if (gguf.empty() || (kind != ".weight" && kind != ".bias")) return std::nullopt;
  place.tensor = joined({"blk.", layer, ".", gguf, kind});
  place.rotary_query = a.rotary_order && gguf == "attn_q", place.rotary_key = a.rotary_order && gguf == "attn_k";
  place.one_plus = a.one_plus_norms && kind == ".weight" && gguf.ends_with("norm");
  return place;
}

Status add_gguf_tensors(CheckpointBuilder& builder, const GgufArchitecture& architecture, GgufHeader& header) {
  Renamer renamer(builder, architecture, header.metadata);
  for (TensorInfo& tensor : header.tensors) WEFT_RETURN_IF_ERROR(renamer.add(std::move(tensor)));
  return {};
}

}  // namespace weft
