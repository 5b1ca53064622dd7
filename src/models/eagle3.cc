// EAGLE-3 heads (arXiv 2503.01840): one Llama layer, rarely more, over the target's residual stream.
//
//   g = fc(features)                         in rows that have the target's; else the state of the draft's row before
//   x = concat(norm(embed(token)), norm(g))
//   h = g + attention(x);  state = h + mlp(norm(h));  logits = lm_head(norm(state))
//
// Files come with two orders of names: the authors' (midlayer.*) and speculators' (layers.0.*, the Llama layer's sizes
// in transformer_layer_config). The checkpoint shows layers, norm and embed_tokens below "model" (checkpoint/names.h).
#include <algorithm>
#include <cstring>

#include "models/defaults.h"
#include "models/drafts.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

namespace {

constexpr const char* kLayerIds = "eagle_aux_hidden_state_layer_ids";

bool is_speculators(const HfConfig& c) { return c.has("transformer_layer_config"); }

// The Llama layer's part of the configuration.
HfConfig layer_config(const HfConfig& c) {
  const HfConfig layer = is_speculators(c) ? c.sub("transformer_layer_config") : c;
  return layer.with_defaults(text_defaults("LlamaForCausalLM", "llama"));
}

bool is_eagle3(const HfConfig& c) {
  std::string name = c.architecture();
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char ch) { return std::tolower(ch); });
  return name.find("eagle3") != std::string::npos || c.text("speculators_model_type", "") == "eagle3" ||
         (name == "llamaforcausallm" && c.has("draft_vocab_size"));  // the authors' first files
}

int draft_vocab(const HfConfig& c) { return c.count("draft_vocab_size", layer_config(c).count("vocab_size")); }

// The names and sizes of one head.
struct Head {
  Head(const HfConfig& config, const Checkpoint& file) : c(layer_config(config)), checkpoint(file) {
    hidden = c.count("hidden_size"), layers = c.count("num_hidden_layers", 1);
    eps = static_cast<float>(c.positive("rms_norm_eps"));
    attention = llama_attention(c), mlp = llama_mlp(c);
    attention.eps = eps;
    norm_before_residual = config.flag("norm_before_residual", is_speculators(config));
    normed_state = config.flag("norm_output", false);
    vocab = draft_vocab(config);
  }

  bool has(const std::string& tensor) const { return checkpoint.find(tensor) != nullptr; }
  // Where the authors' names and speculators' are both absent, the first are reported.
  Scope layer(int i) const {
    const bool numbered = i > 0 || has("model.layers.0.self_attn.q_proj.weight");
    return numbered ? Scope("model.layers") / i : Scope("midlayer");
  }

  HfConfig c;
  const Checkpoint& checkpoint;
  int hidden = 0, layers = 0, vocab = 0;
  float eps = 0;
  bool norm_before_residual = false, normed_state = false;
  AttentionOptions attention;
  MlpOptions mlp;
};

Value rms(PlanBuilder& b, Scope w, Value x, const Head& head) { return norm(b, w, x, {NormKind::rms, head.eps}); }

// fc over the features, with the norms that some files put before it.
void fuse_features(PlanBuilder& b, const Head& head, int features, int target_hidden, Value g) {
  const int cols = features * target_hidden;
  Value f = b.buffer(cols);
  b.states_into(f);
  if (head.has("fc_norm.0.weight")) {
    const Value normed = b.buffer(cols);
    for (int i = 0; i < features; ++i)
      b.norm_into(b.slice(f, i * target_hidden, target_hidden), b.slice(normed, i * target_hidden, target_hidden),
                  Scope("fc_norm") / i, false, head.eps);
    f = normed;
  } else if (head.has("input_norm.weight")) {
    f = rms(b, Scope("input_norm"), f, head);
  }
  Matrix fc{.sources = {whole(Scope("fc"), head.hidden)}, .k = cols};
  if (head.has("fc.bias")) fc.biases = {{"fc.bias", 0, head.hidden}};
  b.linear_into(f, std::move(fc), g);
}

