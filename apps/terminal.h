// What the commands share: loading with a progress bar, requests from a command's options, answers on the terminal,
// interrupts.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/engine.h"
#include "api/request_json.h"
#include "commands.h"

namespace weft {

// On a terminal a bar on standard error, once it takes over a second; it goes with the last copy.
Progress terminal_progress();
// Loads the model, with a bar.
Result<std::unique_ptr<Engine>> load_model(const Arguments& arguments, const EngineLoader& load);

// The rules by which commands read requests: what the engine allows, and warnings for unknown fields (once each).
RequestRules command_rules(const Engine& engine);
// The adapter that the answers of a command with one conversation are made with: the only one that is given, or none.
// An error where there are several.
Result<std::string> only_adapter(const EngineOptions& options);

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

// Sends the request and passes its text on as it comes, on the calling thread. `stop` is asked at each piece and a few
// times a second; when it says so the request is cancelled, and the text so far is the answer.
Result<Answer> stream_answer(Engine& engine, Request request, const std::function<void(const std::string& text)>& show,
                             const std::function<bool()>& stop);

// "34 tokens in 1.2 s (28.3/s), first after 0.08 s"
std::string describe_speed(const Answer& answer);

// Writes all of `text` to standard output at once. False if it could not be written; output_status() says why then, and
// nothing more is written.
bool print_out(const std::string& text);
// Whether all that was printed could be written, by whatever function; writes what is still in a buffer.
Status output_status();
// Whether output_status() is an error because nobody reads standard output any more (`| head`).
bool output_has_no_reader();

// While it lives, the first SIGINT or SIGTERM is noted, so that a command can say what is done and what is not; the
// second ends the process. One at a time.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  // The signal that was noted, or 0. Stays when the object has gone: the command's exit status is 128 more.
  static int signal();
  static void note(int signal);
};
// "ended by SIGINT"
Error interrupted_error();

}  // namespace weft
