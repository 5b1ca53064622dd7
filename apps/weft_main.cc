// From words to a command, and from its error to a line and a status.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>

#include "api/follow.h"
#include "base/log.h"
#include "commands.h"
#include "terminal.h"
#include "weft_main.h"

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
    case Command::quantize: return quantize_command(arguments, load);
    case Command::convert: return convert_command(arguments);
    case Command::serve: return serve_command(arguments, load);
    case Command::orchestrate: return orchestrate_command(arguments);
    case Command::limits: break;  // printed like help
  }
  return fail(Code::internal, "unknown command");
}

bool loads_engine(const Arguments& arguments) {
  if (arguments.command == Command::batch) return arguments.url.empty();
  return arguments.command != Command::inspect && arguments.command != Command::models &&
         arguments.command != Command::quantize && arguments.command != Command::convert &&
         arguments.command != Command::orchestrate;
}

// Messages are one line, whatever is in a file's name.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return log_text(text, text.size() * 4);
}

void print_error(const std::string& text) { std::fprintf(stderr, "weft: %s\n", one_line(text).c_str()); }

// The exit status of a command, and its error where there is something to say: who closes standard output (`| head`)
// has seen enough.
int status_of(const Status& status) {
  if (status.ok()) return 0;
  if (!output_has_no_reader()) print_error(status.error().message());
  return Interrupts::signal() != 0 ? 128 + Interrupts::signal() : 1;
}

// A descriptor of the three that nobody opened would be given to the next file that is, and what is printed would go
// there. Standard output that is closed is made one that cannot be written to.
void open_standard_files() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)::open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);  // the lowest free number, so this one
}

// Help is printed, and an error said, once, however many ranks there are.
int leave(const Leave& leave) {
  if (leave.error.empty()) {
    if (launched_as_follower()) return leave.status;
    print_out(leave.out);
    const int status = status_of(output_status());
    return status != 0 ? status : leave.status;
  }
  if (!leave_ranks(Error(Code::invalid_argument, leave.error))) return 0;  // rank 0 has the status, too
  print_error(leave.error);
  return leave.status;
}

}  // namespace

namespace {

int run(int count, const char* const* words, const EngineLoader& load, void (*on_parsed)() noexcept) {
  open_standard_files();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write,
  std::signal(SIGXFSZ, SIG_IGN);  // and so is a file that may not become larger
  const auto parsed = parse_arguments(count, words);
  if (on_parsed) on_parsed();
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
    if (status.ok()) status = output_status();
    if (loads_engine(arguments)) leave_ranks(status);
  }
  return status_of(status);
}

}  // namespace

int weft_main(int count, const char* const* words, const EngineLoader& load) {
  return weft_main(count, words, load, nullptr);
}

int weft_main(int count, const char* const* words, const EngineLoader& load, void (*parsed)() noexcept) {
  try {
    return run(count, words, load, parsed);
  } catch (const std::exception& thrown) {  // no memory, no thread
    std::fprintf(stderr, "weft: %s\n", thrown.what());
    return 1;
  }
}

}  // namespace weft
