// The request parser against tables of fields: what is accepted and where it ends up, and what is refused, with which
// field named. Expected values follow OpenAI's API reference and the bad-input corpus' http-json cases.
#include "api/request_json.h"

#include <gtest/gtest.h>

#include "sampling/parameters.h"

namespace weft {
namespace {

Result<ClientRequest> parse(std::string_view text, RequestKind kind, RequestRules rules = {}) {
  auto json = parse_json(text);
  if (!json.ok()) return std::move(json).error();
  return parse_request(*json, kind, rules);
}

// A chat or completion with further members, e.g. chat(R"("temperature": 0.5)").
Result<ClientRequest> chat(const std::string& members, RequestRules rules = {}) {
  return parse(R"({"model": "tiny", "messages": [{"role": "user", "content": "hi"}])" +
                   (members.empty() ? "" : ", " + members) + "}",
               RequestKind::chat, std::move(rules));
}
Result<ClientRequest> completion(const std::string& members, RequestRules rules = {}) {
  return parse(R"({"model": "tiny", "prompt": "hi")" + (members.empty() ? "" : ", " + members) + "}",
               RequestKind::completion, std::move(rules));
}
Result<ClientRequest> line(const std::string& members, RequestRules rules = {}) {
  return parse("{" + members + "}", RequestKind::batch_line, std::move(rules));
}

struct Refused {
  const char* members;
  const char* param;
};

void expect_refused(const Result<ClientRequest>& result, const Refused& row) {
  ASSERT_FALSE(result.ok()) << row.members;
  EXPECT_EQ(result.error().param(), row.param) << row.members << ": " << result.error().message();
  const std::string field = std::string(row.param).substr(0, std::string(row.param).find_first_of(".["));
  EXPECT_NE(result.error().message().find(field), std::string::npos) << result.error().message();
  EXPECT_LT(result.error().message().size(), 400u);
}

TEST(RequestJson, Defaults) {
  RequestRules rules;
  rules.defaults.temperature = 0.6f;
  rules.defaults.top_p = 0.95f;
  const auto result = chat("", rules);
  ASSERT_TRUE(result.ok()) << result.error().message();
  const Request& request = result->requests.at(0);
  EXPECT_EQ(request.sampling.temperature, 0.6f);
  EXPECT_EQ(request.sampling.top_p, 0.95f);
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_FALSE(request.seed.has_value());
  EXPECT_EQ(request.sampling.logprobs, -1);
  EXPECT_EQ(result->model, "tiny");
  EXPECT_EQ(completion("")->requests.at(0).max_tokens, 16);
}

TEST(RequestJson, LogitsProcessors) {
  const auto result = chat(R"("logits_processors": [{"name": "a", "params": {"x": [1, "y"]}}, "b", {"name": "c"}])");
  ASSERT_TRUE(result.ok()) << result.error().message();
  const std::vector<ProcessorChoice>& chosen = result->requests[0].sampling.logits_processors;
  ASSERT_EQ(chosen.size(), 3u);
  EXPECT_EQ(chosen[0].name, "a");
  EXPECT_EQ(chosen[0].params, R"({"x":[1,"y"]})");
  EXPECT_EQ(chosen[1].name, "b");
  EXPECT_EQ(chosen[1].params, "null");
  EXPECT_EQ(chosen[2].name, "c");
}

TEST(RequestJson, BeamSearch) {
  RequestRules rules;  // the model's defaults about sampling are void
  rules.defaults.temperature = 0.6f, rules.defaults.top_p = 0.9f, rules.defaults.top_k = 20;
  auto result = completion(
      R"("use_beam_search": true, "beam_width": 4, "n": 2, "length_penalty": 0.5, "early_stopping": "never")", rules);
  ASSERT_TRUE(result.ok()) << result.error().message();
  const Request& request = result->requests[0];
  ASSERT_TRUE(request.beams.has_value());
  EXPECT_EQ(request.beams->width, 4);
  EXPECT_EQ(request.n, 2);
  EXPECT_EQ(request.beams->length_penalty, 0.5f);
  EXPECT_EQ(request.beams->early_stopping, EarlyStopping::never);
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_EQ(request.sampling.top_k, 0);
  // Without a width of its own it is best_of or n, as other engines have it.
  result =
      completion(R"("use_beam_search": true, "best_of": 5, "n": 2, "early_stopping": true, "temperature": 0.5)", rules);
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->requests[0].beams->width, 5);
  EXPECT_EQ(result->requests[0].best_of, 0);
  EXPECT_EQ(result->requests[0].beams->early_stopping, EarlyStopping::yes);
  EXPECT_EQ(result->requests[0].sampling.temperature, 0.5f);  // the engine refuses what the client said
  result =
      completion(R"("use_beam_search": false, "length_penalty": 1.0, "early_stopping": false, "diversity_penalty": 0)");
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_FALSE(result->requests[0].beams.has_value());
}

TEST(RequestJson, ReturnedLogits) {
  const auto result = chat(R"("return_context_logits": true, "return_generation_logits": true)");
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_TRUE(result->requests[0].sampling.context_logits && result->requests[0].sampling.generation_logits);
}

// Under weft's name and llama.cpp's.
TEST(RequestJson, DraftTokens) {
  const auto drafts = [](const std::string& members) { return chat(members)->requests[0].sampling.max_draft_tokens; };
  EXPECT_EQ(drafts(""), -1);
  EXPECT_EQ(drafts(R"("max_draft_tokens": 0)"), 0);
  EXPECT_EQ(drafts(R"("max_draft_tokens": 3)"), 3);
  EXPECT_EQ(drafts(R"("speculative.n_max": 2)"), 2);
  const auto wrong = chat(R"("max_draft_tokens": "none")");
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().param(), "max_draft_tokens");
}

