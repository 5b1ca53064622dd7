// What clients can make long is doubled, and the work for it may not much more than double: a quadratic place is seen
// at sizes that take milliseconds, whatever the machine does meanwhile. The lists are those of the table of fields, so
// a new field is tried without a line here.
#include <gtest/gtest.h>

#include <functional>

#include "api/request_json.h"
#include "linear.h"
#include "sampling/stages.h"
#include "sampling/validate.h"
#include "text/conversation.h"
#include "text/stop_strings.h"

namespace weft {
namespace {

// ---- lists of a request

std::string quoted(size_t i) { return "\"" + numbered(i) + "\""; }

std::string tool(size_t i) {
  return R"({"type":"function","function":{"name":")" + numbered(i) +
         R"(","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}})";
}

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

// Members may come in any order, and names may be repeated.
TEST(Work, ComparingJson) {
  const auto number = [](size_t i) { return std::to_string(i); };
  for (const bool reversed : {false, true})
    expect_linear("objects with the same members", [&](size_t n) {
      const auto from_end = [&](size_t i) { return reversed ? n - 1 - i : i; };
      const Json one = *parse_json(object_of(n, numbered, number));
      const Json other = *parse_json(
          object_of(n, [&](size_t i) { return numbered(from_end(i)); }, [&](size_t i) { return number(from_end(i)); }));
      EXPECT_TRUE(one == other);
    });
  expect_linear("objects with one name", [&](size_t n) {
    const Json one = *parse_json(object_of(n, [](size_t) { return std::string("a"); }, number));
    EXPECT_TRUE(one == Json(one));
  });
}

// ---- what runs beside the answer

TEST(Work, StopStrings) {
  const auto many = [](size_t n) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < n; ++i) stops.push_back(numbered(i));
    return stops;
  };
  expect_linear("many stop strings", [&](size_t n) { const StopSet stops(many(n)); });
  expect_linear("a long stop string", [&](size_t n) { const StopSet stops({std::string(16 * n, 'a') + "b"}); });
  expect_linear("a text that nearly matches", [&](size_t n) {
    StopStrings stops(std::make_shared<const StopSet>(std::vector<std::string>{std::string(n, 'a') + "b"}));
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
    state.open(params, 1, prompt, {});
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

}  // namespace
}  // namespace weft
