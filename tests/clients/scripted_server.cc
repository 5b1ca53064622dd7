// `weft serve` with an engine whose answers are written in a file, over the chat template of a real model: requests,
// templates, tool-call readers, HTTP and streams are the program's own. Tokens are bytes, so that a stream is cut at
// every character.
//
//   scripted_server LOG serve SCRIPT.json --chat-template FILE [--port N ...]
//
// SCRIPT has {"answers": [[TEXT, ...], ...]}: the texts of the first, second, ... turn of the user; in a turn the first
// text, then one for each time that results of calls came back. "strict_answers" are those to requests with a strict
// function, which hold a model to one form of its calls. LOG gets a line {"rendered", "answer"} for each chat.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/files.h"
#include "commands.h"
#include "fake_engine.h"
#include "text/chat_template.h"

namespace weft {
namespace {

bool has_strict(const Json& tools) {
  return tools.is_array() && std::ranges::any_of(tools.items(), [](const Json& tool) {
           const Json* strict = tool.find("function")->find("strict");
           return strict && strict->is_bool() && strict->as_bool();
         });
}

class ScriptedEngine final : public FakeEngine {
 public:
  ScriptedEngine(Json script, std::shared_ptr<const ChatTemplate> chat, std::string log, const EngineOptions& options)
      : FakeEngine({.step = std::chrono::microseconds(20), .context = 1 << 20}, options), script_(std::move(script)),
        chat_(std::move(chat)), log_(std::move(log)) {}

  Result<std::string> render_chat(const Request& request) const override {
    auto text =
        chat_->render(chat_->adapted(*request.messages, request.tools), request.tools, request.chat_template_kwargs,
                      {.add_generation_prompt = request.add_generation_prompt,
                       .continue_final_message = request.continue_final_message});
    if (!text.ok()) return std::move(text).error().about("messages");
    return text;
  }
  AnswerFormat answer_format(const Request&) const override {
    return detect_answer_format(chat_->source(), chat_->tool_source());
  }

 protected:
  std::string answer_to(const Request& request) const override {
    if (!request.messages) return {};
    // The place in the script is read off the messages: the turns of the user, and the runs of results in the last one.
    size_t turns = 0, steps = 0;
    std::string last;
    for (const Json& message : request.messages->items()) {
      const std::string& role = message.find("role")->as_string();
      if (role == "user") ++turns, steps = 0;
      if (role == "tool" && last != "tool") ++steps;
      last = role;
    }
    const Json::Array& answers = script_.find(has_strict(request.tools) ? "strict_answers" : "answers")->items();
    const bool known = turns >= 1 && turns <= answers.size() && steps < answers[turns - 1].items().size();
    std::string answer = known ? answers[turns - 1].items()[steps].as_string() : "The script has no answer for this.";
    const Json line = Json::object({{"rendered", request.rendered.value_or("")}, {"answer", answer}});
    const std::lock_guard lock(mutex_);
    std::ofstream(log_, std::ios::app) << line.dump() << std::endl;
    return answer;
  }

 private:
  const Json script_;
  const std::shared_ptr<const ChatTemplate> chat_;
  const std::string log_;
  mutable std::mutex mutex_;
};

Result<std::unique_ptr<Engine>> load(const std::string& log, const std::string& script, const EngineOptions& options) {
  WEFT_TRY(Json answers, read_json_file(script));
  WEFT_TRY(const std::string source, read_file(options.chat_template));
  WEFT_TRY(auto chat, ChatTemplate::from_source(source, Json::object({{"bos_token", "<s>"}, {"eos_token", "</s>"}})));
  return std::unique_ptr<Engine>(new ScriptedEngine(std::move(answers), std::move(chat), log, options));
}

}  // namespace
}  // namespace weft

int main(int count, char** words) {
  if (count < 3) {
    std::fputs("usage: scripted_server LOG serve SCRIPT.json --chat-template FILE [--port N]\n", stderr);
    return 2;
  }
  const std::string log = words[1];
  words[1] = words[0];
  return weft::weft_main(count - 1, words + 1,
                         [&](const std::string& script, const weft::EngineOptions& options, const weft::Progress&) {
                           return weft::load(log, script, options);
                         });
}
