// See the header.
#include "server/answer_json.h"

#include <cmath>

#include "base/short_id.h"

namespace weft {

namespace {

bool is_utf8(std::string_view text) {
  // json_quote replaces what is not UTF-8, which makes it longer or different; compare with the replacement taken out
  // of account.
  static constexpr std::string_view kReplacement = "\xef\xbf\xbd";
  return json_quote(text).find(kReplacement) == std::string::npos || text.find(kReplacement) != std::string_view::npos;
}

size_t characters(std::string_view text) {
  size_t count = 0;
  for (const unsigned char byte : text) count += (byte & 0xc0u) != 0x80u;
  return count;
}

Json bytes_json(std::string_view text) {
  Json::Array bytes;
  for (const unsigned char byte : text) bytes.push_back(static_cast<int>(byte));
  return Json(std::move(bytes));
}

}  // namespace

Json logprob_json(float logprob) {
  if (std::isnan(logprob)) return Json();
  return std::isfinite(logprob) ? Json(logprob) : Json(-9999.0f);
}

Json usage_json(const Usage& usage, bool drafts) {
  Json json = Json::object({{"prompt_tokens", usage.prompt_tokens},
                            {"completion_tokens", usage.completion_tokens},
                            {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
                            {"prompt_tokens_details", Json::object({{"cached_tokens", usage.cached_tokens}})}});
  Json details = Json::object();
  if (usage.reasoning_tokens > 0) details.set("reasoning_tokens", usage.reasoning_tokens);
  if (drafts) {
    json.set("draft_tokens", usage.draft_tokens);
    json.set("accepted_tokens", usage.accepted_tokens);
    details.set("accepted_prediction_tokens", usage.accepted_tokens);
    details.set("rejected_prediction_tokens", usage.draft_tokens - usage.accepted_tokens);
  }
  if (!details.members().empty()) json.set("completion_tokens_details", std::move(details));
  return json;
}

AnswerWriter::AnswerWriter(const Engine& engine, bool chat, const ClientRequest& request, AnswerHead head)
    : engine_(engine), chat_(chat), tokens_as_ids_(request.tokens_as_ids), logprobs_(request.logprobs),
      drafts_(engine.options().speculation.most() > 0), head_(std::move(head)) {
  chunk_head_ = "data: {\"id\":" + json_quote(head_.id) +
                ",\"object\":" + (chat ? "\"chat.completion.chunk\"" : "\"text_completion\"") +
                ",\"created\":" + std::to_string(head_.created_s) + ",\"model\":" + json_quote(head_.model) +
                ",\"system_fingerprint\":" + json_quote(head_.fingerprint) + ",\"choices\":[";
}

static Json list_of(const std::vector<std::string>& texts) {
  Json list = Json::array();
  for (const std::string& text : texts) list.push_back(text);
  return list;
}

std::string AnswerWriter::answer(Json::Array choices, const Usage& usage, const Json& prompt_logprobs,
                                 const std::vector<std::string>& warnings) const {
  Json body = Json::object({{"id", head_.id},
                            {"object", chat_ ? "chat.completion" : "text_completion"},
                            {"created", static_cast<long>(head_.created_s)},
                            {"model", head_.model},
                            {"choices", Json(std::move(choices))},
                            {"usage", usage_json(usage, drafts_)},
                            {"system_fingerprint", head_.fingerprint}});
  if (!prompt_logprobs.is_null()) body.set("prompt_logprobs", prompt_logprobs);
  if (!warnings.empty()) body.set("warnings", list_of(warnings));
  return body.dump();
}

std::string AnswerWriter::failure(Json error, const Usage& usage, const std::vector<std::string>& warnings) const {
  error.set("usage", usage_json(usage, drafts_));
  if (!warnings.empty()) error.set("warnings", list_of(warnings));
  return error.dump();
}

std::string AnswerWriter::chunk(Json choice, const Usage* usage) const {
  std::string text = chunk_head_ + choice.dump() + "]";
  if (usage) text += ",\"usage\":" + usage_json(*usage, drafts_).dump();
  return text += "}\n\n";
}

std::string AnswerWriter::usage_chunk(const Usage& usage) const {
  return chunk_head_ + "],\"usage\":" + usage_json(usage, drafts_).dump() + "}\n\n";
}

std::string AnswerWriter::warnings_chunk(const std::vector<std::string>& warnings) const {
  return chunk_head_ + "],\"warnings\":" + list_of(warnings).dump() + "}\n\n";
}

std::string AnswerWriter::shown_token(int32_t id) const {
  if (tokens_as_ids_) return "token_id:" + std::to_string(id);
  const std::string bytes = engine_.token_bytes(id);
  if (chat_ || is_utf8(bytes)) return bytes;
  // In a completion's logprobs this text is the key of a JSON object. A token that ends inside a character is no UTF-8
  // by itself, so it is written as its bytes: two such tokens need different keys.
  static const char* const digits = "0123456789abcdef";
  std::string text = "bytes:";
  for (const unsigned char byte : bytes) ((text += "\\x") += digits[byte >> 4]) += digits[byte & 15];
  return text;
}

Json AnswerWriter::chat_logprobs(const std::vector<TokenInfo>& tokens) const {
  Json::Array content;
  for (const TokenInfo& token : tokens) {
    Json::Array top;
    for (const TokenLogprob& other : token.top)
      top.push_back(Json::object({{"token", shown_token(other.token)},
                                  {"logprob", logprob_json(other.logprob)},
                                  {"bytes", bytes_json(engine_.token_bytes(other.token))}}));
    content.push_back(Json::object({{"token", shown_token(token.token)},
                                    {"logprob", token.logprob ? logprob_json(*token.logprob) : Json()},
                                    {"bytes", bytes_json(engine_.token_bytes(token.token))},
                                    {"top_logprobs", Json(std::move(top))}}));
  }
  return Json::object({{"content", Json(std::move(content))}, {"refusal", nullptr}});
}

Json AnswerWriter::completion_logprobs(const std::vector<TokenInfo>& tokens, size_t& offset) const {
  Json::Array texts, values, tops, offsets;
  for (const TokenInfo& token : tokens) {
    const std::string text = shown_token(token.token);
    offsets.push_back(static_cast<long>(offset));
    offset += characters(engine_.token_bytes(token.token));
    values.push_back(token.logprob ? logprob_json(*token.logprob) : Json());
    if (token.logprob) {
      Json top = Json::object();
      for (const TokenLogprob& other : token.top) top.set(shown_token(other.token), logprob_json(other.logprob));
      top.set(text, logprob_json(*token.logprob));
      tops.push_back(std::move(top));
    } else {
      tops.push_back(Json());
    }
    texts.push_back(text);
  }
  return Json::object({{"tokens", Json(std::move(texts))},
                       {"token_logprobs", Json(std::move(values))},
                       {"top_logprobs", Json(std::move(tops))},
                       {"text_offset", Json(std::move(offsets))}});
}

Json AnswerWriter::logprobs(const std::vector<TokenInfo>& tokens, size_t& offset) const {
  if (logprobs_ < 0) return Json();
  return chat_ ? chat_logprobs(tokens) : completion_logprobs(tokens, offset);
}

Json AnswerWriter::prompt_logprobs(const std::vector<TokenInfo>& prompt) const {
  Json::Array list;
  for (const TokenInfo& token : prompt) {
    if (!token.logprob) {
      list.push_back(Json());
      continue;
    }
    Json entry = Json::object();
    const auto add = [&](int32_t id, float logprob, int rank) {
      entry.set(std::to_string(id), Json::object({{"logprob", logprob_json(logprob)},
                                                  {"rank", rank > 0 ? Json(rank) : Json()},
                                                  {"decoded_token", engine_.token_bytes(id)}}));
    };
    add(token.token, *token.logprob, token.rank);
    for (const TokenLogprob& other : token.top) add(other.token, other.logprob, other.rank);
    list.push_back(std::move(entry));
  }
  return Json(std::move(list));
}

Json AnswerWriter::logits(const std::vector<float>& values, size_t cols) {
  Json::Array rows;
  for (size_t at = 0; at + cols <= values.size(); at += cols) {
    Json::Array row;
    row.reserve(cols);
    for (size_t i = 0; i < cols; ++i) row.push_back(logprob_json(values[at + i]));
    rows.push_back(Json(std::move(row)));
  }
  return Json(std::move(rows));
}

Json AnswerWriter::token_ids(const std::vector<TokenInfo>& tokens) {
  Json::Array ids;
  for (const TokenInfo& token : tokens) ids.push_back(token.token);
  return Json(std::move(ids));
}

Json AnswerWriter::tool_calls(const std::vector<ToolCall>& calls, const std::string& id_stem) {
  Json list = Json::array();
  for (size_t i = 0; i < calls.size(); ++i)
    list.push_back(
        Json::object({{"id", short_id(id_stem + std::to_string(i))},
                      {"type", "function"},
                      {"function", Json::object({{"name", calls[i].name}, {"arguments", calls[i].arguments}})}}));
  return list;
}

Json AnswerWriter::tool_call_delta(const ToolDelta& delta, const std::string& id_stem) {
  Json call = Json::object({{"index", static_cast<long>(delta.index)}});
  if (delta.name.empty()) {
    call.set("function", Json::object({{"arguments", delta.arguments}}));
    return call;
  }
  call.set("id", short_id(id_stem + std::to_string(delta.index)));
  call.set("type", "function");
  call.set("function", Json::object({{"name", delta.name}, {"arguments", delta.arguments}}));
  return call;
}

}  // namespace weft
