// See the header.
#include "fake_engine.h"

#include <algorithm>

#include "base/clock.h"
#include "base/files.h"
#include "base/hmac.h"

namespace weft {

namespace {

// Length of the end of `text` that is an incomplete UTF-8 character.
size_t incomplete(const std::string& text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const unsigned char byte = text[text.size() - back];
    if ((byte & 0xc0u) == 0x80u) continue;
    const size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace

FakeEngine::FakeEngine(FakeOptions fake, EngineOptions options) : fake_(fake), options_(std::move(options)) {
  info_.name = "tiny";
  info_.path = "tiny";
  info_.architecture = "FakeForCausalLM";
  info_.vocab_size = kVocabulary;
  info_.max_seq_len = fake_.context;
  info_.parameters = 1;
  info_.has_chat_template = true;
  info_.dtype = "float32";
  counts_.core.cache = {{.max_blocks = 1000}};
  thread_ = std::thread([this] { loop(); });
}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<std::string> FakeEngine::render_chat(const Request& request) const {
  std::string text;
  for (const Json& message : request.messages->items()) {
    const Json& content = *message.find("content");
    text += message.find("role")->as_string() + ": ";
    if (content.is_string()) text += content.as_string();
    if (content.is_array())
      for (const Json& part : content.items()) text += part.find("text")->as_string();
    text += "\n";
  }
  return text + opening_;
}

Result<std::vector<int32_t>> FakeEngine::prompt_tokens(const Request& request) const {
  if (request.prompt_token_ids) return *request.prompt_token_ids;
  std::string text = request.prompt.value_or("");
  if (request.messages) {
    WEFT_TRY(text, render_chat(request));
  }
  WEFT_RETURN_IF_ERROR(hang(request, text));
  std::vector<int32_t> ids;
  for (const unsigned char byte : text) ids.push_back(byte);
  return ids;
}

void FakeEngine::hang_at(std::string text, bool looks_at_stop_flag) {
  const std::lock_guard lock(hang_mutex_);
  hang_at_ = std::move(text), looks_ = looks_at_stop_flag;
}

void FakeEngine::let_go() {
  const std::lock_guard lock(hang_mutex_);
  hang_at_.clear();
  let_go_.notify_all();
}

Status FakeEngine::hang(const Request& request, const std::string& text) const {
  ++tokenized_;
  std::unique_lock lock(hang_mutex_);
  if (hang_at_.empty() || text.find(hang_at_) == std::string::npos) return {};
  ++hanging_;
  Status stopped;
  while (!hang_at_.empty() && stopped.ok()) {
    let_go_.wait_for(lock, std::chrono::milliseconds(5));
    if (looks_) stopped = check_stop(request.stop_flag.get());
  }
  --hanging_;
  return stopped;
}

std::string FakeEngine::decode(const std::vector<int32_t>& ids, bool) const {
  std::string text;
  for (const int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string FakeEngine::token_bytes(int32_t id) const {
  return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : "";
}

Status FakeEngine::check(const Request& request, const std::vector<int32_t>& prompt) const {
  const SamplingParams& s = request.sampling;
  const auto range = [](const char* name, double value, double low, double high) -> Status {
    if (value >= low && value <= high) return {};
    return fail(Code::invalid_argument, name, " must be between ", low, " and ", high, ", got ", value).about(name);
  };
  WEFT_RETURN_IF_ERROR(range("temperature", s.temperature, 0, 2));
  WEFT_RETURN_IF_ERROR(range("top_p", s.top_p, 1e-40, 1));
  WEFT_RETURN_IF_ERROR(range("presence_penalty", s.presence_penalty, -2, 2));
  WEFT_RETURN_IF_ERROR(range("frequency_penalty", s.frequency_penalty, -2, 2));
  for (const auto& [id, bias] : s.logit_bias) {
    WEFT_RETURN_IF_ERROR(range("logit_bias", id, 0, kVocabulary - 1));
    WEFT_RETURN_IF_ERROR(range("logit_bias", bias, -100, 100));
  }
  for (const int32_t id : s.stop_token_ids) WEFT_RETURN_IF_ERROR(range("stop_token_ids", id, 0, kVocabulary - 1));
  for (const int32_t id : prompt) WEFT_RETURN_IF_ERROR(range("prompt", id, 0, kVocabulary - 1));
  if (prompt.empty()) return fail(Code::invalid_argument, "the prompt is empty").about("prompt");
  if (static_cast<int>(prompt.size()) >= fake_.context)
    return context_exceeded(static_cast<int64_t>(prompt.size()), fake_.context, "prompt");
  return {};
}

Result<RequestId> FakeEngine::submit(Request request, EventSink sink) {
  WEFT_TRY(std::vector<int32_t> prompt, prompt_tokens(request));
  WEFT_RETURN_IF_ERROR(check(request, prompt));
  const int room = fake_.context - static_cast<int>(prompt.size());
  request.max_tokens = std::min(request.max_tokens.value_or(room), room);
  const auto running = std::make_shared<Running>();
  running->answer = answer_to(request);
  const std::lock_guard lock(mutex_);
  if (static_cast<int>(waiting_.size()) >= fake_.queue)
    return fail(Code::resource_exhausted, "the queue is full (", fake_.queue, " requests); try again later");
  ++counts_.requests.entered;
  counts_.requests.prompt_tokens += static_cast<int64_t>(prompt.size());
  context_servers_ = request.context_servers, lora_ = request.lora;
  cache_blocks_of(request, prompt);
  running->id = next_, running->request = std::move(request), running->sink = std::move(sink);
  running->prompt = std::move(prompt);
  waiting_.push_back(running);
  if (sequences_++ == 0) progress_ = seconds();
  changed_.notify_all();
  return next_++;
}

Result<RequestId> FakeEngine::submit_score(Request request, ScoreSink sink) {
  WEFT_TRY(const std::vector<int32_t> prompt, prompt_tokens(request));
  WEFT_RETURN_IF_ERROR(check(request, prompt));
  ScoreResult result;
  const auto count = static_cast<int64_t>(prompt.size());
  result.tensors["input_ids"] = {{count}, std::vector<int64_t>(prompt.begin(), prompt.end())};
  result.tensors["logits"] = {{count, 2}, std::vector<float>(static_cast<size_t>(2 * count), 0.5f)};
  sink(std::move(result));
  const std::lock_guard lock(mutex_);
  return next_++;
}

void FakeEngine::cancel(RequestId id) {
  std::shared_ptr<Running> found;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& one : running_)
      if (one->id == id) found = one;
    for (const auto& one : waiting_)
      if (one->id == id) found = one;
    if (!found || found->done) return;
    std::erase(waiting_, found);
    ++counts_.requests.cancelled;
    emit(*found, -1, "", FinishReason::cancelled, {});
  }
  deliver(*found);
}

void FakeEngine::hold() {
  const std::lock_guard lock(mutex_);
  ++held_;
}
void FakeEngine::release() {
  const std::lock_guard lock(mutex_);
  --held_;
  changed_.notify_all();
}

Status FakeEngine::health() const {
  const std::lock_guard lock(mutex_);
  return lost_.empty() ? Status() : Error(Code::unavailable, lost_);
}

void FakeEngine::lose_ranks(std::string why) {
  const std::lock_guard lock(mutex_);
  lost_ = std::move(why);
}

EngineWatch FakeEngine::watch() const {
  const int sequences = sequences_;
  return {sequences, sequences > 0 ? seconds() - progress_ : 0};
}

EngineMetrics FakeEngine::metrics() const {
  const std::lock_guard lock(mutex_);
  EngineMetrics metrics = counts_;
  metrics.core.scheduler.running =
      static_cast<int>(std::ranges::count_if(running_, [](const auto& running) { return !running->done; }));
  metrics.core.scheduler.waiting = static_cast<int>(waiting_.size());
  metrics.core.cache[0].used = metrics.core.scheduler.running;
  return metrics;
}

Result<KvCacheEvents> FakeEngine::take_kv_cache_events() {
  if (!fake_.cache_events) return fail(Code::invalid_argument, "events of the KV cache are not recorded");
  const std::string hash(64, 'a'), parent(64, 'b');
  return KvCacheEvents{{{1, true, 0, hash, parent, {5, 6}}, {2, false, 1, hash, "", {}, 3}}, 1, 3, fake_.cache_homes};
}

Result<KvCacheEvents> FakeEngine::read_kv_cache_events(uint64_t after, size_t limit) {
  if (options_.kv_cache_events == 0) return fail(Code::invalid_argument, "events of the KV cache are not recorded");
  const std::lock_guard lock(mutex_);
  KvCacheEvents result;
  const uint64_t first = next_event_ - events_.size();
  result.lost = first > after ? first - after : 0;
  result.next_id = std::min(std::max(first, after), next_event_);
  for (; result.next_id < next_event_ && result.events.size() < limit; ++result.next_id)
    result.events.push_back(events_[static_cast<size_t>(result.next_id - first)]);
  return result;
}

void FakeEngine::forget_events_before(uint64_t id) {
  const std::lock_guard lock(mutex_);
  while (!events_.empty() && events_.front().id < id) events_.pop_front();
}

Status FakeEngine::load_adapter(const std::string& name, const std::string& path) {
  if (!options_.lora.allow_loading) return fail(Code::unsupported, "adapters are not loaded at run time");
  if (!path.starts_with("/adapters/")) return fail(Code::not_found, path, " is not there");
  const std::lock_guard lock(mutex_);
  if (!adapters_.emplace(name, path).second)
    return fail(Code::invalid_argument, "there is an adapter ", name, " already").about("lora_name");
  return {};
}

Status FakeEngine::unload_adapter(const std::string& name) {
  if (!options_.lora.allow_loading) return fail(Code::unsupported, "adapters are not unloaded at run time");
  const std::lock_guard lock(mutex_);
  if (adapters_.erase(name) == 0) return fail(Code::not_found, "there is no adapter ", name).about("lora_name");
  return {};
}

bool FakeEngine::has_adapter(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return adapters_.contains(name);
}

std::vector<AdapterInfo> FakeEngine::adapters() const {
  const std::lock_guard lock(mutex_);
  std::vector<AdapterInfo> all;
  for (const auto& [name, path] : adapters_) all.push_back({.name = name, .path = path, .loaded = true, .added = 7});
  return all;
}

std::string FakeEngine::last_lora() const {
  const std::lock_guard lock(mutex_);
  return lora_;
}

std::vector<std::string> FakeEngine::last_context_servers() const {
  const std::lock_guard lock(mutex_);
  return context_servers_;
}

namespace {

// The keys of a prompt's blocks, and the root: digests of all that is in front of a block's end.
std::vector<std::string> keys_of(const std::string& salt, const std::vector<int32_t>& prompt, int tokens_per_block) {
  std::string all = salt + "|";
  std::vector<std::string> keys{hex_of(sha256(std::as_bytes(std::span(all))))};
  for (size_t i = 0; i < prompt.size(); ++i) {
    all += std::to_string(prompt[i]) + ",";
    if ((i + 1) % static_cast<size_t>(tokens_per_block) == 0)
      keys.push_back(hex_of(sha256(std::as_bytes(std::span(all)))));
  }
  return keys;
}

}  // namespace

Result<PromptBlocks> FakeEngine::block_keys(const Request& request) const {
  WEFT_TRY(const std::vector<int32_t> prompt, prompt_tokens(request));
  WEFT_RETURN_IF_ERROR(check(request, prompt));
  std::vector<std::string> keys = keys_of(request.cache_salt, prompt, options_.tokens_per_block);
  keys.erase(keys.begin());
  return PromptBlocks{static_cast<int>(prompt.size()), std::move(keys)};
}

// With the mutex.
void FakeEngine::cache_blocks_of(const Request& request, const std::vector<int32_t>& prompt) {
  if (options_.kv_cache_events == 0) return;
  const std::vector<std::string> keys = keys_of(request.cache_salt, prompt, options_.tokens_per_block);
  for (size_t i = 1; i < keys.size(); ++i) {
    if (!cached_.insert(keys[i]).second) continue;
    events_.push_back({next_event_++, true, 0, keys[i], keys[i - 1], {}});
    if (static_cast<int>(events_.size()) > options_.kv_cache_events) events_.pop_front();
  }
}

void FakeEngine::loop() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || (held_ == 0 && (!waiting_.empty() || !running_.empty())); });
      if (stopping_) return;
      while (!waiting_.empty() && static_cast<int>(running_.size()) < fake_.batch) {
        running_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
      }
      ++counts_.core.scheduler.steps;
      progress_ = seconds();
    }
    std::this_thread::sleep_for(fake_.step);
    for (const auto& running : std::vector(running_)) {
      {
        const std::lock_guard lock(mutex_);
        if (!running->done) step(*running);
      }
      deliver(*running);
    }
    const std::lock_guard lock(mutex_);
    std::erase_if(running_, [](const auto& running) { return running->done; });
  }
}