TEST(RequestJson, SamplingFields) {
  const auto result = chat(R"("temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5,
    "presence_penalty": -1, "frequency_penalty": 2, "seed": -1, "n": 3, "stop": ["a", "b"], "stop_token_ids": [4, 5],
    "ignore_eos": true, "min_tokens": 2, "max_completion_tokens": 9, "logit_bias": {"5": -100, "17": 2.5, "5": 1},
    "allowed_token_ids": [1], "bad_token_ids": [8], "cache_salt": "s", "lora": "law", "priority": 50, "timeout": 2.5,
    "skip_special_tokens": false,
    "include_stop_str_in_output": true, "no_repeat_ngram_size": 3, "user": "u", "stream": null, "chat_template_kwargs": {"x": 1},
    "reasoning_effort": "low")");
  ASSERT_TRUE(result.ok()) << result.error().message();
  const Request& request = result->requests.at(0);
  const SamplingParams& sampling = request.sampling;
  EXPECT_EQ(sampling.temperature, 0.25f);
  EXPECT_EQ(sampling.top_p, 0.5f);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_EQ(sampling.min_p, 0.125f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.presence_penalty, -1.0f);
  EXPECT_EQ(sampling.frequency_penalty, 2.0f);
  EXPECT_EQ(request.seed, ~uint64_t{0});
  EXPECT_EQ(request.n, 3);
  EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(sampling.stop_token_ids, (std::vector<int32_t>{4, 5}));
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_EQ(sampling.min_tokens, 2);
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{5, 1.0f}, {17, 2.5f}}));
  EXPECT_EQ(sampling.allowed_token_ids, std::vector<int32_t>{1});
  EXPECT_EQ(sampling.bad_words, (std::vector<std::vector<int32_t>>{{8}}));
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_EQ(request.lora, "law");
  EXPECT_EQ(request.priority, 50);
  EXPECT_EQ(request.timeout_s, 2.5);
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_TRUE(request.include_stop_str_in_output);
  EXPECT_EQ(sampling.no_repeat_ngram_size, 3);
  EXPECT_FALSE(result->stream);
  EXPECT_EQ(request.chat_template_kwargs.dump(), R"({"x":1,"reasoning_effort":"low"})");
}

// Every number of sampling, in every kind of request.
TEST(RequestJson, AdaptersMayBeAskedForAsTheModel) {
  RequestRules rules;
  rules.is_adapter = [](const std::string& name) { return name == "tiny" || name == "other"; };
  EXPECT_EQ(chat("", rules)->requests.at(0).lora, "tiny");
  EXPECT_EQ(chat(R"("lora": "tiny")", rules)->requests.at(0).lora, "tiny");
  EXPECT_EQ(chat("")->requests.at(0).lora, "");
  EXPECT_EQ(chat(R"("lora": "law")")->requests.at(0).lora, "law");  // whether there is one is for the engine to say
  const auto two = chat(R"("lora": "other")", rules);
  ASSERT_FALSE(two.ok());
  EXPECT_EQ(two.error().param(), "lora");
}

