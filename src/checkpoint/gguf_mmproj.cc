// The names of tensors are those of gguf-py (tensor_mapping.py); what a projector's name implies is what llama.cpp
// takes for it (tools/mtmd/clip.cpp).
#include "checkpoint/gguf_mmproj.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "checkpoint/hf_config.h"

namespace weft {
namespace {

using Names = std::pair<std::string_view, std::string_view>;

constexpr Names kClipWhole[] = {
    {"v.class_embd", "vision_tower.vision_model.embeddings.class_embedding"},
    {"v.patch_embd.weight", "vision_tower.vision_model.embeddings.patch_embedding.weight"},
    {"v.patch_embd.bias", "vision_tower.vision_model.embeddings.patch_embedding.bias"},
    {"v.position_embd.weight", "vision_tower.vision_model.embeddings.position_embedding.weight"},
    {"v.pre_ln.weight", "vision_tower.vision_model.pre_layrnorm.weight"},
    {"v.pre_ln.bias", "vision_tower.vision_model.pre_layrnorm.bias"},
    {"v.post_ln.weight", "vision_tower.vision_model.post_layernorm.weight"},
    {"v.post_ln.bias", "vision_tower.vision_model.post_layernorm.bias"},
    {"mm.0.weight", "multi_modal_projector.linear_1.weight"},
    {"mm.0.bias", "multi_modal_projector.linear_1.bias"},
    {"mm.2.weight", "multi_modal_projector.linear_2.weight"},
    {"mm.2.bias", "multi_modal_projector.linear_2.bias"},
    {"model.image_newline", "image_newline"},
    {"mm.input_projection.weight", "multi_modal_projector.mm_input_projection_weight"},
    {"mm.soft_emb_norm.weight", "multi_modal_projector.mm_soft_emb_norm.weight"},
};
constexpr Names kClipLayer[] = {
    {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"}, {"attn_out", "self_attn.out_proj"},
    {"ln1", "layer_norm1"},         {"ln2", "layer_norm2"},
    {"ffn_up", "mlp.fc1"},          {"ffn_down", "mlp.fc2"},
};
constexpr Names kQwenWhole[] = {
    {"v.post_ln.weight", "visual.merger.ln_q.weight"}, {"v.post_ln.bias", "visual.merger.ln_q.bias"},
    {"mm.0.weight", "visual.merger.mlp.0.weight"},     {"mm.0.bias", "visual.merger.mlp.0.bias"},
    {"mm.2.weight", "visual.merger.mlp.2.weight"},     {"mm.2.bias", "visual.merger.mlp.2.bias"},
};
constexpr Names kQwenLayer[] = {
    {"attn_qkv", "attn.qkv"},  {"attn_q", "attn.q_proj"}, {"attn_k", "attn.k_proj"}, {"attn_v", "attn.v_proj"},
    {"attn_out", "attn.proj"}, {"ln1", "norm1"},          {"ln2", "norm2"},
};
constexpr Names kQwen2Mlp[] = {{"ffn_up", "mlp.fc1"}, {"ffn_down", "mlp.fc2"}};
constexpr Names kQwen25Mlp[] = {
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};
constexpr Names kLlama4Whole[] = {
    {"v.class_embd", "vision_model.class_embedding"},
    {"v.patch_embd.weight", "vision_model.patch_embedding.linear.weight"},
    {"v.position_embd.weight", "vision_model.positional_embedding_vlm"},
    {"v.pre_ln.weight", "vision_model.layernorm_pre.weight"},
    {"v.pre_ln.bias", "vision_model.layernorm_pre.bias"},
    {"v.post_ln.weight", "vision_model.layernorm_post.weight"},
    {"v.post_ln.bias", "vision_model.layernorm_post.bias"},
    {"mm.model.mlp.1.weight", "vision_model.vision_adapter.mlp.fc1.weight"},
    {"mm.model.mlp.2.weight", "vision_model.vision_adapter.mlp.fc2.weight"},
    {"mm.model.fc.weight", "multi_modal_projector.linear_1.weight"},
};
constexpr Names kLlama4Layer[] = {
    {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"}, {"attn_out", "self_attn.o_proj"},
    {"ln1", "input_layernorm"},     {"ln2", "post_attention_layernorm"},
    {"ffn_up", "mlp.fc1"},          {"ffn_down", "mlp.fc2"},
};

// A kind of encoder, by clip.projector_type.
struct Projector {
  std::string_view name, text;  // text: the model's general.architecture; "": several
  std::string_view architecture, model_type, text_prefix, layers;
  std::span<const Names> whole, layer, mlp;
};
constexpr Projector kProjectors[] = {
    {"gemma3",
     "gemma3",
     "Gemma3ForConditionalGeneration",
     "gemma3",
     "language_model.",
     "vision_tower.vision_model.encoder.layers.",
     kClipWhole,
     kClipLayer,
     {}},
    {"llama4",
     "llama4",
     "Llama4ForConditionalGeneration",
     "llama4",
     "language_model.",
     "vision_model.model.layers.",
     kLlama4Whole,
     kLlama4Layer,
     {}},
    {"mlp",
     "",
     "LlavaNextForConditionalGeneration",
     "llava_next",
     "language_model.",
     "vision_tower.vision_model.encoder.layers.",
     kClipWhole,
     kClipLayer,
     {}},
    {"qwen2.5vl_merger", "qwen2vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", "", "visual.blocks.",
     kQwenWhole, kQwenLayer, kQwen25Mlp},
    {"qwen2vl_merger", "qwen2vl", "Qwen2VLForConditionalGeneration", "qwen2_vl", "", "visual.blocks.", kQwenWhole,
     kQwenLayer, kQwen2Mlp},
};

Result<const Projector*> projector_of(const GgufMetadata& m) {
  if (m.text("general.architecture") != "clip")
    return fail(Code::invalid_argument, "general.architecture is ", m.text("general.architecture"),
                ", but an encoder of images has clip");
  std::string_view name = m.text("clip.vision.projector_type");
  if (name.empty()) name = m.text("clip.projector_type");
  if (name.empty()) name = "mlp";
  std::string known;
  for (const Projector& projector : kProjectors) {
    if (projector.name == name) return &projector;
    (known += known.empty() ? "" : ", ") += projector.name;
  }
  return fail(Code::unsupported, "metadata key clip.projector_type is ", name,
              ", which is not supported; these are: ", known);
}

// Reads "clip.vision.KEY"; the first fault counts.
class Encoder {
 public:
  explicit Encoder(const GgufMetadata& metadata) : m(metadata) {}
  int64_t count(std::string_view name, std::optional<int64_t> absent = std::nullopt) {
    const std::string key = full(name);
    if (!m.has(key) && absent) return *absent;
    const int64_t value = m.integer(key, -1);
    if (value >= 0 && value <= HfConfig::kMaxCount) return value;
    reject(name, "is absent or no whole number from 0 to " + std::to_string(HfConfig::kMaxCount), Code::data_corrupt);
    return 1;
  }
  Json numbers(std::string_view name) {
    Json list = Json::array();
    if (const auto* values = m.numbers(full(name)))
      for (const double value : *values) list.push_back(value);
    if (list.items().size() != 3) reject(name, "is absent or not three numbers", Code::data_corrupt);
    return list;
  }
  void reject(std::string_view name, std::string_view problem, Code code = Code::unsupported) {
    if (!error_) error_ = fail(code, "metadata key ", full(name), " ", problem);
  }
  Status status() const {
    if (error_) return *error_;
    return {};
  }
  const GgufMetadata& m;

 private:
  static std::string full(std::string_view name) { return "clip.vision." + std::string(name); }
  std::optional<Error> error_;
};

// The vocabulary's token of that spelling; nothing if there is none.
std::optional<int64_t> find_token(const GgufMetadata& model, std::string_view text) {
  const auto* tokens = model.texts("tokenizer.ggml.tokens");
  if (!tokens) return std::nullopt;
  const auto found = std::find(tokens->begin(), tokens->end(), text);
  return found == tokens->end() ? std::nullopt : std::optional<int64_t>(found - tokens->begin());
}

// Tokens for tokenizer_config.json: id and spelling.
void add_token(Json& tokens, int64_t id, std::string_view text) {
  tokens.set(std::to_string(id), Json::object({{"content", text}}));
}

Json clip_vision(Encoder& e, const char* act) {
  const double eps = e.m.number("clip.vision.attention.layer_norm_epsilon", 1e-5);
  return Json::object({{"hidden_size", e.count("embedding_length")},
                       {"intermediate_size", e.count("feed_forward_length")},
                       {"num_hidden_layers", e.count("block_count")},
                       {"num_attention_heads", e.count("attention.head_count")},
                       {"image_size", e.count("image_size")},
                       {"patch_size", e.count("patch_size")},
                       {"hidden_act", act},
                       {"layer_norm_eps", eps},
                       {"norm_eps", eps}});
}

Json pixel_settings(Encoder& e) {
  return Json::object({{"image_mean", e.numbers("image_mean")}, {"image_std", e.numbers("image_std")}});
}

// Qwen2-VL and 2.5: three axes of positions, sizes as the published preprocessor_config.json has them.
void qwen(Encoder& e, const GgufMetadata& model, Json& config, Json& pixels, Json& tokens) {
  const bool second = config.find("model_type")->as_string() == "qwen2_vl";
  const int64_t hidden = e.count("embedding_length"), width = e.count("feed_forward_length");
  Json vision = Json::object({{"depth", e.count("block_count")},
                              {"num_heads", e.count("attention.head_count")},
                              {"patch_size", e.count("patch_size")},
                              {"temporal_patch_size", 2},
                              {"spatial_merge_size", e.count("spatial_merge_size", 2)}});
  if (second) {
    vision.set("embed_dim", hidden);
    vision.set("mlp_ratio", static_cast<double>(width) / static_cast<double>(std::max<int64_t>(1, hidden)));
    vision.set("hidden_act", "quick_gelu");
  } else {
    vision.set("hidden_size", hidden), vision.set("intermediate_size", width), vision.set("hidden_act", "silu");
    vision.set("window_size", e.count("window_size", 112)), vision.set("tokens_per_second", 2);
    Json full = Json::array();
    const int64_t every = e.count("n_wa_pattern", 0), layers = std::min<int64_t>(e.count("block_count"), 4096);
    for (int64_t i = 0; every > 0 && i < layers; ++i)
      if ((i + 1) % every == 0) full.push_back(i);
    if (every == 0) e.reject("n_wa_pattern", "is absent or 0, so it is not known which layers have windows");
    vision.set("fullatt_block_indexes", std::move(full));
  }
  config.set("vision_config", std::move(vision));
  if (const auto* sections = model.integers("qwen2vl.rope.dimension_sections"); sections && sections->size() >= 3) {
    Json list = Json::array();
    for (size_t i = 0; i < 3; ++i) list.push_back((*sections)[i]);
    config.set("rope_scaling", Json::object({{"type", "mrope"}, {"mrope_section", std::move(list)}}));
  }
  pixels.set("patch_size", e.count("patch_size")), pixels.set("merge_size", e.count("spatial_merge_size", 2));
  pixels.set("temporal_patch_size", 2);
  pixels.set("min_pixels", e.count("image_min_pixels", 56 * 56));
  pixels.set("max_pixels", e.count("image_max_pixels", 12845056));
  for (const auto& [key, text] : {std::pair("image_token_id", "<|image_pad|>"), {"video_token_id", "<|video_pad|>"}})
    if (const auto id = find_token(model, text)) config.set(key, *id), add_token(tokens, *id, text);
}

void gemma(Encoder& e, const GgufMetadata& model, Json& config, Json& pixels, Json& tokens) {
  Json vision = clip_vision(e, "gelu_pytorch_tanh");
  const int64_t side = e.count("image_size") / std::max<int64_t>(1, e.count("patch_size")),
                along = side / std::max<int64_t>(1, e.count("projector.scale_factor", 4));
  config.set("vision_config", std::move(vision)), config.set("mm_tokens_per_image", along * along);
  pixels.set("size", Json::object({{"height", e.count("image_size")}, {"width", e.count("image_size")}}));
  // Converted vocabularies often lack the token that features stand for: one that no text has serves as well.
  for (const char* text : {"<image_soft_token>", "<unused0>"})
    if (const auto id = find_token(model, text); id && !config.find("image_token_index"))
      config.set("image_token_index", *id), add_token(tokens, *id, text);
  for (const auto& [key, text] :
       {std::pair("boi_token_index", "<start_of_image>"), {"eoi_token_index", "<end_of_image>"}})
    if (const auto id = find_token(model, text)) config.set(key, *id), add_token(tokens, *id, text);
}

void llama4_media(Encoder& e, const GgufHeader& encoder, const GgufMetadata& model, Json& config, Json& pixels) {
  Json vision = clip_vision(e, "gelu");
  for (const TensorInfo& tensor : encoder.tensors) {  // the adapter's two widths are in no key
    if (tensor.name == "mm.model.mlp.1.weight") vision.set("projector_input_dim", tensor.rows());
    if (tensor.name == "mm.model.mlp.2.weight") vision.set("projector_output_dim", tensor.rows());
  }
  const int64_t factor = std::max<int64_t>(1, e.count("projector.scale_factor", 2));
  vision.set("pixel_shuffle_ratio", 1.0 / static_cast<double>(factor));
  vision.set("rope_theta", 10000.0);
  config.set("vision_config", std::move(vision));
  pixels.set("size", Json::object({{"height", e.count("image_size")}, {"width", e.count("image_size")}}));
  if (const auto id = find_token(model, "<|patch|>")) config.set("image_token_index", *id);
}

// LLaVA 1.6, told from 1.5 by its list of resolutions.
void llava(Encoder& e, const GgufMetadata& model, Json& config, Json& pixels, Json& tokens) {
  config.set("vision_config", clip_vision(e, "quick_gelu"));
  const auto* points = e.m.integers("clip.vision.image_grid_pinpoints");
  if (!points || points->empty() || points->size() % 2 != 0)
    return e.reject("image_grid_pinpoints", "is absent or no list of pairs: only LLaVA 1.6 is supported");
  Json list = Json::array();
  for (size_t i = 0; i < points->size(); i += 2) list.push_back(Json::array({(*points)[i], (*points)[i + 1]}));
  pixels.set("image_grid_pinpoints", std::move(list));
  pixels.set("size", Json::object({{"shortest_edge", e.count("image_size")}}));
  const auto* layers = e.m.integers("clip.vision.feature_layer");
  if (layers && layers->size() != 1) return e.reject("feature_layer", "has several layers, and one is supported");
  config.set("vision_feature_layer", layers ? (*layers)[0] : e.count("block_count"));
  // The token that features stand for; a vocabulary without it has its unknown token for that.
  std::optional<int64_t> id = find_token(model, "<image>");
  const auto* words = model.texts("tokenizer.ggml.tokens");
  if (!id) id = gguf_token_id(model, "unknown");
  if (!id || !words || *id >= static_cast<int64_t>(words->size())) return;
  config.set("image_token_index", *id), add_token(tokens, *id, (*words)[static_cast<size_t>(*id)]);
}

// The two halves of Qwen's kernel over time, which llama.cpp keeps as two: joined, [hidden, 3, 2, patch, patch].
Status join_patches(CheckpointBuilder& builder, const TensorInfo& first, const TensorInfo& second) {
  if (first.shape != second.shape || first.shape.size() != 4)
    return fail(Code::data_corrupt,
                "tensors v.patch_embd.weight and v.patch_embd.weight.1 must have the same four extents");
  WEFT_TRY(const std::vector<float> a, read_all(first));
  WEFT_TRY(const std::vector<float> b, read_all(second));
  const auto patch = static_cast<size_t>(first.shape[2] * first.shape[3]);
  std::vector<float> both;
  both.reserve(2 * a.size());
  for (size_t at = 0; at < a.size(); at += patch) {
    both.insert(both.end(), a.begin() + static_cast<ptrdiff_t>(at), a.begin() + static_cast<ptrdiff_t>(at + patch));
    both.insert(both.end(), b.begin() + static_cast<ptrdiff_t>(at), b.begin() + static_cast<ptrdiff_t>(at + patch));
  }
  TensorInfo joined;
  joined.name = "visual.patch_embed.proj.weight", joined.type = StorageType::f32, joined.file = first.file;
  joined.shape = {first.shape[0], first.shape[1], 2, first.shape[2], first.shape[3]};
  joined.data = builder.keep_values(std::move(both));
  return builder.add(std::move(joined));
}

}  // namespace

Result<GgufMedia> gguf_media(const GgufHeader& encoder, const Json& text, const GgufMetadata& model) {
  WEFT_TRY(const Projector* projector, projector_of(encoder.metadata));
  const std::string_view arch = model.text("general.architecture");
  const bool fits = projector->text.empty() ? arch == "llama" || arch == "qwen2" : arch == projector->text;
  if (!fits)
    return fail(Code::invalid_argument, "metadata key clip.projector_type is ", projector->name,
                ", which does not go with a model of the architecture ", arch);
  Encoder e(encoder.metadata);
  const int64_t width = text.find("hidden_size")->as_integer();
  if (const int64_t stated = e.count("projection_dim", width); stated != width)
    return fail(Code::invalid_argument, "metadata key clip.vision.projection_dim is ", stated,
                ", but the model's embedding_length is ", width);
  GgufMedia media{Json::object(), Json::object(), std::string(projector->text_prefix)};
  Json pixels = pixel_settings(e), tokens = Json::object();
  const bool flat = projector->text_prefix.empty();
  if (flat) media.config = text;
  else media.config.set("text_config", text);
  media.config.set("architectures", Json::array({Json(projector->architecture)}));
  media.config.set("model_type", projector->model_type);
  media.config.set("tie_word_embeddings", *text.find("tie_word_embeddings"));
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (const Json* ids = text.find(key)) media.config.set(key, *ids);
  if (flat) qwen(e, model, media.config, pixels, tokens);
  else if (projector->name == "gemma3") gemma(e, model, media.config, pixels, tokens);
  else if (projector->name == "llama4") llama4_media(e, encoder, model, media.config, pixels);
  else llava(e, model, media.config, pixels, tokens);
  WEFT_RETURN_IF_ERROR(e.status());
  media.settings.set("config.json", media.config);
  media.settings.set("preprocessor_config.json", std::move(pixels));
  media.settings.set("tokenizer_config.json", Json::object({{"added_tokens_decoder", std::move(tokens)}}));
  return media;
}

Status add_gguf_media_tensors(CheckpointBuilder& builder, GgufHeader& encoder) {
  WEFT_TRY(const Projector* projector, projector_of(encoder.metadata));
  const int64_t width = encoder.metadata.integer("clip.vision.feed_forward_length", 0),
                hidden = encoder.metadata.integer("clip.vision.embedding_length", 0);
  const TensorInfo* halves[2] = {};
  for (TensorInfo& tensor : encoder.tensors) {
    tensor.source = &builder.file(tensor.file);
    if (!projector->mlp.empty() && tensor.name.starts_with("v.patch_embd.weight")) {
      halves[tensor.name.ends_with(".1") ? 1 : 0] = &tensor;
      continue;
    }
    std::string name;
    for (const auto& [gguf, hf] : projector->whole)
      if (tensor.name == gguf) name = hf;
    if (tensor.name.starts_with("v.blk.")) {
      const size_t dot = tensor.name.find('.', 6), end = tensor.name.rfind('.');
      std::string part = dot < end ? tensor.name.substr(dot + 1, end - dot - 1) : "";
      // Old files have the names of the MLP's two matrices the other way round.
      const std::string kind = end < tensor.name.size() ? tensor.name.substr(end) : "";
      if ((part == "ffn_down" || part == "ffn_up") && width != hidden && projector->name != "llama4") {
        const int64_t rows = tensor.shape.empty() ? 0 : tensor.shape[0];
        if (rows == width && part == "ffn_down") part = "ffn_up";
        else if (rows == hidden && part == "ffn_up") part = "ffn_down";
      }
      for (const std::span<const Names> list : {projector->layer, projector->mlp})
        for (const auto& [gguf, hf] : list)
          if (part == gguf)
            name = std::string(projector->layers) + tensor.name.substr(6, dot - 6) + "." + std::string(hf) + kind;
    }
    if (name == "multi_modal_projector.mm_soft_emb_norm.weight") tensor.offset = -1;  // stored as 1 + w
    if (!name.empty()) tensor.name = std::move(name);
    WEFT_RETURN_IF_ERROR(builder.add(tensor));
  }
  if (projector->mlp.empty()) return {};
  for (const TensorInfo* half : halves)
    if (!half) return fail(Code::not_found, "tensor v.patch_embd.weight or v.patch_embd.weight.1 is absent");
  return join_patches(builder, *halves[0], *halves[1]);
}

}  // namespace weft