// With the mutex.
void FakeEngine::step(Running& running) {
  const bool scripted = !running.answer.empty();
  const auto place = static_cast<size_t>(running.generated);
  const int32_t token = scripted ? static_cast<unsigned char>(running.answer[place % running.answer.size()])
                                 : running.prompt[place % running.prompt.size()];
  ++running.generated;
  ++counts_.requests.generation_tokens;
  if (fail_after_ > 0 && running.generated >= fail_after_)
    return emit(running, -1, "", FinishReason::error, {}, Error(Code::internal, "a number is not finite"));
  running.pending += token_bytes(token);
  const size_t held = incomplete(running.pending);
  std::string text = running.pending.substr(0, running.pending.size() - held);
  running.pending.erase(0, text.size());
  running.text += text;
  FinishReason finish = running.generated >= *running.request.max_tokens ? FinishReason::length : FinishReason::none;
  if (scripted && place + 1 == running.answer.size()) finish = FinishReason::stop;
  Json stop_reason;
  for (const std::string& stop : running.request.stop) {
    if (!running.text.ends_with(stop)) continue;
    finish = FinishReason::stop;
    stop_reason = stop;
    text.clear();
  }
  if (finish != FinishReason::none) ++counts_.requests.finished;
  emit(running, token, text, finish, stop_reason);
}

