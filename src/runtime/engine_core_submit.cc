// How sequences come into the engine, and leave it before their end. What can be done without the mutex is done before
// it is taken; and where many come at once, it is let go again and again, so that steps go on beside.
#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "runtime/engine_core.h"

namespace weft {

namespace {

// For whoever waits for the mutex.
constexpr auto kPause = std::chrono::microseconds(50);

}  // namespace

// Calls work(i) for i = 0, 1, ... under the mutex, until it returns false. The engine waits for no more than a slice:
// behind each the mutex stays free for long enough that a thread which waits for it has it. The engine's own thread,
// for which nobody waits, makes no pauses.
void EngineCore::in_slices(size_t count, const std::function<bool(size_t)>& work) {
  constexpr size_t kLookAtClock = 8;
  constexpr double kSliceSeconds = 100e-6;
  const bool pauses = count > kLookAtClock && std::this_thread::get_id() != engine_thread_.get_id();
  std::unique_lock turn(entering_, std::defer_lock);
  if (pauses) turn.lock();  // the pauses of one would be another's slices
  std::unique_lock lock(mutex_);
  double begin = seconds();
  for (size_t i = 0; i < count && work(i); ++i) {
    if (!pauses || i % kLookAtClock != kLookAtClock - 1 || seconds() - begin < kSliceSeconds) continue;
    lock.unlock();
    std::this_thread::sleep_for(kPause);
    lock.lock();
    begin = seconds();
  }
}

// All that needs no lock: a prompt for other servers is copied, and its images are.
std::shared_ptr<EngineCore::Entry> EngineCore::prepare(Submission& submission) const {
  auto entry = std::make_shared<Entry>();
  if (!submission.context_servers.empty() && exchange_) entry->remote = remote_prompt(submission);
  submission.sequence.guided = submission.grammar != nullptr;
  submission.sequence.media = submission.media_prompt;
  submission.sequence.whole_media = model().plan().joined_images;
  entry->sink = std::move(submission.sink), entry->grammar = std::move(submission.grammar);
  entry->deadline = submission.deadline;
  return entry;
}

// Under the mutex. Where memory runs out, nothing of it is left.
Result<SequenceId> EngineCore::enter(Submission& submission, std::shared_ptr<Entry> entry) {
  if (!failure_.empty()) return Error(Code::unavailable, failure_);
  const bool lacks_images = !find_features(submission.media, submission.media_prompt.get());
  const bool elsewhere = tier_ || entry->remote.has_value();
  submission.sequence.held = lacks_images || elsewhere;
  if (sequences_ == 0) got_on();
  ++sequences_, entry->counted.count = &sequences_;
  WEFT_TRY(const SequenceId id, scheduler_.add(std::move(submission.sequence)));
  try {
    book(id, std::move(entry), submission, lacks_images, elsewhere);
  } catch (...) {
    take_entry(static_cast<uint64_t>(id));
    scheduler_.finish(id);
    tell_exchange([&] { exchange_->forget(id); });
    throw;
  }
  engine_wake_.notify_one();
  return id;
}

// The sequence is in the scheduler.
void EngineCore::book(SequenceId id, std::shared_ptr<Entry> owner, Submission& submission, bool lacks_images,
                      bool elsewhere) {
  Entry& entry = *owner;
  if (lacks_images && entry.remote)
    entry.media = std::move(submission.media), entry.media_prompt = submission.media_prompt;
  else if (lacks_images) enqueue_images(id, submission.media, submission.media_prompt);
  entry.waits = lacks_images + elsewhere;
  entries_.emplace(static_cast<uint64_t>(id), std::move(owner));
  if (entry.deadline > 0) deadlines_.emplace(entry.deadline, static_cast<uint64_t>(id));
  if (tier_) tier_->import(id);
  else if (elsewhere) ask_other_servers(id);
}

Result<SequenceId> EngineCore::submit(Submission submission) {
  std::shared_ptr<Entry> entry = prepare(submission);
  const std::lock_guard lock(mutex_);
  return enter(submission, std::move(entry));
}

Result<std::vector<SequenceId>> EngineCore::submit(std::vector<Submission> submissions) {
  std::vector<std::shared_ptr<Entry>> entries;
  entries.reserve(submissions.size());
  for (Submission& submission : submissions) entries.push_back(prepare(submission));
  std::vector<SequenceId> ids;
  ids.reserve(submissions.size());
  Status status;
  try {
    in_slices(submissions.size(), [&](size_t i) {
      auto id = enter(submissions[i], std::move(entries[i]));
      if (id.ok()) ids.push_back(*id);
      else status = std::move(id).error();
      return status.ok();
    });
  } catch (...) {
    cancel(ids);
    throw;
  }
  if (status.ok()) return ids;
  cancel(ids);
  return std::move(status).error();
}

// Needs no memory.
void EngineCore::cancel(std::span<const SequenceId> ids) {
  // Destroyed without the mutex: what the sinks hold is not ours to know, and may call us when it goes.
  std::array<std::shared_ptr<Entry>, 32> gone;
  for (size_t first = 0; first < ids.size(); first += gone.size()) {
    if (first > 0 && std::this_thread::get_id() != engine_thread_.get_id()) std::this_thread::sleep_for(kPause);
    const auto part = ids.subspan(first, std::min(gone.size(), ids.size() - first));
    {
      const std::lock_guard lock(mutex_);
      for (size_t i = 0; i < part.size(); ++i) {
        scheduler_.finish(part[i]);
        // Its grammar is still needed if a step in flight waits for its mask; begin_masks and fill_masks cope with its
        // absence.
        gone[i] = take_entry(static_cast<uint64_t>(part[i]));
        tell_exchange([&] { exchange_->forget(part[i]); });
      }
      if (tier_) tier_->wake_exporter();
      engine_wake_.notify_one();
    }
    gone.fill(nullptr);
  }
}

// Nothing of it is known any more. Null: that was so before. Whoever gets it lets it go without the mutex: what a sink
// holds is not ours to know, and may call us.
std::shared_ptr<EngineCore::Entry> EngineCore::take_entry(uint64_t id) noexcept {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  std::shared_ptr<Entry> entry = std::move(found->second);
  entries_.erase(found);
  if (entry->deadline > 0) deadlines_.erase({entry->deadline, id});
  return entry;
}

Result<AdapterLease> EngineCore::use_adapter(const std::string& name) const {
  if (name.empty()) return AdapterLease();
  if (adapters_) return adapters_->use(name);
  return weft::fail(Code::not_found, "there is no adapter ", name, ": none were given, and none can be loaded")
      .about("lora");
}

// ---- The queue's bounds ---------------------------------------------------------------------------------------------

Status EngineCore::check_queue(uint64_t client) const {
  if (options_.max_queue <= 0 && options_.max_queue_per_client <= 0) return {};
  Scheduler::Queue queue;
  {
    const std::lock_guard lock(mutex_);
    queue = scheduler_.queue(client);
  }
  const auto refuse = [&](const char* whose, int waiting, const char* option, int limit) -> Status {
    return weft::fail(Code::resource_exhausted, waiting, " requests", whose, " are waiting, and ", option, " is ",
                      limit, ": try again in ", queue.seconds, " s");
  };
  if (options_.max_queue > 0 && queue.requests >= options_.max_queue)
    return refuse("", queue.requests, "--max-queue", options_.max_queue);
  if (client != 0 && options_.max_queue_per_client > 0 && queue.of_client >= options_.max_queue_per_client)
    return refuse(" of this client", queue.of_client, "--max-queue-per-client", options_.max_queue_per_client);
  return {};
}

int EngineCore::retry_seconds() const {
  const std::lock_guard lock(mutex_);
  return scheduler_.queue(0).seconds;
}

// ---- Deadlines ------------------------------------------------------------------------------------------------------

// Until somebody has something to do for the engine thread, or a deadline has come.
void EngineCore::wait_for_work(std::unique_lock<std::mutex>& lock) {
  if (deadlines_.empty()) return engine_wake_.wait(lock);
  const double left = std::clamp(deadlines_.begin()->first - seconds(), 0.0, 3600.0);
  engine_wake_.wait_for(lock, std::chrono::duration<double>(left + 0.001));
}

// What has not ended by its deadline ends with an error now. Rows in flight of it are discarded.
void EngineCore::end_expired() noexcept {
  if (deadlines_.empty() || stopping_) return;
  for (const double now = seconds(); !deadlines_.empty() && deadlines_.begin()->first <= now;) {
    const uint64_t id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    end_with(id, Code::deadline_exceeded,
             "the request was not done within the time that it may take (timeout, --request-timeout)");
    if (tier_) tier_->wake_exporter();
  }
}

}  // namespace weft
