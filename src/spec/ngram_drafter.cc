#include "spec/ngram_drafter.h"

#include <algorithm>

namespace weft {

namespace {

using Matches = NgramIndex::Matches;

// The index of a slot is given back on close if it has room for more than this: most texts are shorter.
constexpr size_t kRoomKept = 32768;

// Drafts after a match of so many tokens, at most: the longer the match, the further its continuation can be trusted
// (as SuffixDecoding has it, Oliaro et al. 2024).
int trusted(int match) { return 2 * match; }

// Whether features of an image stand at the position, so that its token id means nothing.
bool is_media(const MediaPrompt* media, int position) {
  if (!media) return false;
  const auto after = std::upper_bound(media->spans.begin(), media->spans.end(), position,
                                      [](int at, const MediaPrompt::Span& span) { return at < span.position; });
  return after != media->spans.begin() && position < std::prev(after)->position + std::prev(after)->count;
}

// Follows all places at once: each draft is what most of them go on with (of equals the newest), and those that go on
// otherwise are left. Ends when less than a quarter of them is still there. `read(place, offset)`: the token there; -1:
// none that could be proposed.
template <class Read>
void follow(Matches matches, int most, std::vector<int32_t>& drafts, Read read) {
  const int began = matches.count;
  std::array<int32_t, NgramIndex::kMostMatches> next{};
  for (int offset = 0; offset < most; ++offset) {
    for (int i = 0; i < matches.count; ++i) next[i] = read(matches.places[i], offset);
    int32_t best = -1;
    int best_votes = 0;
    for (int i = 0; i < matches.count; ++i) {
      if (next[i] < 0) continue;
      const int votes = static_cast<int>(std::count(next.begin(), next.begin() + matches.count, next[i]));
      if (votes > best_votes) best = next[i], best_votes = votes;
    }
    if (best_votes == 0 || 4 * best_votes < began) return;
    drafts.push_back(best);
    int kept = 0;
    for (int i = 0; i < matches.count; ++i) {
      if (next[i] == best) matches.places[kept++] = matches.places[i];
    }
    matches.count = kept;
  }
}

}  // namespace

NgramDrafter::NgramDrafter(const SpeculationOptions& options, size_t shared_tokens)
    : shortest_(options.ngram_min), longest_(options.ngram_max) {
  if (options.ngram_shared) answers_ = std::make_unique<AnswerStore>(shortest_, longest_, shared_tokens);
}

NgramDrafter::Text& NgramDrafter::text_of(Slot slot) {
  while (slots_.size() <= static_cast<size_t>(slot)) slots_.push_back({NgramIndex(shortest_, longest_), 0, {}});
  return slots_[slot];
}

void NgramDrafter::open(Slot slot, const std::array<uint64_t, 4>& salt) {
  Text& text = text_of(slot);
  text.salt = salt, text.indexed = 0;
}

void NgramDrafter::close(Slot slot, std::span<const int32_t> tokens, int prompt_tokens) {
  Text& text = text_of(slot);
  if (answers_ && static_cast<size_t>(prompt_tokens) < tokens.size())
    answers_->add(text.salt, tokens.subspan(prompt_tokens));
  text.indexed = 0;
  if (text.index.room() > kRoomKept) text.index.release();
}

// Token i is at place i; the first one has nothing before it.
void NgramDrafter::catch_up(Text& text, std::span<const int32_t> tokens) {
  if (text.index.room() < tokens.size()) {
    text.index.reset(tokens.size() + tokens.size() / 4), text.indexed = 0;
  } else if (text.indexed == 0 || text.indexed > tokens.size()) {
    text.index.reset(text.index.room()), text.indexed = 0;
  }
  for (size_t i = std::max<size_t>(text.indexed, 1); i < tokens.size(); ++i) {
    text.index.add(tokens.first(i), static_cast<uint32_t>(i));
  }
  text.indexed = tokens.size();
}

Matches NgramDrafter::find(const Text& text, std::span<const int32_t> tokens) {
  return text.index.find(tokens, 0, [&](uint32_t place) {
    const int32_t *there = tokens.data() + place, *here = tokens.data() + tokens.size();
    const int most = std::min(static_cast<int>(place), NgramIndex::kLongestMatch);
    int length = 0;
    while (length < most && there[-1 - length] == here[-1 - length]) ++length;
    return length;
  });
}

void NgramDrafter::propose(const DraftContext& context, int most, std::vector<int32_t>& drafts) {
  const std::span<const int32_t> tokens = context.tokens;
  Text& text = text_of(context.slot);
  catch_up(text, tokens);
  const Matches own = find(text, tokens);
  const Matches others = answers_ ? answers_->find(text.salt, tokens) : Matches{};
  if (others.length > own.length) {
    return follow(others, std::min(most, trusted(others.length)), drafts,
                  [&](uint32_t place, int offset) { return answers_->token(place, offset); });
  }
  // Behind the end of the text it goes on with the drafts themselves, so a loop is drafted round and round.
  const size_t first_draft = drafts.size();
  follow(own, std::min(most, trusted(own.length)), drafts, [&](uint32_t place, int offset) {
    const size_t at = size_t{place} + static_cast<size_t>(offset);
    if (at >= tokens.size()) return drafts[first_draft + at - tokens.size()];
    return is_media(context.media, static_cast<int>(at)) ? -1 : tokens[at];
  });
}

}  // namespace weft
