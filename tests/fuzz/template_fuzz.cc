// Chat templates: any source is an error or renders conversations within its limits, the same text each time; what its
// traits ask for is what adapt_conversation() makes.
#include "forms/answer_format.h"
#include "target.h"
#include "text/chat_template.h"
#include "text/conversation.h"

using namespace weft;

namespace {

constexpr ChatTemplateLimits kLimits{.steps = 20'000, .output_bytes = 1u << 18, .source_bytes = 1u << 20};

Json json(const char* text) {
  auto read = parse_json(text);
  require(read.ok(), "the conversations of this file are JSON");
  return *std::move(read);
}

const Json& messages() {
  static const Json made = json(
      R"([{"role":"system","content":"S"},{"role":"user","content":"Hi <|im_end|> {{x}}"},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f",)"
      R"("arguments":{"a":[1,2.5,null,true,"x"]}}}]},{"role":"tool","content":"42","name":"f","tool_call_id":"1"},)"
      R"({"role":"user","content":[{"type":"text","text":"t"},{"type":"image"}]}])");
  return made;
}
const Json& tools() {
  static const Json made =
      json(R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object",)"
           R"("properties":{"a":{"type":"array"}}}}}])");
  return made;
}
const Json& kwargs() {
  static const Json made =
      json(R"({"enable_thinking":true,"date_string":"26 Jul 2024","documents":[{"title":"t","text":"x"}]})");
  return made;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds = {
      "{%- for m in messages -%}{{ m['role'] ~ ': ' ~ m.content | trim }}\n{%- endfor -%}",
      "{% set ns = namespace(n=0) %}{% for i in range(10) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
      "{% macro f(a, b=2) %}{{ a * b }}{% endmacro %}{{ f('x') }}{{ raise_exception('no') if false else '' }}",
      "{{ messages | tojson(indent=2) }}{{ tools | length }}{{ strftime_now('%d %b %Y') }}",
      "{%- if tools is defined and tools -%}{{ tools[0].function | items | list }}{%- endif -%}{{ bos_token }}",
      "{{ 'a' * 100 }}{{ [1, 2] + [3] }}{{ 'x'.split(',') }}{{ 7 // 2 % 3 ** 2 }}{{ messages[::-1][0] }}",
  };
  for (const char* name : {"llama-3.1-instruct", "qwen3-full", "mistral-nemo-instruct", "hermes-2-pro-llama3-tool",
                           "gpt-oss-120b", "gemma-3-it", "deepseek-v3.1", "llama-2-chat", "qwen3-coder-moe"})
    seeds.push_back(seed_file("templates/" + std::string(name) + ".jinja"));
  return seeds;
}
std::vector<std::string> fuzz_words() {
  return {"{% for i in range(100000) %}",
          "{% endfor %}",
          "{% if ",
          "{% endif %}",
          "{% set x = ",
          " %}",
          "{{ ",
          " }}",
          "{#",
          "#}",
          "| join(',')",
          "| replace('a', 'aa')",
          "| list",
          "| map(attribute='role')",
          "| selectattr(",
          "| tojson",
          "| length",
          "| format(",
          "* 1000000",
          "+ messages",
          "~ x",
          ".items()",
          ".split('')",
          ".startswith('a')",
          "namespace()",
          "loop.index",
          "loop.previtem",
          "{% macro m() %}",
          "{% endmacro %}",
          "{{ m() }}",
          "{% generation %}",
          "{% break %}",
          "is defined",
          "not in",
          "lipsum",
          "cycler",
          "[0:-1:2]",
          "raise_exception('x')",
          "'%1000000s' % 1",
          "{% filter upper %}",
          "{% include 'x' %}",
          "{% extends 'x' %}"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string source = copy_of(data, size);
  const auto made = ChatTemplate::from_source(source, json(R"({"bos_token":"<s>","eos_token":"</s>"})"), kLimits);
  (void)detect_answer_format(source, source);
  if (!made.ok()) return require_message(made.error()), 0;
  for (const bool open : {false, true}) {
    ChatTemplateOptions options;
    options.now_unix_s = 0, options.add_generation_prompt = !open, options.continue_final_message = open;
    const Json none{}, &given_tools = open ? none : tools(), &given = open ? none : kwargs();
    const auto first = (*made)->render(messages(), given_tools, given, options);
    const auto second = (*made)->render(messages(), given_tools, given, options);
    require(first.ok() == second.ok(), "a template renders always or never");
    if (!first.ok()) {
      require_message(first.error());
      continue;
    }
    require(*first == *second, "a template renders the same each time");
    require(first->size() <= kLimits.output_bytes, "a rendered text is within its limit");
  }
  const Json adapted = (*made)->adapted(messages(), tools());
  require(adapted.is_array() && !adapted.items().empty(), "an adapted conversation is one");
  for (const Json& message : adapted.items()) require(message.find("role") != nullptr, "every message has a role");
  return 0;
}
