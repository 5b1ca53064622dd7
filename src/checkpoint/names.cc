#include "checkpoint/names.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace weft {
namespace {

// Where an architecture's recipe looks for the parts of the model.
struct Layout {
  std::string_view body = "model.", head = "lm_head.";
  std::string_view tower;    // what follows "vision_tower." ("vision_model."); empty: nothing
  bool renamed_moe = false;  // experts' layers are "block_sparse_moe", where new files have "mlp"
  // an expert's gate, up and down projection; empty: experts are not separate tensors
  std::array<std::string_view, 3> expert;
};

bool is_object(const Json* value) { return value && value->is_object(); }

std::string architecture_of(const Json& config) {
  const Json* names = config.find("architectures");
  const bool some = names && names->is_array() && !names->items().empty() && names->items()[0].is_string();
  return some ? names->items()[0].as_string() : "";
}

Layout layout_of(const std::string& architecture, const Json& config) {
  Layout layout;
  const bool llama4 = architecture.starts_with("Llama4For");
  const bool square_tower =
      architecture == "Gemma3ForConditionalGeneration" || architecture == "LlavaNextForConditionalGeneration";
  if (square_tower || architecture == "MllamaForConditionalGeneration" ||
      (llama4 && is_object(config.find("text_config"))))
    layout.body = "language_model.model.", layout.head = "language_model.lm_head.";
  if (square_tower) layout.tower = "vision_model.";
  layout.renamed_moe = architecture == "MixtralForCausalLM";
  if (layout.renamed_moe) layout.expert = {"w1", "w3", "w2"};
  if (architecture == "Qwen3MoeForCausalLM" || architecture == "DeepseekV3ForCausalLM")
    layout.expert = {"gate_proj", "up_proj", "down_proj"};
  return layout;
}

// Takes `start` off the front of `name`.
bool skip(std::string_view& name, std::string_view start) {
  if (!name.starts_with(start)) return false;
  name.remove_prefix(start.size());
  return true;
}

std::string joined(std::string_view a, std::string_view b) { return std::string(a) + std::string(b); }

std::string tower_name(std::string_view rest, const Layout& layout) {
  const bool whole = rest.starts_with(layout.tower);
  return joined("vision_tower.", whole ? std::string(rest) : joined(layout.tower, rest));
}

std::string body_name(std::string_view rest, const Layout& layout) {
  std::string name = joined(layout.body, rest);
  if (const size_t at = name.find(".mlp."); layout.renamed_moe && at != std::string::npos)
    name.replace(at, 5, ".block_sparse_moe.");
  return name;
}

std::string new_name(std::string_view name, const Layout& layout) {
  std::string_view rest = name;
  if (skip(rest, "language_model.lm_head.") || skip(rest, "lm_head.")) return joined(layout.head, rest);
  if (skip(rest, "language_model.model.") || skip(rest, "model.language_model.") || skip(rest, "language_model."))
    return body_name(rest, layout);
  const bool in_model = skip(rest, "model.");
  for (const std::string_view part : {"visual.", "vision_model.", "multi_modal_projector.", "image_newline"})
    if (rest.starts_with(part)) return std::string(rest);
  if (skip(rest, "vision_tower.")) return tower_name(rest, layout);
  const bool bare = rest.starts_with("layers.") || rest.starts_with("embed_tokens.") || rest.starts_with("norm.");
  return in_model || bare ? body_name(rest, layout) : std::string(name);
}

// The experts' own tensors that a fused one of `rows` rows for each stands for; nothing for any other name.
std::vector<ExpertPart> parts_of(const Layout& layout, std::string_view name, int64_t experts, int64_t rows) {
  if (layout.expert[0].empty() || experts < 1) return {};
  const size_t at = name.find(".experts.");
  if (at == std::string_view::npos) return {};
  const std::string scope(name.substr(0, at + 9));
  std::string_view rest = name.substr(at + 9);
  const bool both = skip(rest, "gate_up_proj");
  if ((!both && !skip(rest, "down_proj")) || (both && rows % 2 != 0)) return {};
  if (rest != "" && rest != "_scale_inv" && rest != "_scale") return {};
  const std::string end = ".weight" + std::string(rest);
  const int64_t halves = both ? 2 : 1;
  std::vector<ExpertPart> parts;
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t half = 0; half < halves; ++half)
      parts.push_back({scope + std::to_string(e) + "." + std::string(layout.expert[both ? half : 2]) + end,
                       e * rows + half * (rows / halves), rows / halves});
  return parts;
}

