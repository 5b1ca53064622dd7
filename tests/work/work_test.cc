// What clients can make long is doubled, and the work for it may not much more than double: a quadratic place is seen
// at sizes that take milliseconds, whatever the machine does meanwhile. The lists are those of the table of fields, so
// a new field is tried without a line here.
#include <gtest/gtest.h>

#include <functional>

#include "api/request_json.h"
#include "counter.h"
#include "forms/reasoning.h"
#include "forms/tool_calls.h"
#include "sampling/stages.h"
#include "sampling/validate.h"
#include "text/conversation.h"
#include "text/stop_strings.h"

namespace weft {
namespace {

// n log n doubles to less than this; n^2 to nearly 4.
constexpr double kMost = 2.6;
constexpr size_t kSmall = 1500;

uint64_t work_of(const std::function<void()>& run) {
  run();  // what is done once
  const uint64_t before = work_done;
  run();
  return work_done - before;
}

// `run(n)` does the work for size n.
void expect_linear(const std::string& what, const std::function<void(size_t)>& run, size_t small = kSmall) {
  const uint64_t one = work_of([&] { run(small); }), two = work_of([&] { run(2 * small); });
  // A constant part hides nothing at these sizes: what is square has millions.
  EXPECT_LT(static_cast<double>(two), kMost * static_cast<double>(one) + 20000)
      << what << ": " << one << " for " << small << ", " << two << " for " << 2 * small;
}

// ---- lists of a request

std::string numbered(size_t i) { return "name" + std::to_string(i * 7919 % 1000003); }

std::string list_of(size_t n, const std::function<std::string(size_t)>& item) {
  std::string text = "[";
  for (size_t i = 0; i < n; ++i) text += (i ? "," : "") + item(i);
  return text + "]";
}
std::string object_of(size_t n, const std::function<std::string(size_t)>& key,
                      const std::function<std::string(size_t)>& value) {
  std::string text = "{";
  for (size_t i = 0; i < n; ++i) text += (i ? ",\"" : "\"") + key(i) + "\":" + value(i);
  return text + "}";
}
std::string quoted(size_t i) { return "\"" + numbered(i) + "\""; }

std::string tool(size_t i) {
  return R"({"type":"function","function":{"name":")" + numbered(i) +
         R"(","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}})";
}

struct Shape {
  const char* name;
  std::function<std::string(size_t)> make;
};

const std::vector<Shape>& shapes() {
  static const auto one = [](size_t) { return std::string("1"); };
  static const auto empty = [](size_t) { return std::string(""); };
  static const auto number = [](size_t i) { return std::to_string(i); };
  static const std::vector<Shape> all = {
      {"numbers", [](size_t n) { return list_of(n, number); }},
      {"the same number", [](size_t n) { return list_of(n, one); }},
      {"strings", [](size_t n) { return list_of(n, quoted); }},
      {"a long string", [](size_t n) { return '"' + std::string(16 * n, 'a') + '"'; }},
      {"lists of numbers", [](size_t n) { return list_of(n, [](size_t i) { return "[" + std::to_string(i) + "]"; }); }},
      {"a list in a list", [](size_t n) { return "[" + list_of(n, number) + "]"; }},
      {"ids to numbers", [](size_t n) { return object_of(n, number, one); }},
      {"names to numbers", [](size_t n) { return object_of(n, numbered, one); }},
      {"the same name", [](size_t n) { return object_of(n, empty, one); }},
      {"objects", [](size_t n) { return list_of(n, [](size_t i) { return R"({"name":)" + quoted(i) + "}"; }); }},
      {"tools", [](size_t n) { return list_of(n, tool); }},
      {"messages",
       [](size_t n) {
         return list_of(n, [](size_t i) {
           return R"({"role":")" + std::string(i % 2 ? "assistant" : "user") + R"(","content":)" + quoted(i) + "}";
         });
       }},
      {"parts of a message",
       [](size_t n) {
         return R"([{"role":"user","content":)" +
                list_of(n, [](size_t i) { return R"({"type":"text","text":)" + quoted(i) + "}"; }) + "}]";
       }},
      {"pictures of a message",
       [](size_t n) {
         return R"([{"role":"user","content":)" +
                list_of(n, [](size_t i) { return R"({"type":"image_url","image_url":{"url":)" + quoted(i) + "}}"; }) +
                "}]";
       }},
      {"members of a message",
       [](size_t n) { return R"([{"role":"user","content":"x",)" + object_of(n, numbered, one).substr(1) + "]"; }},
      {"calls of a message",
       [](size_t n) {
         return R"([{"role":"assistant","tool_calls":)" +
                list_of(n,
                        [](size_t i) {
                          return R"({"id":"x","type":"function","function":{"name":)" + quoted(i) +
                                 R"(,"arguments":"{}"}})";
                        }) +
                "}]";
       }},
      {"a schema with properties",
       [](size_t n) {
         return R"({"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":)" +
                object_of(n, numbered, [](size_t) { return std::string(R"({"type":"integer"})"); }) + "}}}";
       }},
      {"choices of a grammar", [](size_t n) { return R"({"type":"choice","choice":)" + list_of(n, quoted) + "}"; }},
  };
  return all;
}

RequestRules rules() {
  RequestRules rules;
  rules.images = rules.chat_template = true;
  rules.encode = [](const std::string& text) -> Result<std::vector<int32_t>> {
    return std::vector<int32_t>(text.begin(), text.end());
  };
  return rules;
}

void parse(const std::string& field, const std::string& value, RequestKind kind, const std::string& more = "") {
  const bool chat = kind == RequestKind::chat;
  const char* const prompt = chat ? "messages" : "prompt";
  std::string body = "{\"" + field + "\":" + value + more;
  if (field != prompt) body += chat ? R"(,"messages":[{"role":"user","content":"hi"}])" : R"(,"prompt":"hi")";
  const auto json = parse_json(body + "}", {.keep_repeated = false});
  ASSERT_TRUE(json.ok()) << json.error().message();
  (void)parse_request(*json, kind, rules()).ok();
}

TEST(Work, EveryFieldOfARequest) {
  for (const RequestKind kind : {RequestKind::chat, RequestKind::completion})
    for (const std::string& field : request_fields_of(kind))
      for (const Shape& shape : shapes())
        expect_linear(field + " with " + shape.name, [&](size_t n) { parse(field, shape.make(n), kind); }, 400);
}

TEST(Work, ToolsWithEveryChoice) {
  for (const char* const choice : {R"("auto")", R"("required")", R"({"type":"function","function":{"name":"name0"}})"})
    expect_linear(std::string("tool_choice ") + choice, [&](size_t n) {
      parse("tools", list_of(n, tool), RequestKind::chat, std::string(R"(,"tool_choice":)") + choice);
    });
  expect_linear("strict tools", [&](size_t n) {
    parse("tools",
          list_of(
              n, [](size_t i) { return R"({"type":"function","function":{"strict":true,"name":)" + quoted(i) + "}}"; }),
          RequestKind::chat);
  });
}

TEST(Work, JsonOfAnyForm) {
  for (const Shape& shape : shapes())
    expect_linear(std::string("JSON: ") + shape.name, [&](size_t n) {
      const auto json = parse_json(shape.make(n), {.keep_repeated = false});
      ASSERT_TRUE(json.ok());
      (void)json->dump();
    });
}

// ---- what runs beside the answer

TEST(Work, StopStrings) {
  const auto many = [](size_t n) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < n; ++i) stops.push_back(numbered(i));
    return stops;
  };
  expect_linear("many stop strings", [&](size_t n) { StopStrings stops(many(n)); });
  expect_linear("a long stop string", [&](size_t n) { StopStrings stops({std::string(16 * n, 'a') + "b"}); });
  expect_linear("a text that nearly matches", [&](size_t n) {
    StopStrings stops({std::string(n, 'a') + "b"});
    for (size_t i = 0; i < 4 * n; ++i) (void)stops.push("a");
  });
}

