// What a sequence may wait for before it is scheduled: images' features, and blocks of other servers; and the prompts
// of other servers.
#include <algorithm>
#include <chrono>

#include "base/clock.h"
#include "runtime/engine_core.h"
#include "runtime/media_message.h"

namespace weft {

namespace {

// Ids of another server's prompt are in the vocabulary, but for those in whose place features stand, and the image's
// token of a model with cross attention, which has a row in the table behind the logits' rows.
Status check_tokens(const std::vector<int32_t>& tokens, const PromptMedia& media, int vocab) {
  std::vector<bool> covered(tokens.size());
  const bool cross = media.places && !media.places->cross.empty();
  if (media.places)
    for (const MediaPrompt::Span& span : media.places->spans)
      std::fill_n(covered.begin() + span.position, span.count, true);
  for (size_t i = 0; i < tokens.size(); ++i)
    if (!covered[i] && (tokens[i] < 0 || tokens[i] >= vocab + (cross ? 8 : 0)))
      return fail(Code::invalid_argument, "token id ", tokens[i], " is outside the vocabulary of ", vocab);
  return {};
}

// Images of another server's prompt: what the tower reads is there, and so are the features that the prompt names.
Status check_media(const PromptMedia& prompt, const std::optional<models::VisionTower>& vision) {
  if (prompt.media.empty()) return {};
  if (!vision) return fail(Code::invalid_argument, "the model takes no images");
  std::vector<int> rows;
  for (const auto& image : prompt.media) {
    if (!vision->fits(*image)) return fail(Code::invalid_argument, "an image is none of this model's");
    rows.push_back(models::feature_rows(vision->arrange(*image)));
  }
  for (const MediaPrompt::Span& span : prompt.places->spans)
    if (span.count > rows[static_cast<size_t>(span.media)] - span.first)
      return fail(Code::invalid_argument, "an image has fewer features than its prompt names");
  for (size_t i = 0; i < prompt.places->real_rows.size(); ++i)
    if (prompt.places->real_rows[i] > rows[i])
      return fail(Code::invalid_argument, "an image has fewer keys than its prompt names");
  return {};
}

}  // namespace

// For other servers.
RemotePrompt EngineCore::remote_prompt(const Submission& submission) const {
  const NewSequence& sequence = submission.sequence;
  RemotePrompt remote{submission.context_servers, {}, {}, {}};
  for (const auto& image : submission.media)
    remote.images.push_back({image->hash, static_cast<uint32_t>(feature_rows(model().vision->arrange(*image))),
                             static_cast<uint32_t>(model().vision->plan.output.cols)});
  remote.prompt.salt = sequence.cache.salt, remote.prompt.priority = sequence.priority;
  remote.prompt.client = sequence.client;
  if (sequence.adapter)
    remote.prompt.adapter = sequence.adapter->name, remote.prompt.adapter_digest = sequence.adapter->digest;
  remote.prompt.tokens = sequence.prompt.copy(), remote.prompt.content = sequence.cache.content;
  if (submission.media_prompt) remote.prompt.media = encode_media({submission.media, submission.media_prompt});
  return remote;
}

// Takes what the feature cache has. Returns true if nothing is left to encode.
bool EngineCore::find_features(std::span<const std::shared_ptr<const PreparedMedia>> media, MediaPrompt* prompt) {
  bool complete = true;
  for (size_t i = 0; i < media.size(); ++i) {
    if (prompt->features[i]) continue;
    prompt->features[i] = features_.find(media[i]->hash);
    if (prompt->features[i]) ++images_reused_;
    else complete = false;
  }
  return complete;
}

// Queues the images for encoding. An image that is queued already is encoded only once, for all sequences that wait for
// it.
void EngineCore::enqueue_images(SequenceId id, std::span<const std::shared_ptr<const PreparedMedia>> media,
                                const std::shared_ptr<MediaPrompt>& prompt) {
  for (size_t i = 0; i < media.size(); ++i) {
    if (prompt->features[i]) continue;
    const auto same = [&](const Encoding& e) { return e.media->hash == media[i]->hash; };
    auto found = std::find_if(encodings_.begin(), encodings_.end(), same);
    if (found == encodings_.end()) encodings_.push_back({media[i], -1, {}}), found = std::prev(encodings_.end());
    else ++images_reused_;
    found->waiters.push_back({id, prompt, static_cast<int>(i)});
  }
  step_wake_.notify_one();
}

// The step thread's: encodes for about as long as a decode step takes, so that running streams go on in between. Other
// processes encode meanwhile, until the next step is announced.
void EngineCore::encode_slice(std::unique_lock<std::mutex>& lock) {
  constexpr double kSliceSeconds = 0.02;
  for (const double end = seconds() + kSliceSeconds; !encodings_.empty() && seconds() < end;) {
    try {
      encode_a_little(lock);
    } catch (const std::bad_alloc&) {
      if (encoders_->processes() > 1) throw;  // what the others do is not known
      if (!lock.owns_lock()) lock.lock();
      give_up_image();
    }
  }
}

void EngineCore::encode_a_little(std::unique_lock<std::mutex>& lock) {
  hand_out_images(lock);
  lock.unlock();
  const std::vector<ImageEncoders::Encoded> done = encoders_->work();
  got_on();
  lock.lock();
  for (const ImageEncoders::Encoded& image : done) finish_encoding(image);
}

// There was no memory for the image in work: the sequences that wait for it end.
void EngineCore::give_up_image() noexcept {
  encoders_->drop_own();
  const auto found = std::ranges::find(encodings_, 0, &Encoding::process);
  if (found == encodings_.end()) return;
  const Encoding given_up = std::move(*found);
  encodings_.erase(found);
  for (const Encoding::Waiter& waiter : given_up.waiters)
    end_with(static_cast<uint64_t>(waiter.id), Code::resource_exhausted, "memory ran out when an image was encoded");
}

// In the order in which they came, to processes that have none; a single one is for this process.
void EngineCore::hand_out_images(std::unique_lock<std::mutex>& lock) {
  // Nobody waits for them any more: all were cancelled.
  std::erase_if(encodings_, [&](Encoding& e) {
    if (e.process >= 0) return false;
    std::erase_if(e.waiters,
                  [&](const Encoding::Waiter& w) { return !entries_.contains(static_cast<uint64_t>(w.id)); });
    return e.waiters.empty();
  });
  for (int process = 0; process < encoders_->processes(); ++process) {
    if (!encoders_->is_free(process)) continue;
    const auto next = std::ranges::find(encodings_, -1, &Encoding::process);
    if (next == encodings_.end()) return;
    next->process = process;
    std::shared_ptr<const PreparedMedia> media = next->media;
    lock.unlock();
    encoders_->begin(process, std::move(media));
    lock.lock();
  }
}

void EngineCore::finish_encoding(const ImageEncoders::Encoded& image) noexcept {
  const auto found = std::ranges::find(encodings_, image.process, &Encoding::process);
  const Encoding done = std::move(*found);
  encodings_.erase(found);
  ++images_encoded_[static_cast<size_t>(image.process)];
  try {
    features_.insert(done.media->hash, image.features);
  } catch (const std::bad_alloc&) {  // it is encoded again when it comes again
  }
  tell_exchange([&] { exchange_->stepped(); });
  for (const Encoding::Waiter& waiter : done.waiters) {
    // Choices share their prompt: whoever has all of its features may be reading them already.
    if (!waiter.prompt->features[waiter.index]) waiter.prompt->features[waiter.index] = image.features;
    const bool complete = std::all_of(waiter.prompt->features.begin(), waiter.prompt->features.end(),
                                      [](const auto& f) { return f != nullptr; });
    if (complete) let_go_on(waiter.id);
  }
}

// What the tier had is in the cache.
void EngineCore::ask_other_servers(SequenceId id) noexcept {
  const auto found = entries_.find(static_cast<uint64_t>(id));
  if (found == entries_.end()) return;
  std::optional<RemotePrompt> remote = std::exchange(found->second->remote, std::nullopt);
  if (!remote) return let_go_on(id);
  try {
    exchange_->fetch(id, std::move(*remote));
  } catch (const std::bad_alloc&) {  // then nothing is fetched
    end_fetch(id);
  }
}

// Other servers have sent what they could. Images whose features did not come are encoded here.
void EngineCore::end_fetch(SequenceId id) noexcept {
  const auto found = entries_.find(static_cast<uint64_t>(id));
  if (found == entries_.end()) return;
  const std::shared_ptr<Entry> entry = found->second;
  const auto media = std::exchange(entry->media, {});
  try {
    if (!media.empty()) {
      if (find_features(media, entry->media_prompt.get())) let_go_on(id);
      else enqueue_images(id, media, entry->media_prompt);
    }
    let_go_on(id);
  } catch (const std::bad_alloc&) {
    end_with(static_cast<uint64_t>(id), Code::resource_exhausted, "memory ran out for the request's images");
  }
}

Status EngineCore::open_exchange() {
  if (!options_.transport) return {};
  PeerExchange::Engine engine;
  engine.ready = [this](SequenceId id) { end_fetch(id); };
  engine.compute = [this](ComputeMessage prompt, PromptMedia media, std::function<void(const std::string&)> done) {
    return compute_for_another(std::move(prompt), std::move(media), std::move(done));
  };
  engine.find_features = [this](const Digest& image) { return features_.find(image); };
  engine.put_features = [this](const Digest& image, std::shared_ptr<const MediaFeatures> features) {
    features_.insert(image, std::move(features));
  };
  engine.cancel = [this](SequenceId id) { cancel(id); };
  engine.freed = [this] { engine_wake_.notify_one(); };
  WEFT_TRY(std::unique_ptr<PeerExchange> exchange,
           PeerExchange::open(options_.exchange, options_.transport, worker_->runner(), mutex_, scheduler_, engine));
  const std::lock_guard lock(mutex_);
  exchange_ = std::move(exchange);
  return {};
}

// The prompt of another server: a sequence that generates nothing. It takes the turns of the client that asked there.
Result<SequenceId> EngineCore::compute_for_another(ComputeMessage prompt, PromptMedia media,
                                                   std::function<void(const std::string& why)> done) {
  WEFT_RETURN_IF_ERROR(check_queue(prompt.client));
  WEFT_RETURN_IF_ERROR(check_media(media, model().vision));
  WEFT_RETURN_IF_ERROR(check_tokens(prompt.tokens, media, model().vocab));
  SamplingParams sampling;
  sampling.max_tokens = 0;
  Submission submission;
  submission.sequence.prompt = std::move(prompt.tokens);
  submission.sequence.sampling = std::make_shared<const SamplingParams>(std::move(sampling));
  submission.sequence.priority = prompt.priority, submission.sequence.client = prompt.client;
  if (!prompt.adapter.empty()) {
    WEFT_TRY(submission.sequence.adapter, use_adapter(prompt.adapter));
    if (submission.sequence.adapter->digest != prompt.adapter_digest)
      return weft::fail(Code::not_found, "the adapter ", prompt.adapter, " is another one here");
  }
  submission.sequence.cache.adapter = adapter_identity(submission.sequence.adapter);
  submission.sequence.cache.salt = std::move(prompt.salt);
  submission.sequence.cache.content = std::move(prompt.content);
  submission.media = std::move(media.media), submission.media_prompt = std::move(media.places);
  submission.sink = [done = std::move(done)](const SequenceOutput& output) {
    if (output.reason == FinishReason::none) return true;
    done(output.reason == FinishReason::error ? output.error : "");
    return false;
  };
  return submit(std::move(submission));
}

// One reason less why the sequence is held.
void EngineCore::let_go_on(SequenceId id) noexcept {
  const auto found = entries_.find(static_cast<uint64_t>(id));
  if (found != entries_.end() && --found->second->waits == 0) scheduler_.release(id);
  engine_wake_.notify_one();
}

}  // namespace weft