// The same as tensors: parts of the fused one's rows.
std::vector<TensorInfo> split_experts(const TensorInfo& tensor, const Layout& layout) {
  if (tensor.shape.size() != 3 || is_blocked(tensor.type) || tensor.type == StorageType::unknown) return {};
  std::vector<TensorInfo> tensors;
  const int64_t rows = tensor.shape[0] * tensor.shape[1];
  for (ExpertPart& part : parts_of(layout, tensor.name, tensor.shape[0], tensor.shape[1])) {
    TensorInfo own = tensor;
    own.name = std::move(part.name);
    own.stored_name = tensor.stored_name.empty() ? tensor.name : tensor.stored_name;
    own.shape = {part.rows, tensor.shape[2]};
    const size_t row_bytes = rows == 0 ? 0 : tensor.data.size() / static_cast<size_t>(rows);
    own.data = tensor.data.subspan(static_cast<size_t>(part.first_row) * row_bytes,
                                   static_cast<size_t>(part.rows) * row_bytes);
    tensors.push_back(std::move(own));
  }
  return tensors;
}

bool is_tied(const Json& config, const std::string& architecture) {
  if (config.find("draft_vocab_size")) return false;  // a draft's head is no embedding, whatever its target's is
  bool stated = false;
  for (const Json* part : {&config, config.find("text_config")})
    if (is_object(part))
      if (const Json* flag = part->find("tie_word_embeddings"); flag && flag->is_bool()) {
        if (flag->as_bool()) return true;
        stated = true;
      }
  return !stated && architecture.starts_with("Gemma");
}

}  // namespace

std::vector<ExpertPart> expert_parts(const Json& config, std::string_view tensor, int64_t experts, int64_t rows) {
  return parts_of(layout_of(architecture_of(config), config), tensor, experts, rows);
}

std::string name_of_tensor(const Json& config, std::string_view name) {
  return new_name(name, layout_of(architecture_of(config), config));
}

Status apply_names(CheckpointBuilder& builder, const Json& config) {
  const std::string architecture = architecture_of(config);
  const Layout layout = layout_of(architecture, config);
  auto& tensors = builder.tensors();
  std::vector<std::pair<std::string, std::string>> changes;
  for (const auto& [name, tensor] : tensors)
    if (std::string changed = new_name(name, layout); changed != name) changes.emplace_back(name, std::move(changed));
  const auto rename = [&](const std::string& from, const std::string& to) {
    if (tensors.contains(to)) return;
    auto node = tensors.extract(from);
    if (node.mapped().stored_name.empty()) node.mapped().stored_name = from;
    node.key() = node.mapped().name = to;
    tensors.insert(std::move(node));
  };
  for (const auto& [from, to] : changes) rename(from, to);

  std::vector<std::string> fused;
  std::vector<TensorInfo> parts;
  for (const auto& [name, tensor] : tensors) {
    const size_t before = parts.size();
    for (TensorInfo& part : split_experts(tensor, layout)) parts.push_back(std::move(part));
    if (parts.size() > before) fused.push_back(name);
  }
  for (const std::string& name : fused) tensors.erase(name);
  for (TensorInfo& part : parts) {
    const std::string name = part.name;
    if (!tensors.try_emplace(name, std::move(part)).second)
      return fail(Code::data_corrupt, "tensor ", name, " is there twice, once among fused experts");
  }
  const std::string head = joined(layout.head, "weight"), embedding = joined(layout.body, "embed_tokens.weight");
  if (is_tied(config, architecture) && !tensors.contains(embedding) && tensors.contains(head)) rename(head, embedding);
  return {};
}

}  // namespace weft
