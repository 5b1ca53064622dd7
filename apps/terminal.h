// What the commands share: loading with a progress bar, requests from a command's options, answers on the terminal,
// interrupts.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/engine.h"
#include "api/request_json.h"
#include "commands.h"

namespace weft {

// Loads the model; on a terminal, with a bar on standard error once it takes over a second.
Result<std::unique_ptr<Engine>> load_model(const Arguments& arguments, const EngineLoader& load);

// The rules by which commands read requests: what the engine allows, and warnings for unknown fields (once each).
RequestRules command_rules(const Engine& engine);

// RequestRules::ignored of commands: a warning in the log for each field, once.
std::function<void(const std::string& field)> warn_once();

// A conversation's beginning: the system message, if --system gives one.
Json first_messages(const Arguments& arguments);
// A user's message; images (files) stand before the text.
Json user_message(const std::string& text, const std::vector<std::string>& images);

struct Answer {
  std::string text;
  FinishReason finish = FinishReason::none;
  Usage usage;
  double first_token_s = 0, total_s = 0;
};

// Sends the request and passes its text on as it comes, on the calling thread. `interrupted` (may be null) is checked a
// few times a second; when it is true the request is cancelled, and the text so far is the answer.
Result<Answer> stream_answer(Engine& engine, Request request, const std::function<void(const std::string& text)>& show,
                             const std::atomic<bool>* interrupted);

// "34 tokens in 1.2 s (28.3/s), first after 0.08 s"
std::string describe_speed(const Answer& answer);

// Writes all of `text` to standard output at once; false if nobody reads it any more.
bool print_out(const std::string& text);

}  // namespace weft
