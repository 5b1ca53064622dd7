// See the header.
#include "batch_lines.h"

#include <cerrno>
#include <cmath>
#include <cstring>

#include "terminal.h"

namespace weft {

namespace {

Json logprob_json(float logprob) { return std::isfinite(logprob) ? Json(logprob) : Json(-9999.0f); }

Json logits_json(const std::vector<float>& values, size_t cols) {
  Json::Array rows;
  for (size_t at = 0; cols > 0 && at + cols <= values.size(); at += cols) {
    Json::Array row;
    for (size_t i = at; i < at + cols; ++i) row.push_back(logprob_json(values[i]));
    rows.push_back(Json(std::move(row)));
  }
  return Json(std::move(rows));
}

// [{"token_id", "logprob", "top": [...]}], null for a token without one. The prompt's have a "rank", too.
Json logprobs_json(const std::vector<TokenInfo>& tokens, bool ranks = false) {
  Json::Array list;
  for (const TokenInfo& token : tokens) {
    if (!token.logprob) {
      list.push_back(Json());
      continue;
    }
    Json::Array top;
    for (const TokenLogprob& other : token.top)
      top.push_back(Json::object({{"token_id", other.token}, {"logprob", logprob_json(other.logprob)}}));
    list.push_back(Json::object(
        {{"token_id", token.token}, {"logprob", logprob_json(*token.logprob)}, {"top", Json(std::move(top))}}));
    if (ranks) list.back().set("rank", token.rank);
  }
  return Json(std::move(list));
}

Json choice_json(const BatchChoice& choice, size_t index, bool logprobs, size_t vocab) {
  Json::Array ids;
  for (const TokenInfo& token : choice.tokens) ids.push_back(token.token);
  Json json = Json::object({{"index", static_cast<long>(index)},
                            {"token_ids", Json(std::move(ids))},
                            {"text", choice.text},
                            {"finish_reason", choice.finish_reason},
                            {"stop_reason", choice.stop_reason},
                            {"logprobs", logprobs ? logprobs_json(choice.tokens) : Json()}});
  if (!choice.logits.empty()) json.set("generation_logits", logits_json(choice.logits, vocab));
  return json;
}

}  // namespace

std::string output_line(const RequestLine& line, const BatchOutcome& outcome) {
  Json json = Json::object({{"custom_id", line.custom_id ? Json(*line.custom_id) : Json()}});
  Json::Array choices;
  if (!outcome.error)
    for (const BatchChoice& choice : outcome.choices)
      choices.push_back(choice_json(choice, choices.size(), line.logprobs >= 0, outcome.vocab));
  json.set("choices", Json(std::move(choices)));
  json.set("usage", Json::object({{"prompt_tokens", outcome.usage.prompt_tokens},
                                  {"completion_tokens", outcome.usage.completion_tokens},
                                  {"cached_tokens", outcome.usage.cached_tokens},
                                  {"draft_tokens", outcome.usage.draft_tokens},
                                  {"accepted_tokens", outcome.usage.accepted_tokens}}));
  if (!outcome.error && line.prompt_logprobs >= 0 && outcome.prompt)
    json.set("prompt_logprobs", logprobs_json(*outcome.prompt, true));
  if (!outcome.error && outcome.prompt_logits)
    json.set("context_logits", logits_json(*outcome.prompt_logits, outcome.vocab));
  if (!outcome.warnings.empty()) {
    Json warnings = Json::array();
    for (const std::string& warning : outcome.warnings) warnings.push_back(warning);
    json.set("warnings", std::move(warnings));
  }
  if (!outcome.error) json.set("seed", static_cast<long>(outcome.seed));
  json.set("error", outcome.error
                        ? Json::object({{"code", name(outcome.error->code())}, {"message", outcome.error->message()}})
                        : Json());
  return json.dump() + "\n";
}

Result<BatchOutput> BatchOutput::open(const std::string& path) {
  BatchOutput output;
  output.path_ = path;
  if (path.empty() || path == "-") {
    output.file_ = stdout;
    return output;
  }
  output.place_ = output_place(path);
  output.file_ = std::fopen(output.place_.temporary.c_str(), "wb");
  if (!output.file_)
    return fail(Code::invalid_argument, "cannot write ", path, ": ", std::strerror(errno), "; does its folder exist?");
  return output;
}

BatchOutput::~BatchOutput() {
  if (!file_ || file_ == stdout) return;
  std::fclose(file_);
  if (lines_ == 0 && !place_.in_place()) std::remove(place_.temporary.c_str());
}

// Each line goes to the system at once, so that a full disk is known soon and a killed process leaves whole lines.
Status BatchOutput::write(const std::string& line) {
  if (file_ == stdout) {
    if (!print_out(line)) return output_status();
  } else if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0) {
    return fail(Code::resource_exhausted, "cannot write to ", path_, ": ", std::strerror(errno));
  }
  ++lines_;
  return {};
}

Status BatchOutput::finish() {
  if (file_ == stdout) return output_status();
  if (std::fclose(std::exchange(file_, nullptr)) != 0)
    return fail(Code::resource_exhausted, "cannot write to ", path_, ": ", std::strerror(errno));
  if (!place_.in_place() && std::rename(place_.temporary.c_str(), place_.target.c_str()) != 0)
    return fail(Code::invalid_argument, "cannot write ", path_, ": ", std::strerror(errno), "; all of it is in ",
                place_.temporary);
  return {};
}

Error BatchOutput::ended_by(Error error, size_t all) const {
  if (lines_ == 0 || !file_ || file_ == stdout || place_.in_place()) return error;
  return std::move(error).with(place_.temporary + " has the first " + std::to_string(lines_) + " of " +
                               std::to_string(all) + " lines");
}

}  // namespace weft