Value first_layer(PlanBuilder& b, Scope w, Value embedding, Value g, const Head& head) {
  const Value both = b.buffer(2 * head.hidden), normed = b.slice(both, head.hidden, head.hidden);
  b.norm_into(embedding, b.slice(both, 0, head.hidden), w / "input_layernorm", false, head.eps);
  b.norm_into(g, normed, w / "hidden_norm", false, head.eps);
  AttentionOptions wide = head.attention;
  wide.input = 2 * head.hidden;
  if (head.has((w / "self_attn" / "q_norm").path() + ".weight")) wide.head_norm = kernels::HeadNorm::rms;
  const Value h = b.add(head.norm_before_residual ? normed : g, attention(b, w / "self_attn", both, wide));
  return b.add(h, gated_mlp(b, w / "mlp", rms(b, w / "post_attention_layernorm", h, head), head.mlp));
}

Value next_layer(PlanBuilder& b, Scope w, Value x, const Head& head) {
  AttentionOptions a = head.attention;
  if (head.has((w / "self_attn" / "q_norm").path() + ".weight")) a.head_norm = kernels::HeadNorm::rms;
  x = b.add(x, attention(b, w / "self_attn", rms(b, w / "input_layernorm", x, head), a));
  return b.add(x, gated_mlp(b, w / "mlp", rms(b, w / "post_attention_layernorm", x, head), head.mlp));
}

Plan record(const std::string& architecture, const Head& head, const DraftTarget& target, int features) {
  PlanBuilder b(architecture);
  for (const char* name : {"d2t", "t2d"}) b.ignore(Scope(name));
  const Value g = b.buffer(head.hidden);
  b.only_in(Pass::chained, [&] { b.states_into(g); });
  b.only_in(Pass::first, [&] { fuse_features(b, head, features, target.hidden, g); });
  const Value embedding = head.has("model.embed_tokens.weight") || head.hidden != target.hidden
                              ? b.embed(Scope("model.embed_tokens"), head.c.count("vocab_size"), head.hidden, 1.0f)
                              : borrow_embedding(b, target);
  Value x = first_layer(b, head.layer(0), embedding, g, head);
  for (int i = 1; i < head.layers; ++i) x = next_layer(b, head.layer(i), x, head);
  Value last;
  if (head.normed_state) {
    x = rms(b, Scope("model.norm"), x, head);
    last = b.select(x);
  } else {
    last = rms(b, Scope("model.norm"), b.select(x), head);
  }
  b.set_state(x);
  const bool own = head.has("lm_head.weight") || head.hidden != target.hidden || head.vocab != target.vocab;
  b.set_output(b.linear(last, own ? Matrix{.sources = {whole(Scope("lm_head"), head.vocab)}, .k = head.hidden}
                                  : borrow_head(target)),
               HeadKind::lm);
  return b.take();
}

Status check_sizes(const HfConfig& c, const Head& head, const DraftTarget& target, int features) {
  const int vocab = head.c.count("vocab_size"), hidden = c.count("target_hidden_size", head.hidden);
  WEFT_RETURN_IF_ERROR(c.status());
  if (hidden != target.hidden)
    return fail(Code::invalid_argument, "it was made for a model of hidden size ", hidden, ", the target's is ",
                target.hidden);
  if (vocab != target.vocab)
    return fail(Code::invalid_argument, "vocab_size is ", vocab, ", the target's is ", target.vocab);
  if (head.vocab > vocab)
    return fail(Code::invalid_argument, "draft_vocab_size is ", head.vocab, ", more than the vocab_size of ", vocab);
  const TensorInfo* fc = head.checkpoint.find("fc.weight");
  if (fc && fc->cols() != int64_t{features} * target.hidden)
    return fail(Code::invalid_argument, "fc.weight takes ", fc->cols(), " numbers, but ", features,
                " layers of the target give ", features, " x ", target.hidden);
  return {};
}

}  // namespace