TEST(RequestJson, SamplingNumbers) {
  for (const SamplingParameter& parameter : sampling_parameters())
    for (const auto& result :
         {chat("\"" + std::string(parameter.name) + "\": 4"), completion("\"" + std::string(parameter.name) + "\": 4"),
          line("\"prompt\": \"hi\", \"" + std::string(parameter.name) + "\": 4")}) {
      ASSERT_TRUE(result.ok()) << parameter.name << ": " << result.error().message();
      EXPECT_EQ(value_of(parameter, result->requests[0].sampling), 4) << parameter.name;
    }
  for (const SamplingParameter& parameter : sampling_parameters()) {
    const std::string member = "\"" + std::string(parameter.name) + "\": \"4\"";
    expect_refused(chat(member), {member.c_str(), parameter.name});
  }
}

TEST(RequestJson, NumbersAtTheEdges) {
  EXPECT_EQ(chat(R"("max_tokens": 1e1)")->requests[0].max_tokens, 10);
  EXPECT_EQ(chat(R"("max_tokens": 2147483648)")->requests[0].max_tokens, 2147483647);
  EXPECT_GT(chat(R"("top_p": 1e-300)")->requests[0].sampling.top_p, 0.0f);
  EXPECT_EQ(chat(R"("temperature": 1e-300)")->requests[0].sampling.temperature, 0.0f);
  EXPECT_EQ(chat(R"("temperature": 9e-6)")->requests[0].sampling.temperature, 0.0f);
  EXPECT_EQ(chat(R"("temperature": 2e-5)")->requests[0].sampling.temperature, 2e-5f);
  EXPECT_EQ(chat(R"("top_k": -1)")->requests[0].sampling.top_k, 0);
  EXPECT_EQ(chat(R"("top_k": 1000000)")->requests[0].sampling.top_k, 1000000);
  EXPECT_EQ(chat(R"("seed": 9223372036854775807)")->requests[0].seed, 9223372036854775807u);
  EXPECT_EQ(chat(R"("max_tokens": 3, "max_tokens": 5)")->requests[0].max_tokens, 5);
}

