#include "sampling/stages.h"

#include <algorithm>
#include <limits>

namespace weft {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

// Prompt, output and drafts; a copy only under speculation.
std::span<const int32_t> history(const SampleRow& row, Scratch& scratch) {
  const std::span<const int32_t> tokens = row.state->tokens();
  if (row.pending.empty()) return tokens;
  scratch.tokens.assign(tokens.begin(), tokens.end());
  scratch.tokens.insert(scratch.tokens.end(), row.pending.begin(), row.pending.end());
  return scratch.tokens;
}

int generated(const SampleRow& row) { return row.state->output_tokens() + static_cast<int>(row.pending.size()); }

bool forbids_ends(const SampleRow& row) { return generated(row) < row.state->params().min_tokens; }

void keep_masked(std::span<float> logits, const uint32_t* mask) {
  for (size_t word = 0; word * 32 < logits.size(); ++word) {
    if (mask[word] == ~0u) continue;
    for (size_t i = word * 32; i < std::min(logits.size(), word * 32 + 32); ++i)
      if (!(mask[word] >> (i % 32) & 1)) logits[i] = kForbidden;
  }
}

// The stages that name tokens find logits by id: among all, or among some tokens in order of ids. Null: not there.
struct AllLogits {
  std::span<float> logits;
  float* find(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < logits.size() ? &logits[id] : nullptr; }
};
struct SomeLogits {
  std::span<Candidate> tokens;
  float* find(int32_t id) const {
    const auto at = std::lower_bound(tokens.begin(), tokens.end(), id,
                                     [](const Candidate& c, int32_t wanted) { return c.id < wanted; });
    return at != tokens.end() && at->id == id ? &at->logit : nullptr;
  }
};

template <class Logits>
void forbid(Logits logits, int32_t id) {
  if (float* logit = logits.find(id)) *logit = kForbidden;
}

// The last token of each bad word is forbidden when the tokens before it are the word's others.
template <class Logits>
void forbid_bad_words(Logits logits, const SamplingParams& params, std::span<const int32_t> tokens) {
  for (const std::vector<int32_t>& word : params.bad_words) {
    const size_t before = word.size() - 1;
    if (before <= tokens.size() && std::equal(word.begin(), word.end() - 1, tokens.end() - before))
      forbid(logits, word.back());
  }
}

// Tokens that would complete an n-gram which occurred before.
template <class Logits>
void forbid_repeated_ngrams(Logits logits, int n, std::span<const int32_t> tokens) {
  const size_t before = static_cast<size_t>(n) - 1;
  if (tokens.size() < before + 1) return;
  const auto tail = tokens.end() - before;
  for (size_t i = 0; i + before < tokens.size(); ++i)
    if (std::equal(tail, tokens.end(), tokens.begin() + i)) forbid(logits, tokens[i + before]);
}

template <class Logits>
void forbid_ends(Logits logits, const SamplingParams& params) {
  for (const int32_t id : params.stop_token_ids) forbid(logits, id);
  if (params.ignore_eos) return;  // they end nothing
  for (const int32_t id : params.eos_token_ids) forbid(logits, id);
}

// Occurrences in the output, drafts included, of a token that was seen.
int output_count(const SlotState::Seen& seen, std::span<const int32_t> pending) {
  return seen.output_count + static_cast<int>(std::count(pending.begin(), pending.end(), seen.id));
}

template <class Logits>
void penalise(Logits logits, int32_t id, const SamplingParams& params, int output_occurrences) {
  float* const found = logits.find(id);
  if (!found) return;
  float& logit = *found;
  if (params.repetition_penalty != 1.0f)
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  if (output_occurrences > 0) {
    logit -= params.presence_penalty;
    logit -= params.frequency_penalty * static_cast<float>(output_occurrences);
  }
}

template <class Logits>
void apply_penalties(Logits logits, const SampleRow& row) {
  const SamplingParams& params = row.state->params();
  for (const SlotState::Seen& seen : row.state->seen())
    penalise(logits, seen.id, params, output_count(seen, row.pending));
  // Drafts that neither prompt nor output has, each once.
  for (size_t i = 0; i < row.pending.size(); ++i) {
    const int32_t id = row.pending[i];
    const auto earlier = row.pending.begin() + static_cast<std::ptrdiff_t>(i);
    if (!row.state->in_vocab(id) || row.state->has_seen(id) || std::find(row.pending.begin(), earlier, id) != earlier)
      continue;
    penalise(logits, id, params, static_cast<int>(std::count(row.pending.begin(), row.pending.end(), id)));
  }
}

bool has_penalties(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}

template <class Logits>
void change_named(Logits logits, const SampleRow& row, std::span<const int32_t> tokens) {
  const SamplingParams& params = row.state->params();
  for (const auto& [id, bias] : params.logit_bias)
    if (float* logit = logits.find(id)) *logit += bias;
  forbid_bad_words(logits, params, tokens);
  if (params.no_repeat_ngram_size > 0) forbid_repeated_ngrams(logits, params.no_repeat_ngram_size, tokens);
  if (forbids_ends(row)) forbid_ends(logits, params);
  if (has_penalties(params)) apply_penalties(logits, row);
}

}  // namespace

bool has_stages(const SampleRow& row) {
  const SamplingParams& p = row.state->params();
  return !row.state->processors().empty() || !p.logit_bias.empty() || row.state->allowed_mask() ||
         !p.bad_words.empty() || p.no_repeat_ngram_size > 0 || row.mask || forbids_ends(row) || has_penalties(p);
}

std::string apply_stages(const SampleRow& row, std::span<float> logits, Scratch& scratch) {
  std::copy(row.logits.begin(), row.logits.end(), logits.begin());
  const std::span<const int32_t> tokens = history(row, scratch);
  for (const std::shared_ptr<LogitsProcessor>& processor : row.state->processors()) {
    if (Status done = processor->process(logits, {tokens, row.state->prompt_tokens()}); !done.ok())
      return done.error().message();
    if (!usable_logits(logits)) return kProcessorNotFinite;
  }
  change_named(AllLogits{logits}, row, tokens);
  // What is forbidden stays so under all other stages; these may come last.
  if (const uint32_t* allowed = row.state->allowed_mask()) keep_masked(logits, allowed);
  if (row.mask) keep_masked(logits, row.mask);
  return "";
}

int most_lowered(const SampleRow& row) {
  const SamplingParams& p = row.state->params();
  const auto raises = [](const auto& bias) { return bias.second > 0; };
  if (!p.logits_processors.empty() || !row.state->processors().empty() || row.state->allowed_mask() || row.mask ||
      p.no_repeat_ngram_size > 0 || std::any_of(p.logit_bias.begin(), p.logit_bias.end(), raises) ||
      p.repetition_penalty < 1.0f || p.presence_penalty < 0.0f || p.frequency_penalty < 0.0f)
    return -1;
  size_t count = p.logit_bias.size() + p.bad_words.size();
  if (forbids_ends(row)) count += p.stop_token_ids.size() + (p.ignore_eos ? 0 : p.eos_token_ids.size());
  if (has_penalties(p)) {
    const auto output = static_cast<size_t>(row.state->output_tokens());  // the other two penalties' tokens
    const size_t seen = row.state->seen().size();
    count += (p.repetition_penalty != 1.0f ? seen : std::min(seen, output)) + row.pending.size();
  }
  return static_cast<int>(count);
}

void lower(const SampleRow& row, std::span<Candidate> tokens, Scratch& scratch) {
  std::sort(tokens.begin(), tokens.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  change_named(SomeLogits{tokens}, row, history(row, scratch));
}

}  // namespace weft
