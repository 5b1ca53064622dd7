// See the header. What the API takes and gives in a form of its own: images (URLs alone), logprobs (docs/contract.md),
// and the text of chats, which is to come as the model wrote it.
#include "http_lines.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>

#include "base/files.h"

namespace weft {

namespace {

// ---- requests

// Of a line's fields those that say nothing to a server: the file's own, and those of commands that score.
// Logprobs are asked for in the API's way below.
constexpr std::array<std::string_view, 8> kOfTheFile = {
    "custom_id", "stream", "stream_options", "echo", "text_pair", "token_type_ids", "logprobs", "top_logprobs"};

std::string base64(std::span<const std::byte> bytes) {
  static const char* const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    unsigned bits = 0;
    for (size_t i = 0; i < 3; ++i) bits = bits << 8 | (i < count ? std::to_integer<unsigned>(bytes[at + i]) : 0);
    for (size_t i = 0; i < 4; ++i) text += i <= count ? digits[bits >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

// URLs stay; a file's bytes become one. `name` begins the error, as "image 2".
Result<std::string> as_url(const std::string& address, const std::string& name) {
  if (address.starts_with("data:") || address.find("://") != std::string::npos) return address;
  const auto file = read_file(address, FileLimit::image);
  if (!file.ok())
    return fail(Code::invalid_argument, name, ": ", file.error().message()).about(name.substr(0, name.find(' ')) + "s");
  return "data:application/octet-stream;base64," + base64(std::as_bytes(std::span(*file)));
}

// Lists of addresses, once they have been checked. Errors call each of them by `name` and its number.
Result<Json> as_urls(const Json& addresses, const std::string& name) {
  Json urls = Json::array();
  for (const Json& address : addresses.items()) {
    WEFT_TRY(std::string url, as_url(address.as_string(), name + std::to_string(urls.items().size() + 1)));
    urls.push_back(std::move(url));
  }
  return urls;
}

Result<Json> videos_as_urls(const Json& videos) {
  Json all = Json::array();
  for (const Json& frames : videos.items()) {
    WEFT_TRY(Json urls, as_urls(frames, "video " + std::to_string(all.items().size() + 1) + ", frame "));
    all.push_back(std::move(urls));
  }
  return all;
}

// The part of a message, which has been checked, with URLs in the place of files. Counts the images and videos of all
// messages.
Result<Json> part_as_urls(Json part, int& images, int& videos) {
  const std::string& type = part.find("type")->as_string();
  if (type == "video") {
    const Json* frames = part.find("video");
    WEFT_TRY(Json urls, as_urls(*frames, "video " + std::to_string(++videos) + ", frame "));
    part.set("video", std::move(urls));
    return part;
  }
  if (type != "image_url" && type != "image" && type != "input_image") return part;
  const char* const member = part.find("image_url") ? "image_url" : "image";
  Json value = *part.find(member);
  const Json* address = value.is_object() ? value.find("url") : &value;
  WEFT_TRY(std::string url, as_url(address->as_string(), "image " + std::to_string(++images)));
  if (value.is_object()) value.set("url", std::move(url));
  else value = Json(std::move(url));
  part.set(member, std::move(value));
  return part;
}

Result<Json> messages_as_urls(const Json& messages) {
  Json all = messages;
  int images = 0, videos = 0;
  for (Json& message : all.items()) {
    const Json* content = message.find("content");
    if (!content || !content->is_array()) continue;
    Json parts = Json::array();
    for (const Json& part : content->items()) {
      WEFT_TRY(Json changed, part_as_urls(part, images, videos));
      parts.push_back(std::move(changed));
    }
    message.set("content", std::move(parts));
  }
  return all;
}

// A field's value as it goes to the server.
Result<Json> as_sent(std::string_view name, const Json& value) {
  if (name == "messages") return messages_as_urls(value);
  if (name == "images") return as_urls(value, "image ");
  if (name == "videos") return videos_as_urls(value);
  return value;
}

// What is asked for so that the answer has all that a line has.
void ask_for_details(const RequestLine& line, bool chat, Json& body) {
  body.set("return_token_ids", true);
  if (line.logprobs >= 0) {
    body.set("return_tokens_as_token_ids", true);
    body.set("logprobs", chat ? Json(true) : Json(line.logprobs));
    if (chat) body.set("top_logprobs", line.logprobs);
  }
  if (chat) {
    body.set("separate_reasoning", false);
    body.set("parse_tool_calls", false);
  }
  // Over HTTP it may not be above max_tokens; where it is, the length comes first anyway.
  const Request& request = *line.request;
  if (request.max_tokens && request.sampling.min_tokens > *request.max_tokens)
    body.set("min_tokens", *request.max_tokens);
}

// ---- answers: of any server, so that nothing is taken for granted

const Json::Array& list_in(const Json& json, std::string_view name) {
  static const Json::Array none;
  const Json* value = json.find(name);
  return value && value->is_array() ? value->items() : none;
}

std::string text_in(const Json& json, std::string_view name) {
  const Json* value = json.find(name);
  return value && value->is_string() ? value->as_string() : std::string();
}

int int_in(const Json& json, std::string_view name) {
  const Json* value = json.find(name);
  if (!value || !value->is_integer()) return 0;
  return static_cast<int>(std::clamp<int64_t>(value->as_integer(), 0, std::numeric_limits<int>::max()));
}

float float_of(const Json& value) {
  constexpr double kMost = std::numeric_limits<float>::max();
  if (!value.is_number() || std::abs(value.as_number()) > kMost) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(value.as_number());
}

// "token_id:17" and "17"; -1 for what is neither.
int32_t token_of(std::string_view text) {
  constexpr std::string_view kPrefix = "token_id:";
  if (text.starts_with(kPrefix)) text.remove_prefix(kPrefix.size());
  int32_t id = -1;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), id);
  return read.ec == std::errc() && read.ptr == text.data() + text.size() ? id : -1;
}

// content: [{"token", "logprob", "top_logprobs": [{"token", "logprob"}]}]
void add_chat_logprobs(const Json& logprobs, std::vector<TokenInfo>& tokens) {
  const Json::Array& content = list_in(logprobs, "content");
  tokens.resize(std::max(tokens.size(), content.size()), {-1, {}, 0, {}});
  for (size_t i = 0; i < content.size(); ++i) {
    if (tokens[i].token < 0) tokens[i].token = token_of(text_in(content[i], "token"));
    if (const Json* value = content[i].find("logprob"); value && value->is_number())
      tokens[i].logprob = float_of(*value);
    for (const Json& other : list_in(content[i], "top_logprobs"))
      if (const Json* value = other.find("logprob"))
        tokens[i].top.push_back({token_of(text_in(other, "token")), float_of(*value)});
  }
}

// {"tokens", "token_logprobs", "top_logprobs": [{TOKEN: logprob}]}. The last has the token itself as well: behind the
// `count` others that were asked for, where it is not among them.
void add_completion_logprobs(const Json& logprobs, int count, std::vector<TokenInfo>& tokens) {
  const Json::Array &texts = list_in(logprobs, "tokens"), &values = list_in(logprobs, "token_logprobs"),
                    &tops = list_in(logprobs, "top_logprobs");
  tokens.resize(std::max(tokens.size(), texts.size()), {-1, {}, 0, {}});
  for (size_t i = 0; i < texts.size(); ++i) {
    if (tokens[i].token < 0 && texts[i].is_string()) tokens[i].token = token_of(texts[i].as_string());
    if (i < values.size() && values[i].is_number()) tokens[i].logprob = float_of(values[i]);
    if (i >= tops.size() || !tops[i].is_object()) continue;
    for (const auto& [token, value] : tops[i].members())
      if (tokens[i].top.size() < static_cast<size_t>(count))
        tokens[i].top.push_back({token_of(token), float_of(value)});
  }
}

// [null, {ID: {"logprob", "rank"}, ...}]: the token of the prompt first, then those of the first `count` ranks; their
// ranks put it in its place among them.
std::vector<TokenInfo> prompt_of(const Json::Array& entries, int count) {
  std::vector<TokenInfo> prompt;
  for (const Json& entry : entries) {
    TokenInfo& token = prompt.emplace_back();
    if (!entry.is_object() || entry.members().empty()) continue;
    for (const auto& [id, value] : entry.members()) {
      const Json* logprob = value.find("logprob");
      if (!logprob) continue;
      const TokenLogprob one{token_of(id), float_of(*logprob), int_in(value, "rank")};
      if (!token.logprob) token.token = one.token, token.logprob = one.logprob, token.rank = one.rank;
      if (one.rank >= 1 && one.rank <= count) token.top.push_back(one);
    }
    std::ranges::stable_sort(token.top, {}, &TokenLogprob::rank);
  }
  return prompt;
}

// All rows of an answer must be of one length, `cols`, which the first one gives; else `cols` becomes kRagged.
constexpr size_t kRagged = std::numeric_limits<size_t>::max();
std::vector<float> logits_of(const Json::Array& rows, size_t& cols) {
  std::vector<float> values;
  for (const Json& row : rows) {
    const size_t count = row.is_array() ? row.items().size() : 0;
    if (cols == 0) cols = count;
    if (count == 0 || count != cols) return cols = kRagged, std::vector<float>();
    values.reserve(rows.size() * cols);
    for (const Json& value : row.items()) values.push_back(float_of(value));
  }
  return values;
}

BatchChoice choice_of(const RequestLine& line, const Json& json, size_t& vocab) {
  BatchChoice choice;
  const Json* message = json.find("message");
  choice.text = message ? text_in(*message, "content") : text_in(json, "text");
  choice.finish_reason = text_in(json, "finish_reason");
  if (const Json* reason = json.find("stop_reason")) choice.stop_reason = *reason;
  for (const Json& id : list_in(json, "token_ids"))
    choice.tokens.push_back({id.is_integer() ? static_cast<int32_t>(id.as_integer()) : -1, {}, 0, {}});
  if (const Json* logprobs = json.find("logprobs"); logprobs && line.logprobs >= 0) {
    if (message) add_chat_logprobs(*logprobs, choice.tokens);
    else add_completion_logprobs(*logprobs, line.logprobs, choice.tokens);
  }
  choice.logits = logits_of(list_in(json, "generation_logits"), vocab);
  return choice;
}

void add_usage(const Json& json, BatchOutcome& outcome) {
  if (const Json* usage = json.find("usage")) {
    const Json* details = usage->find("prompt_tokens_details");
    outcome.usage.prompt_tokens = int_in(*usage, "prompt_tokens");
    outcome.usage.completion_tokens = int_in(*usage, "completion_tokens");
    outcome.usage.cached_tokens = details ? int_in(*details, "cached_tokens") : 0;
    outcome.usage.draft_tokens = int_in(*usage, "draft_tokens");
    outcome.usage.accepted_tokens = int_in(*usage, "accepted_tokens");
  }
  for (const Json& warning : list_in(json, "warnings"))
    if (warning.is_string()) outcome.warnings.push_back(warning.as_string());
}

// What belongs to the prompt stands in the first choice, or beside the choices.
void add_prompt(const RequestLine& line, const Json& json, const Json& first, BatchOutcome& outcome) {
  const Json::Array& chat = list_in(json, "prompt_logprobs");
  const Json::Array& entries = chat.empty() ? list_in(first, "prompt_logprobs") : chat;
  if (line.prompt_logprobs >= 0 && !entries.empty())
    outcome.prompt = std::make_shared<const std::vector<TokenInfo>>(prompt_of(entries, line.prompt_logprobs));
  if (const Json::Array& rows = list_in(first, "context_logits"); !rows.empty())
    outcome.prompt_logits = std::make_shared<const std::vector<float>>(logits_of(rows, outcome.vocab));
  if (const Json* seed = first.find("seed"); seed && seed->is_integer())
    outcome.seed = static_cast<uint64_t>(seed->as_integer());
}

const Code* code_named(std::string_view text) {
  static constexpr Code all[] = {Code::invalid_argument, Code::not_found,  Code::unsupported, Code::resource_exhausted,
                                 Code::data_corrupt,     Code::cancelled,  Code::internal,    Code::deadline_exceeded,
                                 Code::context_overflow, Code::unavailable};
  const auto found = std::ranges::find_if(all, [&](Code code) { return text == name(code); });
  return found == std::end(all) ? nullptr : found;
}

Code code_of_status(int status) {
  switch (status) {
    case 404: return Code::not_found;
    case 408:
    case 504: return Code::deadline_exceeded;
    case 413:
    case 429: return Code::resource_exhausted;
    case 502:
    case 503: return Code::unavailable;
    default: return status >= 400 && status < 500 ? Code::invalid_argument : Code::internal;
  }
}

// {"message", "code", ...}; null if the reply is none of weft's or OpenAI's.
Json error_member(const HttpReply& reply) {
  const auto json = parse_json(reply.body);
  const Json* error = json.ok() ? json->find("error") : nullptr;
  return error ? *error : Json();
}

}  // namespace

Result<LineCall> call_of(const RequestLine& line) {
  const bool chat = line.request->messages.has_value();
  Json body = Json::object();
  for (const auto& [name, value] : line.json.members()) {
    if (value.is_null() || line.json.find(name) != &value) continue;  // of several, the last one counts
    if (!is_batch_field(name) || std::ranges::find(kOfTheFile, name) != kOfTheFile.end()) continue;
    WEFT_TRY(Json sent, as_sent(name, value));
    body.set(name == "prompt_token_ids" ? "prompt" : name, std::move(sent));
  }
  ask_for_details(line, chat, body);
  return LineCall{chat ? "/v1/chat/completions" : "/v1/completions", body.dump()};
}

BatchOutcome outcome_of(const RequestLine& line, const HttpReply& reply, const std::string& where) {
  BatchOutcome outcome;
  const auto json = parse_json(reply.body);
  if (json.ok()) add_usage(*json, outcome);
  if (reply.status != 200) {
    outcome.error = error_of(reply, where);
    return outcome;
  }
  if (!json.ok() || list_in(*json, "choices").empty()) {
    outcome.error = fail(Code::internal, where, " gave an answer without choices",
                         json.ok() ? std::string() : ": it is " + json.error().message());
    return outcome;
  }
  const Json::Array& choices = list_in(*json, "choices");
  for (const Json& choice : choices) outcome.choices.push_back(choice_of(line, choice, outcome.vocab));
  add_prompt(line, *json, choices.front(), outcome);
  if (outcome.vocab == kRagged) outcome.error = fail(Code::internal, where, " gave logits whose rows differ in length");
  return outcome;
}

Error error_of(const HttpReply& reply, const std::string& where) {
  const Json error = error_member(reply);
  const std::string message = text_in(error, "message");
  if (const Code* code = code_named(text_in(error, "code"))) return {*code, message};
  return fail(code_of_status(reply.status), where, " answered with status ", reply.status,
              message.empty() ? "" : ": " + message);
}

bool is_final(const HttpReply& reply) {
  const Code* code = code_named(text_in(error_member(reply), "code"));
  return code && *code != Code::resource_exhausted;
}

}  // namespace weft