// A sequence of n bad words: work for each token is that of the list, not of its square.
TEST(Work, ListsOfTheSampler) {
  constexpr int kVocab = 4096;
  const auto run = [&](const std::function<void(SamplingParams&, size_t)>& fill, size_t n) {
    auto params = std::make_shared<SamplingParams>();
    fill(*params, n);
    ASSERT_TRUE(validate(*params, {.vocab_size = kVocab}).ok());
    SlotState state(kVocab, 100);
    const std::vector<int32_t> prompt = {1, 2, 3};
    state.open(params, prompt, {});
    std::vector<float> logits(kVocab, 1.0f), out(kVocab);
    SampleRow row;
    row.logits = logits, row.state = &state;
    Scratch scratch(kVocab, 64);
    (void)apply_stages(row, out, scratch);
    (void)most_lowered(row);
  };
  expect_linear("bad_words", [&](size_t n) {
    run(
        [](SamplingParams& p, size_t n) {
          for (size_t i = 0; i < n; ++i) p.bad_words.push_back({2, 3, static_cast<int32_t>(i % kVocab)});
        },
        n);
  });
  expect_linear("allowed_token_ids", [&](size_t n) {
    run(
        [](SamplingParams& p, size_t n) {
          for (size_t i = 0; i < n; ++i) p.allowed_token_ids.push_back(static_cast<int32_t>(i * 7 % kVocab));
        },
        n);
  });
  expect_linear("logit_bias", [&](size_t n) {
    run(
        [](SamplingParams& p, size_t n) {
          for (size_t i = 0; i < n; ++i) p.logit_bias.emplace_back(static_cast<int32_t>(i * 7 % kVocab), 1.0f);
        },
        n);
  });
  expect_linear("stop_token_ids", [&](size_t n) {
    run(
        [](SamplingParams& p, size_t n) {
          p.min_tokens = 1;
          for (size_t i = 0; i < n; ++i) p.stop_token_ids.push_back(static_cast<int32_t>(i * 7 % kVocab));
        },
        n);
  });
}

