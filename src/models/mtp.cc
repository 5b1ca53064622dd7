// Multi-token prediction, DeepSeek-V3's (arXiv 2412.19437 section 2.2): behind the last layer stand
// num_nextn_predict_layers more, each of which predicts one token further.
//
//   x = eh_proj(concat(enorm(embed(token)), hnorm(g)));  state = shared_head.norm(layer(x));  logits = head(state)
//
// g is the target's state after its last norm, or what the depth before left in the row; with one layer alone, further
// drafts come from the same layer, whose own state is then g.
#include "models/drafts.h"
#include "models/models.h"

namespace weft::models {

using namespace blocks;

namespace {

Plan record(const std::string& architecture, const DecoderRecipe& r, const DraftTarget& target, int depth) {
  PlanBuilder b(architecture);
  // The rest of the file is the target's.
  for (const char* name : {"model", "lm_head"}) b.ignore(Scope(name));
  const int layer = r.layers + depth;
  const Scope body(r.body), w = body / r.layer_list / layer;
  const PlanBuilder::Module inside(b, w);
  const auto normed = [&](Scope at, Value x, Value out) { b.norm_into(x, out, at, false, r.norm.eps); };

  const Value g = b.buffer(r.hidden), both = b.buffer(2 * r.hidden);
  if (depth == 0) {
    b.only_in(Pass::first, [&] {
      const Value raw = b.buffer(r.hidden);
      b.states_into(raw);
      normed(body / "norm", raw, g);
    });
    b.only_in(Pass::chained, [&] { b.states_into(g); });
  } else {
    b.states_into(g);
  }
  normed(w / "enorm", borrow_embedding(b, target), b.slice(both, 0, r.hidden));
  normed(w / "hnorm", g, b.slice(both, r.hidden, r.hidden));
  Value x = b.linear(both, {.sources = {whole(w / "eh_proj", r.hidden)}, .k = 2 * r.hidden});
  x = r.layer(b, w, layer, x, r);
  const Value state = norm(b, w / "shared_head" / "norm", x, r.norm);
  b.set_state(state);
  b.set_output(b.linear(b.select(state), borrow_head(target)), HeadKind::lm);
  return b.take();
}

}  // namespace

Result<std::vector<Plan>> mtp_plans(const HfConfig& config, const Checkpoint& checkpoint, const DraftTarget& target) {
  const std::string name = config.architecture();
  WEFT_RETURN_IF_ERROR(config.status());
  if (name != "DeepseekV3ForCausalLM")
    return fail(Code::unsupported, name, " has no layers for multi-token prediction; DeepseekV3ForCausalLM may have");
  const HfConfig c = text_config(config);
  const DecoderRecipe r = deepseek_v3(c);
  const int depths = c.index("num_nextn_predict_layers", 0);
  WEFT_RETURN_IF_ERROR(config.status());
  if (depths == 0)
    return fail(Code::not_found,
                "the checkpoint has no layer for multi-token prediction: num_nextn_predict_layers is 0");
  std::vector<Plan> plans;
  for (int depth = 0; depth < depths; ++depth) {
    const std::string tensor = (Scope(r.body) / r.layer_list / (r.layers + depth) / "eh_proj").path() + ".weight";
    if (!checkpoint.is_dummy() && !checkpoint.find(tensor))
      return fail(Code::not_found, "the checkpoint lacks layer ", r.layers + depth, " for multi-token prediction (no ",
                  tensor, "), though num_nextn_predict_layers is ", depths);
    plans.push_back(record(name, r, target, depth));
  }
  return plans;
}

}  // namespace weft::models
