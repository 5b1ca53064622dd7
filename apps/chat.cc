// `weft chat`: a conversation. /image FILE puts an image before the next message, /clear forgets everything, /exit ends
// it, Ctrl-C ends the answer that is being written.
#include <unistd.h>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <optional>

#include "terminal.h"

namespace weft {

namespace {

constexpr size_t kMaxInput = size_t{64} << 20;

// Set by the signal handler; a lock-free atomic is one of the few things it may touch.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_interrupt(int) { interrupted = true; }

// One line from the terminal; nothing at the end of input. Interrupted: an empty line.
std::optional<std::string> read_line() {
  if (::isatty(STDIN_FILENO) != 0) print_out("> ");
  std::optional<std::string> line;
  for (int c = 0; (c = std::getc(stdin)) != EOF;) {
    if (!line) line.emplace();
    *line += static_cast<char>(c);
    if (c == '\n' || line->size() > kMaxInput) break;
  }
  if (!line && interrupted.exchange(false)) {
    std::clearerr(stdin);
    print_out("\n(/exit ends the conversation)\n");
    return std::string();
  }
  while (line && !line->empty() && (line->back() == '\n' || line->back() == '\r')) line->pop_back();
  return line;
}

Result<Answer> answer_of(Engine& engine, const Json& body, const RequestRules& rules) {
  WEFT_TRY(ClientRequest parsed, parse_request(body, RequestKind::batch_line, rules));
  auto answer = stream_answer(
      engine, std::move(parsed.requests.front()), [](const std::string& text) { print_out(text); },
      [] { return interrupted || !print_out(""); });
  print_out("\n");
  return answer;
}

}  // namespace

Status chat_command(const Arguments& arguments, const EngineLoader& load) {
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  if (!engine->info().has_chat_template)
    return fail(Code::unsupported, "this model has no chat template; use weft run --raw");
  const RequestRules rules = command_rules(*engine);
  WEFT_TRY(const std::string lora, only_adapter(arguments.engine));
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART, so that a read ends
  ::sigaction(SIGINT, &action, nullptr);
  if (::isatty(STDIN_FILENO) != 0)
    print_out(
        "/image FILE adds an image to the next message, /clear forgets the conversation, /exit ends it; Ctrl-C stops "
        "an answer.\n");
  Json messages = first_messages(arguments);
  std::vector<std::string> images;  // of the next message
  while (const std::optional<std::string> line = read_line()) {
    if (line->empty()) continue;
    if (line->size() > kMaxInput)
      return fail(Code::invalid_argument, "standard input has a line of more than ", kMaxInput, " bytes, the limit");
    if (*line == "/exit" || *line == "/quit") break;
    if (*line == "/clear") {
      messages = first_messages(arguments);
      images.clear();
      continue;
    }
    if (line->starts_with("/image ")) {
      images.push_back(line->substr(line->find_first_not_of(' ', 6)));
      continue;
    }
    messages.push_back(user_message(*line, images));
    images.clear();
    Json body = arguments.sampling;
    body.set("messages", messages);
    if (!lora.empty()) body.set("lora", lora);
    interrupted = false;
    const auto answer = answer_of(*engine, body, rules);
    interrupted = false;
    WEFT_RETURN_IF_ERROR(output_status());
    if (!answer.ok()) {  // too long a conversation, or no such image: the user can go on
      std::fprintf(stderr, "weft: %s\n", answer.error().message().c_str());
      messages.items().pop_back();
      continue;
    }
    messages.push_back(Json::object({{"role", "assistant"}, {"content", answer->text}}));
    if (arguments.verbose) std::fprintf(stderr, "%s\n", describe_speed(*answer).c_str());
  }
  return {};
}

}  // namespace weft
