#include "api/beam_request.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "sampling/parameters.h"

namespace weft {

Status check_beams(const Request& request) {
  const BeamSpec& beams = *request.beams;
  const SamplingParams& p = request.sampling;
  if (beams.width < 1 || beams.width > 128)
    return fail(Code::invalid_argument, "beam_width must be between 1 and 128, not ", beams.width).about("beam_width");
  if (request.n > beams.width)
    return fail(Code::invalid_argument, "n (", request.n, ") must not exceed beam_width (", beams.width, ")")
        .about("n");
  if (!std::isfinite(beams.length_penalty))
    return fail(Code::invalid_argument, "length_penalty must be a finite number, not ", beams.length_penalty)
        .about("length_penalty");
  const auto refuse = [](const char* field) -> Status {
    return fail(Code::invalid_argument, field, " cannot be combined with beam search").about(field);
  };
  for (const SamplingParameter& parameter : sampling_parameters())
    if (parameter.unfit_for_beams && parameter.unfit_for_beams(p)) return refuse(parameter.name);
  const std::pair<const char*, bool> others[] = {
      {"best_of", request.best_of != 0},           {"stop", !request.stop.empty()},
      {"prompt_logprobs", p.prompt_logprobs >= 0}, {"logprobs_mode", p.processed_logprobs},
      {"return_context_logits", p.context_logits}, {"return_generation_logits", p.generation_logits}};
  for (const auto& [field, given] : others)
    if (given) return refuse(field);
  return {};
}

BeamRequest::BeamRequest(EngineCore& core, Setup setup, std::shared_ptr<RunningRequest> answer)
    : core_(core), setup_(std::move(setup)), arrival_step_(core.steps()), answer_(std::move(answer)),
      search_(setup_.beams) {
  if (setup_.grammar) grammars_.push_back(setup_.grammar->clone());
}

Status BeamRequest::start() {
  const std::lock_guard lock(mutex_);
  done_ = true;  // unless it goes well
  Status status = submit_step();
  done_ = !status.ok();
  return status;
}

// All beams of the step, or none.
Status BeamRequest::submit_step() {
  const std::vector<Beam>& beams = search_.running();
  candidates_.assign(beams.size(), {});
  sequences_.clear();
  waiting_ = beams.size();
  auto params = std::make_shared<SamplingParams>(setup_.params);
  params->max_tokens = static_cast<int>(beams[0].tokens.size()) + 1;
  params->logprobs = -1;
  params->max_draft_tokens = 0;  // a step of a beam is one token
  params->beam_candidates = search_.candidates();
  std::vector<Submission> step(beams.size());
  for (size_t i = 0; i < beams.size(); ++i) {
    Submission& submission = step[i];
    submission.sequence.prompt = setup_.prompt;
    submission.sequence.output = beams[i].tokens;
    submission.media = setup_.media, submission.media_prompt = setup_.places;
    submission.sequence.sampling = params;
    submission.sequence.priority = setup_.priority;
    submission.sequence.client = setup_.client, submission.sequence.request = setup_.request;
    submission.deadline = setup_.deadline;
    submission.sequence.arrival_step = arrival_step_;
    submission.sequence.cache = setup_.cache, submission.sequence.adapter = setup_.adapter;
    submission.context_servers = std::exchange(setup_.context_servers, {});  // the first beam's prompt serves all
    if (!grammars_.empty()) submission.grammar = grammars_[i]->clone();
    submission.sink = [self = shared_from_this(), i](const SequenceOutput& output) {
      return self->on_output(i, output);
    };
  }
  // They enter together: the first step is one sequence, and the others are submitted by the engine's own thread.
  WEFT_TRY(sequences_, core_.submit(std::move(step)));
  return {};
}

// On the engine thread. What reaches `answer_` is sent without the lock, since its receiver may call cancel().
bool BeamRequest::on_output(size_t beam, const SequenceOutput& output) {
  std::unique_lock lock(mutex_);
  if (done_ && output.reason == FinishReason::error && !cancelled_) {  // answers found no memory: what is left of them
    lock.unlock();
    return tell(output), false;
  }
  if (done_) return false;
  if (output.reason == FinishReason::error) {
    lock.unlock();
    return fail(Error(output.error_code, output.error)), false;
  }
  if (cached_tokens_ < 0) cached_tokens_ = output.cached_tokens;
  if (output.tokens.empty()) return true;  // a chunk of the prompt
  candidates_[beam].assign(output.logprobs.at(0).begin() + 1, output.logprobs.at(0).end());
  if (--waiting_ > 0) return false;
  bool over = false;
  const Status status = advance(over);
  if (status.ok() && !over) return false;
  lock.unlock();
  status.ok() ? deliver() : fail(status.error());
  return false;
}

Status BeamRequest::advance(bool& over) {
  Status status;
  std::function<bool(int, int32_t)> ends;
  if (!grammars_.empty())
    ends = [&](int beam, int32_t token) {
      const std::unique_ptr<Grammar> after = grammars_[static_cast<size_t>(beam)]->clone();
      if (Status accepted = after->accept(token); !accepted.ok()) status = std::move(accepted);
      return after->is_finished();
    };
  over = !search_.advance(candidates_, ends);
  if (!status.ok()) return status;
  if (over) return {};
  WEFT_RETURN_IF_ERROR(follow_grammar());
  return submit_step();
}

Status BeamRequest::follow_grammar() {
  if (grammars_.empty()) return {};
  std::vector<std::unique_ptr<Grammar>> next;
  for (const Beam& beam : search_.running()) {
    next.push_back(grammars_[static_cast<size_t>(beam.parent)]->clone());
    WEFT_RETURN_IF_ERROR(next.back()->accept(beam.tokens.back()));
  }
  grammars_ = std::move(next);
  return {};
}

void BeamRequest::deliver() {
  const std::vector<Beam>& found = search_.hypotheses();
  if (static_cast<int>(found.size()) < setup_.shown)
    return fail(weft::fail(Code::internal, "beam search found ", found.size(), " answers, n is ", setup_.shown));
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(done_, true)) return;
  }
  for (; told_ < setup_.shown; ++told_) {
    const Beam& beam = found[static_cast<size_t>(told_)];
    SequenceOutput output;
    output.tokens = beam.tokens;
    if (setup_.params.logprobs >= 0) output.logprobs = beam.logprobs;
    const int32_t last = beam.tokens.back();
    const bool by_id =
        std::find(setup_.beams.end_ids.begin(), setup_.beams.end_ids.end(), last) != setup_.beams.end_ids.end();
    const bool by_length = static_cast<int>(beam.tokens.size()) >= setup_.beams.max_tokens;
    output.reason = by_id || !by_length ? FinishReason::stop : FinishReason::length;  // or by a complete grammar
    if (by_id) output.stop_id = last;
    output.prompt_tokens = static_cast<int>(setup_.prompt.size());
    output.cached_tokens = std::max(0, cached_tokens_);
    answer_->on_output(told_, output);
  }
}

void BeamRequest::fail(const Error& error) {
  SequenceOutput output;
  output.reason = FinishReason::error;
  output.error = error.message(), output.error_code = error.code();
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(done_, true)) return;
  }
  tell(output);
}

// An error for all answers that have not been told. The step's other beams are cancelled when that is done: if memory
// runs out, the engine comes back with the one that brought the error.
void BeamRequest::tell(const SequenceOutput& error) {
  for (; told_ < setup_.shown; ++told_) answer_->on_output(told_, error);
  std::vector<SequenceId> sequences;
  {
    const std::lock_guard lock(mutex_);
    sequences.swap(sequences_);
  }
  core_.cancel(sequences);
}

void BeamRequest::cancel() {
  std::vector<SequenceId> sequences;
  {
    const std::lock_guard lock(mutex_);
    done_ = cancelled_ = true;
    sequences.swap(sequences_);
  }
  core_.cancel(sequences);
}

}  // namespace weft