// Without the mutex. A sink that cancels its own request comes back here and leaves the events to the outer call.
void FakeEngine::deliver(Running& running) {
  const std::lock_guard turn(running.delivery);
  if (running.delivering) return;
  running.delivering = true;
  for (;;) {
    Event event;
    {
      const std::lock_guard lock(mutex_);
      if (running.outbox.empty()) break;
      event = std::move(running.outbox.front());
      running.outbox.pop_front();
    }
    running.sink(event);
  }
  running.delivering = false;
}

// With the mutex.
void FakeEngine::emit(Running& running, int32_t token, const std::string& text, FinishReason finish, Json stop_reason,
                      std::optional<Error> error) {
  const auto info = [](int32_t id, int alternatives) {
    TokenInfo token_info;
    token_info.token = id;
    if (alternatives >= 0) token_info.logprob = -0.25f, token_info.rank = 2;
    for (int i = 0; i < alternatives; ++i)
      token_info.top.push_back({(id + i) % 256, -0.25f - 0.5f * static_cast<float>(i)});
    return token_info;
  };
  const bool ends = finish != FinishReason::none;
  for (int i = 0; i < running.request.n; ++i) {
    Event event;
    event.choice = i;
    event.text = text;
    if (token >= 0) event.tokens.push_back(info(token, running.request.sampling.logprobs));
    event.finish = finish;
    event.stop_reason = stop_reason;
    event.error = error;
    if (i == 0 && running.generated <= 1) {
      auto prompt = std::make_shared<std::vector<TokenInfo>>();
      for (const int32_t id : running.prompt)
        prompt->push_back(info(id, prompt->empty() ? -1 : running.request.sampling.prompt_logprobs));
      event.prompt = prompt;
    }
    event.last_of_request = ends && i + 1 == running.request.n;
    event.usage.prompt_tokens = static_cast<int>(running.prompt.size());
    event.usage.completion_tokens = running.generated * running.request.n;
    event.seed = running.request.seed.value_or(1);
    running.outbox.push_back(std::move(event));
  }
  if (ends && !std::exchange(running.done, true)) --sequences_;
}

Result<std::unique_ptr<Engine>> load_fake_engine(const std::string& model, const EngineOptions& options,
                                                 const Progress& progress) {
  if (!is_directory(model) && !is_file(model)) return fail(Code::not_found, "no model at ", model);
  if (progress) progress(1, 1);
  FakeOptions fake;
  fake.step = std::chrono::microseconds(20000);
  return std::unique_ptr<Engine>(new FakeEngine(fake, options));
}

}  // namespace weft