TEST(RequestJson, RefusedChatFields) {
  for (
      const Refused& row : std::initializer_list<Refused>{
          {R"("max_tokens": -1)", "max_tokens"},
          {R"("max_tokens": 0)", "max_tokens"},
          {R"("max_tokens": "4")", "max_tokens"},
          {R"("max_tokens": 1.5)", "max_tokens"},
          {R"("temperature": "hot")", "temperature"},
          {R"("temperature": 1e308)", "temperature"},
          {R"("temperature": true)", "temperature"},
          {R"("top_k": -2)", "top_k"},
          {R"("n": 1000000)", "n"},
          {R"("n": 0)", "n"},
          {R"("stop": "")", "stop"},
          {R"("stop": [1])", "stop"},
          {R"("stop": {})", "stop"},
          {R"("logit_bias": {"abc": 1})", "logit_bias"},
          {R"("logit_bias": {"-4": 1})", "logit_bias"},
          {R"("logit_bias": [[1, 2]])", "logit_bias"},
          {R"("logit_bias": {"5": "x"})", "logit_bias[5]"},
          {R"("logprobs": true, "top_logprobs": -1)", "top_logprobs"},
          {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
          {R"("top_logprobs": 2)", "top_logprobs"},
          {R"("logprobs": 3)", "logprobs"},
          {R"("seed": 9223372036854775808)", "seed"},
          {R"("seed": 1.5)", "seed"},
          {R"("min_tokens": 5, "max_tokens": 4)", "min_tokens"},
          {R"("min_tokens": -1)", "min_tokens"},
          {R"("stop_token_ids": [-1])", "stop_token_ids"},
          {R"("stop_token_ids": 3)", "stop_token_ids"},
          {R"("stream": 1)", "stream"},
          {R"("stream": "true")", "stream"},
          {R"("stream_options": {"include_usage": true})", "stream_options"},
          {R"("stream_options": {"include_usage": null})", "stream_options"},
          {R"("stream": false, "stream_options": {})", "stream_options"},
          {R"("cache_salt": "")", "cache_salt"},
          {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
          {R"("priority": "x")", "priority"},
          {R"("timeout": 0)", "timeout"},
          {R"("timeout": "1")", "timeout"},
          {R"("priority": 1099511627776)", "priority"},
          {R"("response_format": "json")", "response_format"},
          {R"("response_format": {"type": "xml"})", "response_format.type"},
          {R"("response_format": {})", "response_format.type"},
          {R"("response_format": {"type": "json_schema"})", "response_format.schema"},
          {R"("response_format": {"type": "json_schema", "json_schema": {"name": "n"}})",
           "response_format.json_schema.schema"},
          {R"("response_format": {"type": "json_object"}, "guided_regex": "a+")", "guided_regex"},
          {R"("guided_choice": [])", "guided_choice"},
          {R"("guided_choice": ["", ""])", "guided_choice"},
          {R"("guided_choice": [1])", "guided_choice"},
          {R"("guided_json": "{")", "guided_json"},
          {R"("guided_regex": 5)", "guided_regex"},
          {R"("tools": "x")", "tools"},
          {R"("tools": [{}])", "tools[0].type"},
          {R"("tools": [{"type": "function", "function": {}}])", "tools[0].function.name"},
          {R"("tools": [{"type": "function", "function": {"name": "a\"b"}}])", "tools[0].function.name"},
          {R"("tools": [{"type": "function", "function": {"name": "a b"}}])", "tools[0].function.name"},
          {R"("tool_choice": "required")", "tool_choice"},
          {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "maybe")", "tool_choice"},
          {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": "zz"}})",
           "tool_choice"},
          {R"("chat_template": "{{ 7*7 }}")", "chat_template"},
          {R"("use_beam_search": 1)", "use_beam_search"},
          {R"("beam_width": 3)", "beam_width"},
          {R"("length_penalty": 0.5)", "length_penalty"},
          {R"("early_stopping": "never")", "early_stopping"},
          {R"("use_beam_search": true, "early_stopping": "always")", "early_stopping"},
          {R"("use_beam_search": true, "beam_width": 0)", "beam_width"},
          {R"("use_beam_search": true, "beam_width": 1e6)", "beam_width"},
          {R"("use_beam_search": true, "diversity_penalty": 0.5)", "diversity_penalty"},
          {R"("logits_processors": {"name": "a"})", "logits_processors"},
          {R"("logits_processors": [{"params": {}}])", "logits_processors[0]"},
          {R"("logits_processors": ["a", {"name": 3}])", "logits_processors[1]"},
          {R"("logits_processors": [{"name": "a", "parameters": {}}])", "logits_processors[0]"},
          {R"("return_context_logits": true, "stream": true)", "return_context_logits"},
          {R"("return_generation_logits": 1)", "return_generation_logits"},
          {R"("bad_words": ["x"])", "bad_words"},
          {R"("lora_request": {"name": "x"})", "lora_request"},
          {R"("model": 5)", "model"}})
    expect_refused(chat(row.members), row);
}

TEST(RequestJson, RefusedMessages) {
  for (const Refused& row : std::initializer_list<Refused>{
           {R"("messages": "hi")", "messages"},
           {R"("messages": [])", "messages"},
           {R"("messages": [5])", "messages[0]"},
           {R"("messages": [{"content": "a"}])", "messages[0].role"},
           {R"("messages": [{"role": 1, "content": "a"}])", "messages[0].role"},
           {R"("messages": [{"role": "user", "content": 5}])", "messages[0].content"},
           {R"("messages": [{"role": "user"}])", "messages[0].content"},
           {R"("messages": [{"role": "tool", "content": null}])", "messages[0].content"},
           {R"("messages": [{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content[0].text"},
           {R"("messages": [{"role": "user", "content": ["x"]}])", "messages[0].content[0]"},
           {R"("messages": [{"role": "user", "content": [{"type": "audio", "text": "x"}]}])",
            "messages[0].content[0].type"},
           {R"("messages": [{"role": "user", "content": [{"type": "video", "video": ["x"]}]}])",
            "messages[0].content[0]"},
           {R"("messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}])",
            "messages[0].content[0]"},
           {R"("messages": [{"role": "assistant", "content": null, "tool_calls": 5}])", "messages[0].tool_calls"},
           {R"("model": "tiny")", "messages"}})
    expect_refused(parse(std::string("{") + row.members + "}", RequestKind::chat), row);
}

