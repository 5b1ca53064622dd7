// Bodies of requests and lines of batch files, of all kinds: what is taken keeps to the limits of the rules, and every
// error names its field. Whatever the request, the order of kinds makes no difference.
#include "api/request_json.h"
#include "target.h"

using namespace weft;

namespace {

RequestRules rules(unsigned how) {
  RequestRules rules;
  rules.images = how & 1, rules.local_files = how & 2, rules.chat_template = how & 4;
  const auto forms = tool_forms();
  rules.tool_form = &forms[how / 8 % forms.size()]();
  rules.limits.choices = 8, rules.limits.prompts = 16;
  rules.encode = [](const std::string& text) -> Result<std::vector<int32_t>> {
    return std::vector<int32_t>(text.begin(), text.end());
  };
  rules.ignored = [](const std::string&) {};
  return rules;
}

void check(const ClientRequest& read, const RequestRules& rules) {
  require(!read.requests.empty() && read.requests.size() <= static_cast<size_t>(rules.limits.prompts),
          "a body has a prompt, and not too many");
  for (const Request& one : read.requests) {
    require(one.prompt.has_value() + one.prompt_token_ids.has_value() + one.messages.has_value() == 1,
            "a request has exactly one prompt");
    require(one.n >= 1 && one.n <= rules.limits.choices && one.best_of <= rules.limits.choices,
            "choices are within limits");
    require(one.best_of == 0 || one.best_of >= one.n, "of the best, not more than there are");
    require(one.priority >= 0 && one.priority <= 100, "a priority is in its range");
    require(rules.images || (one.images.empty() && one.videos.empty()), "no images for a model that takes none");
    require(rules.chat_template || !one.chat_template, "no template unless the operator allows it");
    require(one.guide.kind == GuideSpec::Kind::choice || one.guide.choices.empty(), "choices belong to their kind");
    require(!one.messages || (one.messages->is_array() && !one.messages->items().empty()), "messages are a list");
  }
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      R"( {"messages":[{"role":"system","content":"S"},{"role":"user","content":[{"type":"text","text":"Hi"},)"
      R"({"type":"image_url","image_url":{"url":"data:image/png;base64,aGk="}}]},{"role":"assistant","content":null,)"
      R"("tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},)"
      R"({"role":"tool","tool_call_id":"c1","content":"42"}],"tools":[{"type":"function","function":{"name":"f",)"
      R"("description":"d","strict":true,"parameters":{"type":"object","properties":{"a":{"type":"integer"}},)"
      R"("required":["a"],"additionalProperties":false}}}],"tool_choice":"auto","parallel_tool_calls":false,)"
      R"("max_completion_tokens":5,"temperature":0.5,"stream":true,"stream_options":{"include_usage":true}})",
      R"( {"prompt":["a","b"],"max_tokens":3,"n":2,"best_of":3,"logprobs":5,"echo":true,"stop":["x","\n"],)"
      R"("logit_bias":{"5":-100,"7":1.5},"seed":1,"top_p":0.9,"top_k":5,"min_p":0.1,"presence_penalty":0.1,)"
      R"("frequency_penalty":-0.1,"repetition_penalty":1.1,"bad_words":["no"],"stop_token_ids":[1,2],)"
      R"("min_tokens":1,"ignore_eos":true,"prompt_logprobs":1,"cache_salt":"s","priority":50,"user":"u"})",
      R"( {"prompt_token_ids":[1,2,3],"use_beam_search":true,"beam_width":3,"length_penalty":0.5,)"
      R"("early_stopping":"never","custom_id":"a","return_generation_logits":true,"return_context_logits":true})",
      R"( {"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":)"
      R"({"name":"n","strict":true,"schema":{"type":"object"}}},"chat_template_kwargs":{"enable_thinking":false},)"
      R"("continue_final_message":true,"add_generation_prompt":false,"chat_template":"{{ messages }}"})",
      R"( {"prompt":[[1,2],[3]],"guided_regex":"a+","guided_choice":null,"structured_outputs":{"regex":"b"},)"
      R"("logits_processors":[{"name":"ban_tokens","params":{"tokens":[1]}}]})",
      R"( {"prompt":[1,2,3],"guided_choice":["a","b"],"model":"m","stream_options":null,"suffix":"z"})",
      R"( {"text":"a","text_pair":"b","token_type_ids":[0,1],"input_ids":[5]})",
  };
}
std::vector<std::string> fuzz_words() {
  return {"\"tools\":[",
          "\"tool_choice\":\"required\"",
          "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}",
          "\"content\":[",
          "\"type\":\"video\"",
          "\"type\":\"input_audio\"",
          "\"image\":\"/etc/passwd\"",
          "\"n\":129",
          "\"best_of\":",
          "\"stop\":",
          "\"logit_bias\":",
          "\"max_tokens\":-1",
          "\"prompt\":",
          "\"messages\":",
          "\"response_format\":{\"type\":\"structural_tag\"",
          "\"guided_json\":",
          "\"guided_grammar\":",
          "null",
          "[]",
          "{}",
          "1e308",
          "\"role\":\"developer\"",
          "\"name\":",
          "\"logprobs\":true,\"top_logprobs\":20",
          "\"seed\":-1",
          "\"functions\":[",
          "\"reasoning_content\":\"r\"",
          "\"include_reasoning\":false"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text = copy_of(data, size);
  const unsigned how = take_choice(text, 256);
  const auto body = parse_json(text);
  if (!body.ok()) return 0;
  const RequestRules given = rules(how);
  for (const RequestKind kind :
       {RequestKind::chat, RequestKind::completion, RequestKind::batch_line, RequestKind::score_line}) {
    const auto read = parse_request(*body, kind, given);
    if (read.ok()) check(*read, given);
    else require_message(read.error());
  }
  return 0;
}
