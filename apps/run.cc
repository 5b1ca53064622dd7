// `weft run`: one prompt, its answer as it comes.
#include <unistd.h>
#include <cstdio>

#include "terminal.h"

namespace weft {

namespace {

constexpr size_t kMaxInput = size_t{64} << 20;

Result<std::string> read_input() {
  std::string text;
  char bytes[65536];
  for (ssize_t got = 0; (got = ::read(STDIN_FILENO, bytes, sizeof bytes)) != 0;) {
    if (got < 0) return fail(Code::invalid_argument, "standard input cannot be read");
    text.append(bytes, static_cast<size_t>(got));
    if (text.size() > kMaxInput)
      return fail(Code::invalid_argument, "standard input is longer than ", kMaxInput, " bytes");
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// The request as a line of a requests file would say it.
Json request_json(const Arguments& arguments, const std::string& prompt, bool chat) {
  Json body = arguments.sampling;
  if (!chat) {
    body.set("prompt", prompt);
    if (!arguments.images.empty()) {
      Json images = Json::array();
      for (const std::string& image : arguments.images) images.push_back(image);
      body.set("images", std::move(images));
    }
    return body;
  }
  Json messages = first_messages(arguments);
  messages.push_back(user_message(prompt, arguments.images));
  body.set("messages", std::move(messages));
  return body;
}

}  // namespace

Status run_command(const Arguments& arguments, const EngineLoader& load) {
  std::string prompt;
  if (arguments.prompt) {
    prompt = *arguments.prompt;
  } else {
    if (::isatty(STDIN_FILENO) != 0) std::fputs("prompt (end with Ctrl-D): ", stderr);
    WEFT_TRY(prompt, read_input());
  }
  if (prompt.empty())
    return fail(Code::invalid_argument, "the prompt is empty; give it as an argument or on standard input");
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  if (!engine->info().generative)
    return fail(Code::unsupported, engine->info().architecture, " does not generate text; use weft score");
  const bool chat = engine->info().has_chat_template && !arguments.raw;
  if (!chat && !arguments.system.empty())
    return fail(Code::invalid_argument, "--system needs a model with a chat template, and not --raw");
  RequestRules rules = command_rules(*engine);
  rules.completion_max_tokens = engine->info().max_seq_len;
  WEFT_TRY(const std::string lora, only_adapter(arguments.engine));
  Json body = request_json(arguments, prompt, chat);
  if (!lora.empty()) body.set("lora", lora);
  WEFT_TRY(ClientRequest parsed, parse_request(body, RequestKind::batch_line, rules));
  Request& request = parsed.requests.front();
  if (arguments.verbose && chat) {
    if (const auto text = engine->render_chat(request); text.ok()) std::fprintf(stderr, "%s\n", text->c_str());
  }
  const Interrupts interrupts;
  bool written = true;
  WEFT_TRY(const Answer answer,
           stream_answer(
               *engine, std::move(request), [&](const std::string& text) { written = print_out(text); },
               [&] { return !written || Interrupts::signal() != 0; }));
  print_out("\n");
  WEFT_RETURN_IF_ERROR(output_status());
  if (Interrupts::signal() != 0) return interrupted_error().with("the answer is not complete");
  if (arguments.verbose) std::fprintf(stderr, "%s\n", describe_speed(answer).c_str());
  return {};
}

}  // namespace weft
