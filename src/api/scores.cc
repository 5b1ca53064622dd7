#include "api/scores.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/tokenizer.h"

namespace weft {

namespace {

Status check_types(const std::vector<int32_t>& types, size_t tokens, int kinds) {
  if (types.size() != tokens)
    return fail(Code::invalid_argument, "token_type_ids has ", types.size(), " entries for ", tokens, " tokens")
        .about("token_type_ids");
  for (int32_t type : types)
    if (type < 0 || type >= kinds)
      return fail(Code::invalid_argument, "token_type_ids has ", type, ", the model knows 0 to ", kinds - 1)
          .about("token_type_ids");
  return {};
}

// The softmax probability of label 1 (of the only one, if there is no other).
float step_probability(const float* logits, int labels) {
  const float max = *std::max_element(logits, logits + labels);
  double sum = 0;
  for (int i = 0; i < labels; ++i) sum += std::exp(static_cast<double>(logits[i] - max));
  return static_cast<float>(std::exp(static_cast<double>(logits[std::min(1, labels - 1)] - max)) / sum);
}

}  // namespace

Result<ScorePrompt> score_prompt(const Request& request, std::vector<int32_t> tokens, const Tokenizer* tokenizer,
                                 const Plan& plan) {
  ScorePrompt prompt{std::move(tokens), {}};
  if (!request.text_pair && (!request.token_type_ids || plan.token_types == 0)) return prompt;
  const char* field = request.text_pair ? "text_pair" : "token_type_ids";
  if (plan.token_types == 0)
    return fail(Code::invalid_argument, plan.architecture, " reads one text and tells no token types apart")
        .about(field);
  if (request.text_pair) {
    if (!request.prompt || !tokenizer)
      return fail(Code::invalid_argument, "a second text needs a first one in prompt, and a tokenizer").about(field);
    WEFT_TRY(EncodedPair pair, tokenizer->encode_pair(*request.prompt, *request.text_pair,
                                                      {.add_special_tokens = request.add_special_tokens,
                                                       .stop = request.stop_flag.get()}));
    prompt.tokens = std::move(pair.ids), prompt.types = std::move(pair.type_ids);
  }
  if (request.token_type_ids) prompt.types = *request.token_type_ids;
  WEFT_RETURN_IF_ERROR(check_types(prompt.types, prompt.tokens.size(), plan.token_types));
  return prompt;
}

Status check_image_types(const Request& request, const ImagePrompt& prompt, const Plan& plan) {
  if (!request.token_type_ids || plan.token_types > 0) return {};
  std::vector<int32_t> expected(prompt.tokens.size());
  if (prompt.places)
    for (const MediaPrompt::Span& span : prompt.places->spans)
      std::fill_n(expected.begin() + span.position, span.count, 1);
  if (*request.token_type_ids == expected) return {};
  return fail(Code::invalid_argument, plan.architecture,
              " tells no token types apart; they may only mark the images' tokens")
      .about("token_type_ids");
}

LogitRows score_rows(HeadKind head) { return head == HeadKind::classify_first ? LogitRows::first : LogitRows::all; }

ScoreResult score_result(const std::vector<int32_t>& tokens, std::vector<float> rows, int cols, HeadKind head,
                         int32_t separator) {
  ScoreResult result;
  const auto count = static_cast<int64_t>(tokens.size());
  result.tensors["input_ids"] = {{count}, std::vector<int64_t>(tokens.begin(), tokens.end())};
  if (head == HeadKind::reward_last) result.tensors["reward"] = {{1}, std::vector<float>{rows[(count - 1) * cols]}};
  if (head == HeadKind::reward_steps) {
    std::vector<float> steps;
    for (int64_t i = 0; i < count; ++i)
      if (tokens[i] == separator) steps.push_back(step_probability(rows.data() + i * cols, cols));
    result.tensors["step_probs"] = {{static_cast<int64_t>(steps.size())}, std::move(steps)};
  }
  const std::vector<int64_t> shape =
      head == HeadKind::classify_first ? std::vector<int64_t>{cols} : std::vector<int64_t>{count, cols};
  result.tensors["logits"] = {shape, std::move(rows)};
  return result;
}

namespace {

// Puts the first `rows` of the `all` rows of `values` at row `first` of a tensor, which grows to hold them.
void put_rows(ScoreResult& result, const std::string& name, int first, int rows, int all,
              const std::vector<float>& values) {
  if (rows <= 0 || values.empty()) return;
  const auto cols = static_cast<int64_t>(values.size()) / all;
  ScoreTensor& tensor = result.tensors[name];
  if (tensor.shape.empty()) tensor = {{0, cols}, std::vector<float>()};
  auto& data = std::get<std::vector<float>>(tensor.data);
  tensor.shape[0] = std::max<int64_t>(tensor.shape[0], first + rows);
  data.resize(static_cast<size_t>(tensor.shape[0] * cols));
  std::copy_n(values.begin(), rows * cols, data.begin() + first * cols);
}

}  // namespace

void add_draft_scores(ScoreResult& result, DraftMethod method, const std::vector<RowResult::DraftScores>& pieces,
                      int tokens) {
  const bool mtp = method == DraftMethod::mtp;
  for (const RowResult::DraftScores& piece : pieces) {
    const std::string depth = piece.depth == 0 ? "" : std::to_string(piece.depth + 1);
    // A draft_model also has a row for the token behind the prompt.
    const int rows = std::min(piece.rows, tokens - piece.position);
    put_rows(result, (mtp ? "mtp" + depth : "draft") + "_logits", piece.position, rows, piece.rows, piece.logits);
    put_rows(result, (mtp ? "mtp" + depth : "draft") + "_hidden", piece.position, rows, piece.rows, piece.states);
  }
}

void add_images(ScoreResult& result, const MediaProcessor& processor, const ImagePrompt& images) {
  std::vector<PreparedMedia> media;
  for (const auto& one : images.media) media.push_back(*one);
  for (const auto& [name, kind] :
       {std::pair("pixel_values", MediaKind::image), std::pair("pixel_values_videos", MediaKind::video)}) {
    MediaProcessor::Tensor pixels = processor.reference_layout(media, kind);
    if (!pixels.values.empty()) result.tensors[name] = {pixels.shape, std::move(pixels.values)};
  }
  if (!images.places->cross.empty()) return;  // keys and values for cross attention are not reported as features
  std::vector<float> features;
  int64_t cols = 0;
  for (const auto& one : images.places->features) {
    cols = one->cols;
    features.insert(features.end(), one->values.begin(), one->values.end());
  }
  if (cols > 0)
    result.tensors["image_features"] = {{static_cast<int64_t>(features.size()) / cols, cols}, std::move(features)};
}

std::vector<std::string> label_names(const Json& config) {
  const Json* names = config.find("id2label");
  if (!names || !names->is_object()) return {};
  std::vector<std::string> labels(names->members().size());
  for (const auto& [key, name] : names->members()) {
    size_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id >= labels.size() || !name.is_string()) return {};
    labels[id] = name.as_string();
  }
  return labels;
}

}  // namespace weft