TEST(RequestJson, Messages) {
  auto result = parse(
      R"({"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
    {"id": "2", "type": "function", "function": {"name": "f", "arguments": "{bad"}}]}]})",
      RequestKind::chat);
  ASSERT_TRUE(result.ok()) << result.error().message();
  const Json& messages = *result->requests[0].messages;
  EXPECT_EQ(messages.items()[0].find("content")->dump(), R"([{"type":"text","text":"a"},{"type":"text","text":"b"}])");
  EXPECT_TRUE(messages.items()[1].find("content")->is_null());
  const Json& calls = *messages.items()[1].find("tool_calls");
  EXPECT_EQ(calls.items()[0].find("function")->find("arguments")->as_string(), R"({"x": 1})");
  EXPECT_EQ(calls.items()[1].find("function")->find("arguments")->as_string(), "{bad");

  RequestRules rules;
  rules.images = true;
  result = parse(
      R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, {"type": "text", "text": "?"}]}]})",
      RequestKind::chat, rules);
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->requests[0].images, std::vector<std::string>{"data:image/png;base64,AA"});
  EXPECT_EQ(result->requests[0].messages->items()[0].find("content")->dump(),
            R"([{"type":"image"},{"type":"text","text":"?"}])");
}

// As OpenAI's SDKs send answers back: null is absent, and a refusal is what the assistant said.
TEST(RequestJson, AnswersSentBack) {
  const auto result = parse(
      R"({"messages": [{"role": "user", "content": "x", "name": null},
    {"role": "assistant", "content": "y", "refusal": null, "audio": null, "tool_calls": null},
    {"role": "assistant", "content": "y", "tool_calls": []},
    {"role": "assistant", "content": null, "refusal": "No."},
    {"role": "assistant", "content": null, "reasoning_content": "Hm."},
    {"role": "assistant", "content": null},
    {"role": "assistant", "tool_calls": [{"id": null, "function": {"name": "f", "arguments": null}}]}]})",
      RequestKind::chat);
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(
      result->requests[0].messages->dump(),
      R"([{"role":"user","content":"x"},{"role":"assistant","content":"y"},{"role":"assistant","content":"y"},)"
      R"({"role":"assistant","refusal":"No.","content":"No."},)"
      R"({"role":"assistant","reasoning_content":"Hm.","content":null},{"role":"assistant","content":null},)"
      R"({"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":""},"type":"function"}],"content":null}])");
}

TEST(RequestJson, CompletionPrompts) {
  EXPECT_EQ(completion("")->requests[0].prompt, "hi");
  const auto ids = parse(R"({"prompt": [1, 2, 3]})", RequestKind::completion);
  EXPECT_EQ(ids->requests.at(0).prompt_token_ids, (std::vector<int32_t>{1, 2, 3}));
  const auto many = parse(R"({"prompt": [[1, 2], [3]], "max_tokens": 4})", RequestKind::completion);
  ASSERT_EQ(many->requests.size(), 2u);
  EXPECT_EQ(many->requests[1].prompt_token_ids, std::vector<int32_t>{3});
  EXPECT_EQ(many->requests[1].max_tokens, 4);
  const auto texts = parse(R"({"prompt": ["a", "b"]})", RequestKind::completion);
  EXPECT_EQ(texts->requests.at(1).prompt, "b");
  for (const char* prompt :
       {"[]", "[1, \"a\"]", "[[\"a\"]]", "[-1]", "[[]]", "5", "{}", "[\"a\", 1]", "[1.5]", "[4294967296]"}) {
    const auto result = parse(R"({"prompt": )" + std::string(prompt) + "}", RequestKind::completion);
    ASSERT_FALSE(result.ok()) << prompt;
    EXPECT_EQ(result.error().param().substr(0, 6), "prompt") << prompt;
  }
}