// ---- what a model writes, token by token

void read(const std::string& form, const std::string& text) {
  ToolCallFinder::Rules rules;
  rules.mode = ToolMode::automatic, rules.form = find_tool_form(form), rules.names = {"f"};
  ToolCallFinder finder(rules);
  ReasoningSplitter splitter(Thinking::may_open);
  std::vector<ToolCall> calls;
  const auto take = [&](ToolOutput output) {
    for (const ToolDelta& delta : output.deltas) add_delta(delta, calls);
  };
  for (size_t at = 0; at < text.size(); at += 4) take(finder.push(splitter.push(text.substr(at, 4)).content));
  take(finder.push(splitter.finish().content));
  take(finder.finish());
}

TEST(Work, AnswersWithToolCalls) {
  const std::pair<const char*, std::string> openings[] = {
      {"llama3_json", R"(<|python_tag|>{"name": "f", "parameters": )"},
      {"llama4_pythonic", "<|python_start|>[f(a="},
      {"mistral", R"([TOOL_CALLS][{"name": "f", "arguments": )"},
      {"hermes", R"(<tool_call>{"name": "f", "arguments": )"},
      {"qwen3_coder", "<tool_call><function=f><parameter=a>"},
      {"deepseek", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"},
      {"nemotron", R"(<TOOLCALL>[{"name": "f", "arguments": )"},
      {"generic", R"(<tool_call>{"name": "f", "arguments": )"},
  };
  const Shape bodies[] = {
      {"a long string", [](size_t n) { return R"({"a": ")" + std::string(n, 'x') + R"("})"; }},
      {"a string without end", [](size_t n) { return R"({"a": ")" + std::string(n, 'x'); }},
      {"bare text", [](size_t n) { return std::string(n, 'x'); }},
      {"quotes", [](size_t n) { return std::string(n, '"'); }},
      {"opening brackets", [](size_t n) { return std::string(n, '['); }},
      {"opening braces", [](size_t n) { return std::string(n, '{'); }},
      {"angle brackets", [](size_t n) { return std::string(n, '<'); }},
      {"spaces", [](size_t n) { return std::string(n, ' '); }},
      {"line breaks", [](size_t n) { return std::string(n, '\n'); }},
      {"backslashes", [](size_t n) { return R"({"a": ")" + std::string(n, '\\'); }},
      {"numbers", [](size_t n) { return R"({"a": )" + std::string(n, '1'); }},
      {"many values",
       [](size_t n) { return R"({"a": )" + list_of(n / 4, [](size_t) { return std::string("1"); }) + "}"; }},
      {"many members", [](size_t n) { return object_of(n / 16, numbered, [](size_t) { return std::string("1"); }); }},
  };
  for (const auto& [form, opening] : openings) {
    for (const Shape& body : bodies) {
      expect_linear(
          std::string(form) + " with " + body.name, [&](size_t n) { read(form, opening + body.make(n)); }, 4000);
      expect_linear(
          std::string(form) + " without a call, " + body.name, [&](size_t n) { read(form, body.make(n)); }, 4000);
    }
    expect_linear(
        std::string(form) + " again and again",
        [&](size_t n) {
          std::string text;
          while (text.size() < n) text += opening;
          read(form, text);
        },
        4000);
  }
}

}  // namespace
}  // namespace weft
