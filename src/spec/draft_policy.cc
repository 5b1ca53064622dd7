#include "spec/draft_policy.h"

#include <algorithm>

namespace weft {

int DraftPolicy::choose(const DraftHistory&, int, int limit) const {
  const int drafts = fixed_ > 0 ? fixed_ : most_;
  return limit < 0 ? drafts : std::min(drafts, limit);
}

void DraftPolicy::observe(DraftHistory& history, int drafted, int accepted) {
  history.drafted += drafted, history.accepted += accepted;
}

void DraftPolicy::measured(int, int, double) {}

}  // namespace weft