TEST(RequestJson, RefusedCompletionFields) {
  for (const Refused& row :
       std::initializer_list<Refused>{{R"("n": 2, "best_of": 1)", "best_of"},
                                      {R"("best_of": 2, "stream": true)", "best_of"},
                                      {R"("logprobs": 1000000, "echo": true)", "logprobs"},
                                      {R"("logprobs": true)", "logprobs"},
                                      {R"("max_tokens": 0)", "max_tokens"},
                                      {R"("suffix": "x")", "suffix"},
                                      {R"("echo": "yes")", "echo"},
                                      {R"("prompt_token_ids": [1])", "prompt"},
                                      {R"("stream": true, "prompt_logprobs": 1)", "prompt_logprobs"}})
    expect_refused(completion(row.members), row);
}

TEST(RequestJson, Logprobs) {
  EXPECT_EQ(chat(R"("logprobs": true)")->requests[0].sampling.logprobs, 0);
  EXPECT_EQ(chat(R"("logprobs": true, "top_logprobs": 4)")->requests[0].sampling.logprobs, 4);
  EXPECT_EQ(chat(R"("logprobs": false, "top_logprobs": 0)")->requests[0].sampling.logprobs, -1);
  const auto echo = completion(R"("logprobs": 6, "echo": true, "max_tokens": 0)");
  ASSERT_TRUE(echo.ok());
  EXPECT_EQ(echo->requests[0].sampling.prompt_logprobs, 6);
  EXPECT_EQ(echo->requests[0].max_tokens, 1);
  EXPECT_TRUE(echo->no_output);
  EXPECT_EQ(echo->prompt_logprobs, -1);
  EXPECT_EQ(
      line(R"("custom_id": "a", "prompt": "x", "logprobs": 5, "prompt_logprobs": 1)")->requests[0].sampling.logprobs,
      5);
  EXPECT_EQ(line(R"("prompt": "x", "logprobs": true, "top_logprobs": 3)")->requests[0].sampling.logprobs, 3);
}

TEST(RequestJson, Guides) {
  struct Row {
    const char* members;
    GuideSpec::Kind kind;
    const char* text;
  };
  using Kind = GuideSpec::Kind;
  for (
      const Row& row : std::initializer_list<Row>{
          {R"("response_format": {"type": "text"})", Kind::none, ""},
          {R"("response_format": {"type": "json_object"})", Kind::json_object, ""},
          {R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}})",
           Kind::json_schema, R"({"type":"object"})"},
          {R"("response_format": {"type": "json_schema", "schema": {"a": 1}})", Kind::json_schema, R"({"a":1})"},
          {R"("response_format": {"type": "json", "schema": {"a": 1}})", Kind::json_schema, R"({"a":1})"},
          {R"("response_format": {"type": "regex", "regex": "a+"})", Kind::regex, "a+"},
          {R"("response_format": {"type": "regex", "pattern": "a+"})", Kind::regex, "a+"},
          {R"("response_format": {"type": "ebnf", "ebnf": "root ::= x"})", Kind::grammar, "root ::= x"},
          {R"("response_format": {"type": "structural_tag", "triggers": []})", Kind::structural_tag,
           R"({"type":"structural_tag","triggers":[]})"},
          {R"("guided_json": "{\"a\": 1}")", Kind::json_schema, R"({"a":1})"},
          {R"("guided_json": {"a": 1})", Kind::json_schema, R"({"a":1})"},
          {R"("guided_regex": "b")", Kind::regex, "b"},
          {R"("guided_grammar": "g")", Kind::grammar, "g"},
          {R"("regex": "c")", Kind::regex, "c"},
          {R"("ebnf": "d")", Kind::grammar, "d"},
          {R"("json_schema": "{}")", Kind::json_schema, "{}"},
          {R"("structured_outputs": {"regex": "e"})", Kind::regex, "e"},
          {R"("structured_outputs": {"json_object": true})", Kind::json_object, ""},
          {R"("structured_outputs": {"json": {"b": 2}})", Kind::json_schema, R"({"b":2})"}}) {
    const auto result = chat(row.members);
    ASSERT_TRUE(result.ok()) << row.members << result.error().message();
    EXPECT_EQ(result->requests[0].guide.kind, row.kind) << row.members;
    EXPECT_EQ(result->requests[0].guide.text, row.text) << row.members;
  }
  EXPECT_EQ(chat(R"("guided_choice": ["yes", "no"])")->requests[0].guide.choices,
            (std::vector<std::string>{"yes", "no"}));
}

