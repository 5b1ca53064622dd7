// From words to a command, and from its error to a line and a status.
#include <csignal>
#include <cstdio>
#include <exception>

#include "api/follow.h"
#include "commands.h"

namespace weft {

namespace {

Status dispatch(const Arguments& arguments, const EngineLoader& load) {
  switch (arguments.command) {
    case Command::run: return run_command(arguments, load);
    case Command::chat: return chat_command(arguments, load);
    case Command::batch: return batch_command(arguments, load);
    case Command::score: return score_command(arguments, load);
    case Command::bench: return bench_command(arguments, load);
    case Command::inspect: return inspect_command(arguments);
    case Command::models: return models_command(arguments);
    case Command::plan: return plan_command(arguments, load);
    case Command::serve: return serve_command(arguments, load);
    case Command::orchestrate: return orchestrate_command(arguments);
  }
  return fail(Code::internal, "unknown command");
}

bool loads_engine(const Arguments& arguments) {
  if (arguments.command == Command::batch) return arguments.url.empty();
  return arguments.command != Command::inspect && arguments.command != Command::models &&
         arguments.command != Command::orchestrate;
}

// Messages are one line, whatever is in a file's name.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return text;
}

void print_error(const std::string& text) { std::fprintf(stderr, "weft: %s\n", one_line(text).c_str()); }

// Help is printed, and an error said, once, however many ranks there are.
int leave(const Leave& leave) {
  if (leave.error.empty()) {
    if (!launched_as_follower()) std::fputs(leave.out.c_str(), stdout);
    return leave.status;
  }
  if (!leave_ranks(Error(Code::invalid_argument, leave.error))) return 0;  // rank 0 has the status, too
  print_error(leave.error);
  return leave.status;
}

}  // namespace

namespace {

int run(int count, const char* const* words, const EngineLoader& load) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write
  const auto parsed = parse_arguments(count, words);
  if (const Leave* early = std::get_if<Leave>(&parsed)) return leave(*early);
  const Arguments& arguments = std::get<Arguments>(parsed);
  Status status;
  if (loads_engine(arguments)) {
    const auto followed = follow_rank_0(arguments.model, arguments.engine);
    if (followed.ok() && *followed) return **followed;
    if (!followed.ok()) status = followed.error();
  } else if (launched_as_follower()) {
    return 0;
  }
  if (status.ok()) {
    status = dispatch(arguments, load);
    if (loads_engine(arguments)) leave_ranks(status);
  }
  if (status.ok()) return 0;
  print_error(status.error().message());
  return 1;
}

}  // namespace

int weft_main(int count, const char* const* words, const EngineLoader& load) {
  try {
    return run(count, words, load);
  } catch (const std::exception& thrown) {  // no memory, no thread
    std::fprintf(stderr, "weft: %s\n", thrown.what());
    return 1;
  }
}

}  // namespace weft