Result<std::vector<int>> eagle3_taps(const HfConfig& config, const DraftTarget& target,
                                     const std::vector<int>& wanted) {
  if (!is_eagle3(config))
    return fail(Code::invalid_argument, "config.json names ",
                config.architecture().empty() ? "no architecture" : config.architecture(),
                ", which is no EAGLE-3 head");
  std::vector<int> taps = wanted;
  std::string from = "speculative layers";
  const std::string nested = std::string("eagle_config.") + kLayerIds;
  if (taps.empty() && config.has(kLayerIds)) {
    taps = config.indices(kLayerIds), from = kLayerIds;
  } else if (taps.empty() && config.has("eagle_config") && config.has(nested)) {
    taps = config.indices(nested), from = nested + " (outputs of layers)";
    for (int& tap : taps) ++tap;
  }
  WEFT_RETURN_IF_ERROR(config.status());
  if (taps.empty()) {
    if (target.layers <= 5)
      return fail(Code::invalid_argument, "config.json has no ", kLayerIds, ", and a target of ", target.layers,
                  " layers is too small for the usual ones: name them");
    return std::vector<int>{2, target.layers / 2, target.layers - 3};
  }
  for (const int tap : taps)
    if (tap < 0 || tap > target.layers)
      return fail(Code::invalid_argument, from, " ask for the state after ", tap, " layers, the target has ",
                  target.layers);
  return taps;
}

Result<Plan> eagle3_plan(const HfConfig& config, const Checkpoint& checkpoint, const DraftTarget& target,
                         int features) {
  const Head head(config, checkpoint);
  WEFT_RETURN_IF_ERROR(config.status());
  WEFT_RETURN_IF_ERROR(check_sizes(config, head, target, features));
  return record(config.architecture(), head, target, features);
}

Result<std::vector<int32_t>> eagle3_token_ids(const HfConfig& config, const Checkpoint& checkpoint, int vocab) {
  const int own = draft_vocab(config);
  WEFT_RETURN_IF_ERROR(config.status());
  std::vector<int32_t> ids(static_cast<size_t>(own));
  const TensorInfo* offsets = checkpoint.find("d2t");
  if (!offsets) {
    if (own != vocab && !checkpoint.is_dummy())
      return fail(Code::not_found, "d2t is absent: which of the target's ", vocab, " tokens the ", own,
                  " of the draft are is not known");
    return std::vector<int32_t>();
  }
  if (offsets->type != StorageType::i64 || offsets->values() != own)
    return fail(Code::data_corrupt, "d2t must hold ", own, " numbers of int64");
  WEFT_TRY(const MappedFile::Pin pin, offsets->pin());
  std::vector<bool> taken(static_cast<size_t>(vocab));
  bool moved = own != vocab;
  for (int i = 0; i < own; ++i) {
    int64_t offset;
    std::memcpy(&offset, offsets->data.data() + static_cast<size_t>(i) * sizeof offset, sizeof offset);
    if (offset < -i || offset >= vocab - i)
      return fail(Code::data_corrupt, "d2t[", i, "] is ", offset, ", which leads outside of the vocabulary of ", vocab);
    const auto id = static_cast<int32_t>(i + offset);
    if (taken[static_cast<size_t>(id)])
      return fail(Code::data_corrupt, "d2t[", i, "] leads to token ", id, ", which another one has");
    taken[static_cast<size_t>(id)] = true, ids[static_cast<size_t>(i)] = id;
    moved = moved || offset != 0;
  }
  return moved ? ids : std::vector<int32_t>();
}

Value borrow_embedding(PlanBuilder& b, const DraftTarget& target) {
  if (!target.tied_embedding) return b.embed_borrowed(target.embed_rows, target.hidden, target.embed_scale);
  TensorRows rows = whole(Scope("embed_tokens"), target.embed_rows);
  rows.borrowed = Borrowed::embedding;
  Matrix matrix{.sources = {std::move(rows)}, .k = target.hidden};
  matrix.format = target.tied_embedding;
  return b.embed_tied(b.matrix(std::move(matrix)), target.embed_scale);
}

Matrix borrow_head(const DraftTarget& target) {
  TensorRows rows = whole(Scope("lm_head"), target.vocab);
  rows.borrowed = Borrowed::head;
  Matrix matrix{.sources = {std::move(rows)}, .k = target.hidden};
  matrix.format = target.head;
  return matrix;
}

}  // namespace weft::models