// What a line of `weft batch` has, calls have as well, so that a server can answer it.
TEST(RequestJson, CallsTakeWhatLinesTake) {
  RequestRules rules;
  rules.images = true;
  const auto parsed = [&](const std::string& text, RequestKind kind) {
    auto result = parse_request(parse_json(text).value(), kind, rules);
    EXPECT_TRUE(result.ok()) << result.error().message();
    return std::move(result).value();
  };
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required", "images": ["data:,"])";
  const ClientRequest completion = parsed(R"({"prompt": "x", )" + tools + "}", RequestKind::completion);
  EXPECT_EQ(completion.requests[0].images, std::vector<std::string>{"data:,"});
  EXPECT_FALSE(completion.requests[0].local_files);
  EXPECT_EQ(completion.requests[0].guide.kind, GuideSpec::Kind::json_schema);
  EXPECT_EQ(completion.tool_mode, ToolMode::none) << "there are no messages for calls";
  const std::string talk = R"({"messages": [{"role": "user", "content": "x"}], "best_of": 3, )";
  EXPECT_EQ(parsed(talk + tools + "}", RequestKind::chat).tool_mode, ToolMode::any);
  const ClientRequest whole = parsed(talk + R"("parse_tool_calls": false, )" + tools + "}", RequestKind::chat);
  EXPECT_EQ(whole.tool_mode, ToolMode::none);
  EXPECT_EQ(whole.requests[0].guide.kind, GuideSpec::Kind::json_schema) << "only the answer's form is another";
  EXPECT_EQ(whole.requests[0].best_of, 3);
  for (const char* field : {"prompt", "top_p", "guided_regex", "images"}) EXPECT_TRUE(is_batch_field(field)) << field;
  for (const char* field : {"separate_reasoning", "audio", "no_such"}) EXPECT_FALSE(is_batch_field(field)) << field;
}

TEST(RequestJson, StrictTools) {
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object", "required": ["x"]}}},
                   {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "required": ["y"]}}}])";
  struct Form {
    const ToolForm* form;
    const char* triggers;
  };
  for (const Form& form :
       {Form{find_tool_form("hermes"), R"(["<tool_call>"])"}, Form{find_tool_form("mistral"), R"(["[TOOL_CALLS]"])"},
        Form{find_tool_form("deepseek_v3"), R"(["<｜tool▁calls▁begin｜>"])"},
        Form{find_tool_form("nemotron"), R"(["<TOOLCALL>","<toolcall>"])"}}) {
    RequestRules rules;
    rules.tool_form = form.form;
    const auto result = chat(tools, rules);
    ASSERT_TRUE(result.ok()) << result.error().message();
    EXPECT_EQ(result->tool_mode, ToolMode::automatic);
    const GuideSpec& guide = result->requests[0].guide;
    ASSERT_EQ(guide.kind, GuideSpec::Kind::structural_tag);
    const Json json = parse_json(guide.text).value();
    EXPECT_EQ(json.find("format")->find("type")->as_string(), "triggered_tags");
    EXPECT_EQ(json.find("format")->find("triggers")->dump(), form.triggers);
    // f's schema is enforced, g's is not.
    EXPECT_NE(guide.text.find(R"("required":["x"])"), std::string::npos);
    EXPECT_EQ(guide.text.find(R"("required":["y"])"), std::string::npos);
  }
  RequestRules rules;
  rules.tool_form = find_tool_form("qwen3_coder");
  const auto refused = chat(tools, rules);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().param(), "tools");
  EXPECT_TRUE(chat(tools + R"(, "tool_choice": "required")", rules).ok());
  EXPECT_TRUE(chat(tools + R"(, "tool_choice": "none")", rules).ok());
  // Then the answer is calls or an object of JSON.
  const auto both = chat(tools + R"(, "response_format": {"type": "json_object"})");
  ASSERT_TRUE(both.ok()) << both.error().message();
  EXPECT_EQ(both->requests[0].guide.kind, GuideSpec::Kind::structural_tag);
  EXPECT_EQ(chat(R"("tools": [{"type": "function", "function": {"name": "f", "strict": 1}}])").error().param(),
            "tools[0].function.strict");
}

