// See the header.
#include "terminal.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>

#include "base/log.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// "[#####.....] 52 %  1.1 of 2.1 GB". Called from any thread.
class ProgressBar {
 public:
  void show(int64_t done, int64_t total) {
    const std::lock_guard lock(mutex_);
    if (total <= 0 || seconds_since(begin_) < 1.0 || seconds_since(last_) < 0.1) return;
    last_ = Clock::now();
    shown_ = true;
    const int filled = static_cast<int>(30 * done / total);
    std::fprintf(stderr, "\rloading [%.*s%.*s] %3d %%  %.1f of %.1f GB", filled, "##############################",
                 30 - filled, "..............................", static_cast<int>(100 * done / total),
                 static_cast<double>(done) / 1e9, static_cast<double>(total) / 1e9);
    std::fflush(stderr);
  }
  ~ProgressBar() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

 private:
  std::mutex mutex_;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point last_{};
  bool shown_ = false;
};

}  // namespace

Progress terminal_progress() {
  if (::isatty(STDERR_FILENO) == 0) return {};
  return [bar = std::make_shared<ProgressBar>()](int64_t done, int64_t total) { bar->show(done, total); };
}

Result<std::unique_ptr<Engine>> load_model(const Arguments& arguments, const EngineLoader& load) {
  return load(arguments.model, arguments.engine, terminal_progress());
}

std::function<void(const std::string& field)> warn_once() {
  return [warned = std::make_shared<std::set<std::string>>()](const std::string& field) {
    if (warned->size() < 64 && warned->insert(field).second)
      log_warning("unknown_request_field", " field=", json_quote(field.substr(0, 80)), " action=ignored");
  };
}

RequestRules command_rules(const Engine& engine) {
  RequestRules rules;
  rules.defaults = engine.default_sampling();
  rules.limits = engine.options().limits;
  rules.is_adapter = [&engine](const std::string& name) { return engine.has_adapter(name); };
  rules.images = engine.info().takes_images;
  rules.tool_form = engine.answer_format(Request()).tools;
  rules.local_files = true;
  rules.chat_template = true;
  rules.encode = [&engine](const std::string& text) {
    Request request;
    request.prompt = text;
    request.add_special_tokens = false;
    return engine.prompt_tokens(request);
  };
  rules.ignored = warn_once();
  return rules;
}

Result<std::string> only_adapter(const EngineOptions& options) {
  const std::vector<LoraModule>& modules = options.lora.modules;
  if (modules.size() > 1)
    return fail(Code::invalid_argument, "one --lora is taken here, ", modules.size(), " are given").about("lora");
  return modules.empty() ? std::string() : modules.front().name;
}

Json first_messages(const Arguments& arguments) {
  Json messages = Json::array();
  if (!arguments.system.empty()) messages.push_back(Json::object({{"role", "system"}, {"content", arguments.system}}));
  return messages;
}

Json user_message(const std::string& text, const std::vector<std::string>& images) {
  if (images.empty()) return Json::object({{"role", "user"}, {"content", text}});
  Json content = Json::array();
  for (const std::string& image : images)
    content.push_back(Json::object({{"type", "image_url"}, {"image_url", Json::object({{"url", image}})}}));
  content.push_back(Json::object({{"type", "text"}, {"text", text}}));
  return Json::object({{"role", "user"}, {"content", std::move(content)}});
}

Result<Answer> stream_answer(Engine& engine, Request request, const std::function<void(const std::string&)>& show,
                             const std::function<bool()>& stop) {
  struct Inbox {
    std::mutex mutex;
    std::condition_variable arrived;
    std::deque<Event> events;
  };
  const auto inbox = std::make_shared<Inbox>();
  const Clock::time_point begin = Clock::now();
  WEFT_TRY(const RequestId id, engine.submit(std::move(request), [inbox](const Event& event) {
    const std::lock_guard lock(inbox->mutex);
    inbox->events.push_back(event);
    inbox->arrived.notify_one();
  }));
  Answer answer;
  bool cancelled = false;
  for (;;) {
    std::unique_lock lock(inbox->mutex);
    inbox->arrived.wait_for(lock, std::chrono::milliseconds(100), [&] { return !inbox->events.empty(); });
    if (!cancelled && stop()) {
      cancelled = true;
      lock.unlock();  // the sink may be called from here
      engine.cancel(id);
      lock.lock();
    }
    if (inbox->events.empty()) continue;
    const Event event = std::move(inbox->events.front());
    inbox->events.pop_front();
    lock.unlock();
    if (answer.first_token_s == 0 && !event.tokens.empty()) answer.first_token_s = seconds_since(begin);
    if (!event.text.empty()) show(event.text);
    answer.text += event.text;
    if (event.error) return *event.error;
    if (event.finish != FinishReason::none) answer.finish = event.finish;
    if (!event.last_of_request) continue;
    answer.usage = event.usage;
    answer.total_s = seconds_since(begin);
    return answer;
  }
}

std::string describe_speed(const Answer& answer) {
  char text[200];
  const double decode_s = answer.total_s - answer.first_token_s;
  std::snprintf(text, sizeof text, "%d prompt tokens, first token after %.2f s; %d tokens in %.2f s (%.1f/s)",
                answer.usage.prompt_tokens, answer.first_token_s, answer.usage.completion_tokens, answer.total_s,
                decode_s > 0 ? (answer.usage.completion_tokens - 1) / decode_s : 0.0);
  return text;
}

namespace {

// errno of the first write to standard output that failed.
int output_error = 0;

// Set by the signal handler; a lock-free atomic is one of the few things it may touch.
std::atomic<int> noted_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

}  // namespace

bool print_out(const std::string& text) {
  if (output_error != 0) return false;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return true;
  output_error = errno != 0 ? errno : EIO;
  return false;
}

Status output_status() {
  print_out("");
  if (output_error == 0 && std::ferror(stdout) != 0) output_error = EIO;
  if (output_error == 0) return {};
  return fail(Code::resource_exhausted, "cannot write to standard output: ", std::strerror(output_error));
}

bool output_has_no_reader() { return output_error == EPIPE; }

Interrupts::Interrupts() {
  struct sigaction action {};
  action.sa_handler = note;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM}) ::sigaction(signal, &action, nullptr);
}

Interrupts::~Interrupts() {
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
}

int Interrupts::signal() { return noted_signal; }
void Interrupts::note(int signal) { noted_signal = signal; }

Error interrupted_error() {
  return fail(Code::cancelled, "ended by ", Interrupts::signal() == SIGINT ? "SIGINT" : "SIGTERM");
}

}  // namespace weft
