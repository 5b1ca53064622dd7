#include "api/running_request.h"

#include <algorithm>
#include <utility>

namespace weft {
namespace {

TokenInfo token_info(int32_t token, const std::vector<TokenLogprob>* logprobs) {
  TokenInfo info{token, std::nullopt, 0, {}};
  if (logprobs && !logprobs->empty()) {
    info.logprob = logprobs->front().logprob;
    info.rank = logprobs->front().rank;
    info.top.assign(logprobs->begin() + 1, logprobs->end());
  }
  return info;
}

}  // namespace

RunningRequest::RunningRequest(Setup setup, std::shared_ptr<const Tokenizer> tokenizer, EventSink sink)
    : setup_(std::move(setup)), stops_(std::make_shared<const StopSet>(setup_.stop)), sink_(std::move(sink)),
      running_(setup_.choices) {
  choices_.reserve(static_cast<size_t>(setup_.choices));
  for (int i = 0; i < setup_.choices; ++i) {
    Choice choice;
    if (tokenizer)
      choice.detokenizer = std::make_unique<Detokenizer>(tokenizer, setup_.skip_special, setup_.kept_special);
    choice.stops.emplace(stops_, setup_.include_stop);
    choices_.push_back(std::move(choice));
  }
  for (int32_t token : setup_.prompt) prompt_.push_back({token, std::nullopt, 0, {}});
  usage_.prompt_tokens = static_cast<int>(setup_.prompt.size());
}

bool RunningRequest::finished() const {
  const std::lock_guard lock(mutex_);
  return running_ == 0;
}

bool RunningRequest::on_output(int index, const SequenceOutput& output) {
  const bool go_on = take(index, output);
  deliver();
  return go_on;
}

// False: the choice has its end.
bool RunningRequest::take(int index, const SequenceOutput& output) {
  const std::lock_guard lock(mutex_);
  Choice& choice = choices_[index];
  if (choice.done) return false;
  if (index == 0) {
    usage_.cached_tokens = output.cached_tokens;
    // Prompt logprobs arrive chunk by chunk, in order, and begin with the prompt's second token.
    for (const std::vector<TokenLogprob>& logprobs : output.prompt_logprobs) {
      const auto next =
          std::find_if(prompt_.begin() + 1, prompt_.end(), [](const TokenInfo& info) { return !info.logprob; });
      if (next != prompt_.end()) *next = token_info(next->token, &logprobs);
    }
  }
  Event event;
  // The prompt's logits come first, and from choice 0 alone.
  const size_t of_prompt = index == 0 ? std::min(output.outputs.size(), setup_.context_logits - prompt_values_) : 0;
  prompt_values_ += of_prompt;
  const auto generated = output.outputs.begin() + static_cast<std::ptrdiff_t>(of_prompt);
  prompt_logits_.insert(prompt_logits_.end(), output.outputs.begin(), generated);
  event.finish = output.reason;
  if (output.reason == FinishReason::error) event.error = Error(output.error_code, output.error);
  else add_tokens(choice, output, event);
  count_drafts(output, event);
  if (!event.tokens.empty()) {  // a row for each token; those behind a stop string are no part of the answer
    const auto row = (output.outputs.end() - generated) / static_cast<std::ptrdiff_t>(output.tokens.size());
    event.logits.assign(generated, generated + row * static_cast<std::ptrdiff_t>(event.tokens.size()));
  }
  if (event.finish == FinishReason::none && event.tokens.empty()) return true;  // a chunk of the prompt
  if (event.finish != FinishReason::none) {
    end_text(choice, event);
    choice.done = true;
    --running_;
  }
  try {
    emit(index, std::move(event));
  } catch (...) {  // no memory: it has not ended, and an output with the error will follow
    if (choice.done) choice.done = false, ++running_;
    throw;
  }
  return !choice.done;
}

// The text of the tokens, up to a stop string. The token that ended the generation is listed but has no text.
void RunningRequest::add_tokens(Choice& choice, const SequenceOutput& output, Event& event) {
  for (size_t i = 0; i < output.tokens.size() && event.finish != FinishReason::error; ++i) {
    const int32_t token = output.tokens[i];
    event.tokens.push_back(token_info(token, i < output.logprobs.size() ? &output.logprobs[i] : nullptr));
    if (event.tokens.back().logprob) choice.logprob_sum += *event.tokens.back().logprob;
    ++usage_.completion_tokens;
    const bool ends_here = output.reason == FinishReason::stop && output.stop_id >= 0 && i + 1 == output.tokens.size();
    const bool of_request = ends_here && std::find(setup_.request_stop_ids.begin(), setup_.request_stop_ids.end(),
                                                   output.stop_id) != setup_.request_stop_ids.end();
    if (of_request) event.stop_reason = Json(static_cast<long long>(output.stop_id));
    const auto special = std::ranges::find(setup_.special_stops, token, &std::pair<int32_t, size_t>::first);
    if (of_request && special != setup_.special_stops.end()) return end_at_special(choice, special->second, event);
    if (!choice.detokenizer || (ends_here && !(of_request && setup_.include_stop))) continue;
    StopStrings::Output text = choice.stops->push(choice.detokenizer->push(token));
    event.text += text.text;
    if (text.matched) {
      event.finish = FinishReason::stop;
      event.stop_reason = Json(setup_.stop[*text.matched]);
      return;  // tokens behind the stop string are not part of the answer
    }
  }
}

// Accepted drafts are the output's first tokens, so those behind a stop string do not count.
void RunningRequest::count_drafts(const SequenceOutput& output, const Event& event) {
  usage_.draft_tokens += output.drafted;
  usage_.accepted_tokens += std::min(output.accepted, static_cast<int>(event.tokens.size()));
}

// The answer ends with a token that stop string `stop` names and that has no text itself.
void RunningRequest::end_at_special(Choice& choice, size_t stop, Event& event) {
  event.stop_reason = Json();
  end_text(choice, event);
  if (event.stop_reason.is_string()) return;  // the rest of the text completed another stop string
  event.stop_reason = Json(setup_.stop[stop]);
  if (setup_.include_stop) event.text += setup_.stop[stop];
}

// Delivers the text that was held back: an incomplete character, or the beginning of a stop string that did not
// complete.
void RunningRequest::end_text(Choice& choice, Event& event) {
  if (!choice.detokenizer) return;
  if (event.stop_reason.is_string()) return;  // cut at the stop string
  StopStrings::Output text = choice.stops->push(choice.detokenizer->finish());
  event.text += text.text;
  if (text.matched) event.finish = FinishReason::stop, event.stop_reason = Json(setup_.stop[*text.matched]);
  else event.text += choice.stops->finish();
}

void RunningRequest::emit(int index, Event event) {
  if (setup_.shown < setup_.choices) {
    Event& kept = choices_[index].kept;
    kept.text += event.text;
    kept.tokens.insert(kept.tokens.end(), event.tokens.begin(), event.tokens.end());
    kept.logits.insert(kept.logits.end(), event.logits.begin(), event.logits.end());
    kept.finish = event.finish, kept.stop_reason = event.stop_reason, kept.error = event.error;
    if (running_ == 0) emit_best();
    return;
  }
  event.choice = index;
  if (setup_.prompt_results && !prompt_sent_ && index != 0) return early_.push_back(std::move(event));
  if (!prompt_sent_) add_prompt(event);
  send(std::move(event), running_ == 0 && early_.empty());
  const std::vector<Event> early = std::exchange(early_, {});
  for (size_t i = 0; i < early.size(); ++i) send(early[i], running_ == 0 && i + 1 == early.size());
}

void RunningRequest::add_prompt(Event& event) {
  prompt_sent_ = true;
  event.prompt = std::make_shared<const std::vector<TokenInfo>>(prompt_);
  if (setup_.context_logits > 0)
    event.prompt_logits = std::make_shared<const std::vector<float>>(std::move(prompt_logits_));
}

void RunningRequest::send(Event event, bool last) {
  event.last_of_request = last;
  event.usage = usage_;
  event.seed = setup_.seed;
  if (last) event.warnings = setup_.warnings;
  outbox_.push_back(std::move(event));
}

void RunningRequest::deliver() {
  const std::lock_guard turn(delivery_);
  if (delivering_) return;  // a sink has cancelled its own request: the call that it came from goes on with the events
  delivering_ = true;
  try {
    while (const Event* const event = next_event()) {
      sink_(*event);
      const std::lock_guard lock(mutex_);
      outbox_.pop_front();
    }
  } catch (...) {  // no memory: the event stays the next one
    delivering_ = false;
    throw;
  }
  delivering_ = false;
}

// Where it lies does not change when others come behind it. Null: there is none.
const Event* RunningRequest::next_event() const {
  const std::lock_guard lock(mutex_);
  return outbox_.empty() ? nullptr : &outbox_.front();
}

void RunningRequest::emit_best() {
  std::vector<int> order(choices_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  const auto mean = [&](int i) {
    const Choice& c = choices_[i];
    return c.kept.error ? -1e30 : c.logprob_sum / std::max<size_t>(1, c.kept.tokens.size());
  };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return mean(a) > mean(b); });
  for (int i = 0; i < setup_.shown; ++i) {
    Event event = std::move(choices_[order[i]].kept);
    if (!setup_.show_logprobs)
      for (TokenInfo& token : event.tokens) token.logprob.reset(), token.rank = 0, token.top.clear();
    event.choice = i;
    if (i == 0) add_prompt(event);
    send(std::move(event), i + 1 == setup_.shown);
  }
}

void RunningRequest::cancel() {
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (choices_[i].done) continue;
      choices_[i].done = true;
      --running_;
      Event event;
      event.finish = FinishReason::cancelled;
      emit(static_cast<int>(i), std::move(event));
    }
  }
  deliver();
}

}  // namespace weft