TEST(RequestJson, Reasoning) {
  EXPECT_TRUE(chat("")->separate_reasoning);
  EXPECT_TRUE(chat("")->include_reasoning);
  EXPECT_FALSE(chat(R"("separate_reasoning": false)")->separate_reasoning);
  EXPECT_FALSE(chat(R"("include_reasoning": false)")->include_reasoning);
  EXPECT_FALSE(chat(R"("reasoning_format": "none")")->separate_reasoning);
  EXPECT_TRUE(chat(R"("reasoning_format": "deepseek")")->separate_reasoning);
  EXPECT_EQ(chat(R"("reasoning_format": "x")").error().param(), "reasoning_format");
}

TEST(RequestJson, Tools) {
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "$defs": {"d": {"type": "null"}}}}},
    {"type": "function", "function": {"name": "g"}}])";
  auto result = chat(tools);
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->tool_mode, ToolMode::automatic);
  EXPECT_TRUE(result->requests[0].tools.is_array());
  EXPECT_EQ(result->requests[0].guide.kind, GuideSpec::Kind::none);
  result = chat(tools + R"(, "tool_choice": "none")");
  EXPECT_EQ(result->tool_mode, ToolMode::none);
  EXPECT_TRUE(result->requests[0].tools.is_null());
  result = chat(tools + R"(, "tool_choice": {"type": "function", "function": {"name": "f"}})");
  EXPECT_EQ(result->tool_mode, ToolMode::named);
  EXPECT_EQ(result->requests[0].guide.text, R"({"type":"object","$defs":{"d":{"type":"null"}}})");
  result = chat(tools + R"(, "tool_choice": "required", "parallel_tool_calls": false)");
  EXPECT_EQ(result->tool_mode, ToolMode::any);
  const auto schema = parse_json(result->requests[0].guide.text);
  ASSERT_TRUE(schema.ok());
  EXPECT_EQ(schema->find("maxItems")->as_integer(), 1);
  EXPECT_EQ(schema->find("items")->find("anyOf")->items().size(), 2u);
  EXPECT_NE(schema->find("$defs"), nullptr);
}

TEST(RequestJson, Lines) {
  const auto result = line(R"("custom_id": "7", "prompt_token_ids": [1, 2], "n": 2, "regex": "a+")");
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(result->custom_id, "7");
  EXPECT_EQ(result->requests[0].guide.kind, GuideSpec::Kind::regex);
  EXPECT_FALSE(line(R"("custom_id": "7")").ok());
  EXPECT_FALSE(line(R"("prompt": "a", "prompt_token_ids": [1])").ok());
  EXPECT_FALSE(line(R"("prompt": "a", "images": ["x.png"])").ok());
  EXPECT_FALSE(line(R"("prompt": "a", "echo": true)").ok());
  const auto pair = parse(R"({"custom_id": "p", "prompt": "a", "text_pair": "b"})", RequestKind::score_line, {});
  EXPECT_EQ(pair->requests.at(0).text_pair, "b");
}

TEST(RequestJson, UnknownFieldsAndBadWords) {
  RequestRules rules;
  std::vector<std::string> ignored;
  rules.ignored = [&](const std::string& field) { ignored.push_back(field); };
  rules.encode = [](const std::string& text) -> Result<std::vector<int32_t>> {
    return std::vector<int32_t>(text.begin(), text.end());
  };
  const auto result = chat(R"("foo": {"a": [1]}, "metadata": {}, "bad_words": ["a"])", rules);
  ASSERT_TRUE(result.ok()) << result.error().message();
  EXPECT_EQ(ignored, (std::vector<std::string>{"foo", "metadata"}));
  EXPECT_EQ(result->requests[0].sampling.bad_words, (std::vector<std::vector<int32_t>>{{'a'}, {' ', 'a'}}));
  EXPECT_FALSE(parse_request(Json(5), RequestKind::chat, {}).ok());
}

}  // namespace
}  // namespace weft
