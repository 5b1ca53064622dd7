#include "spec/step_cost.h"

#include <algorithm>
#include <cmath>

namespace weft {

namespace {

constexpr double kScaleGain = 0.15;                 // of a step's deviation, what the scale takes over
constexpr double kUnsure = 4;                       // a knot of this weight moves the scale by half of that
constexpr double kLeastGain = 0.05;                 // and the shape, once it is known well
constexpr double kForget = 0.9998;                  // per step: weight that a measurement keeps
constexpr double kPriorWeight = 0.1, kKnown = 0.5;  // weights
constexpr double kMostRows = 2048;                  // the last knot's; what is above goes on from the last two
constexpr double kUnsettled = 8;                    // a knot of less weight may have been held up most of the time
// One step teaches so much at most (as a logarithm), so that what is learned is near the median: times have a long
// tail.
constexpr double kMostLearned = 0.08;
constexpr double kHeldUp = 0.3;  // a step of known cost that deviates by more (as a logarithm) was held up
constexpr int kFirstSteps = 16;  // of which any may have been held up by loading

}  // namespace

StepCost::StepCost(double proposal) : proposal_(proposal), measures_proposals_(proposal > 0) {
  for (int i = 0; i < kKnots; ++i) {
    Knot& knot = knots_[i];
    knot.rows = i < 8 ? i + 1 : std::ldexp(1.0 + ((i - 7) % 4) / 4.0, 3 + (i - 7) / 4);
    knot.prior = knot.cost = 1 + kPriorRow * (knot.rows - 1);
  }
}

StepCost::Place StepCost::place_of(double rows) {
  rows = std::max(rows, 1.0);
  if (rows < 8) return {static_cast<int>(rows) - 1, rows - std::floor(rows)};
  const int octave = std::ilogb(std::min(rows, kMostRows - 1));
  const double quarter = (std::ldexp(rows, -octave) - 1) * 4;
  const int low = std::min(7 + 4 * (octave - 3) + std::min(static_cast<int>(quarter), 3), kKnots - 2);
  return {low, quarter - (low - 7 - 4 * (octave - 3))};
}

double StepCost::step(double rows) const {
  const Place place = place_of(rows);
  const double low = knots_[place.low].cost, high = knots_[place.low + 1].cost;
  return low + (high - low) * place.part;
}

// The scale follows all steps, so that what changes every step alike (the length of the texts, other processes) leaves
// the shape alone. The shape learns only from steps that differ in rows from those that the scale comes from.
void StepCost::measured(int rows, int proposals, double seconds) {
  if (rows < 1 || !(seconds > 0)) return;
  const Place place = place_of(std::min<double>(rows, kMostRows));
  const double drafting = proposal_ * proposals;
  const double predicted = step(rows) + drafting;
  if (scale_ == 0) {
    scale_ = seconds / predicted;
    for (int i = 0; i < 2; ++i) knots_[place.low + i].share = i == 0 ? 1 - place.part : place.part;
  }
  const double error = std::log(seconds / (scale_ * predicted));
  if (++steps_ <= kFirstSteps && error < -kHeldUp && knows(place) > 0) {
    scale_ *= std::exp(error);  // the steps before were held up
    return;
  }
  const bool drafts = measures_proposals_ && proposals > 0;
  const double known = fit(place, drafts ? error / 2 : error);
  if (drafts) {
    const double extra = predicted * std::expm1(std::clamp(error, -kMostLearned, kMostLearned)) / 2;
    proposal_ = std::max(0.0, proposal_ + 0.1 * extra / proposals);
  }
  scale_ *= std::exp(kScaleGain * known / (known + kUnsure) * std::clamp(error, -kMostLearned, kMostLearned));
  most_rows_ = std::max(most_rows_, rows);
  rebuild();
}

double StepCost::weight(double rows) const { return knows(place_of(rows)); }

double StepCost::knows(Place place) const {
  return (1 - place.part) * knots_[place.low].weight + place.part * knots_[place.low + 1].weight;
}

// Moves the two knots around the place towards a step that cost exp(error) times what was predicted. Returns the weight
// that they had. Steps are held up at times, and never faster than they can be: so a knot that is new goes down at once
// and up by little.
double StepCost::fit(Place place, double error) {
  const std::array<double, 2> parts = {1 - place.part, place.part};
  const double known = knows(place), length = parts[0] * parts[0] + parts[1] * parts[1];
  for (Knot& knot : knots_) knot.weight *= kForget;
  for (int i = 0; i < 2; ++i) {
    if (parts[i] == 0) continue;
    Knot& knot = knots_[place.low + i];
    const double used = knot.cost / knot.prior;
    const double seen = used * std::exp(parts[i] / length * error);
    const bool was_held_up = error < -kHeldUp && knot.weight < kUnsettled;
    if (knot.weight < kKnown || was_held_up) {
      knot.ratio = seen;
    } else {
      const double gain = std::max(kLeastGain, 1 / (knot.weight + 1)) * (1 - std::min(1.0, knot.share));
      // It stays near what smooth() makes of it.
      knot.ratio = std::clamp(knot.ratio, used / 2, used * 2) *
                   std::exp(gain * parts[i] / length * std::clamp(error, -kMostLearned, kMostLearned));
    }
    knot.weight += parts[i];
  }
  for (Knot& knot : knots_) knot.share *= 1 - kScaleGain;
  for (int i = 0; i < 2; ++i) knots_[place.low + i].share += kScaleGain * parts[i];
  return known;
}

// Knots that were never measured, or long ago, follow the measured ones around them: between two by the ratio to the
// prior; beyond the last at the slope from the first to the last.
void StepCost::rebuild() {
  std::array<int, kKnots> right{};  // the next measured knot from here on; kKnots: none
  for (int i = kKnots, next = kKnots; i-- > 0;) {
    if (knots_[i].weight >= kKnown) next = i;
    right[i] = next;
  }
  const int first = right[0];
  int left = -1;
  for (int i = 0; i < kKnots; ++i) {
    Knot& knot = knots_[i];
    const int next = i + 1 < kKnots ? right[i + 1] : kKnots;
    double around = 1;
    if (left >= 0 && next < kKnots) {
      const double part = (knot.rows - knots_[left].rows) / (knots_[next].rows - knots_[left].rows);
      around = knots_[left].ratio + (knots_[next].ratio - knots_[left].ratio) * part;
    } else if (left > first) {
      const Knot &from = knots_[first], &to = knots_[left];
      const double slope = std::max(0.0, (to.cost - from.cost) / (to.rows - from.rows));
      around = (to.cost + slope * (knot.rows - to.rows)) / knot.prior;
    } else if (left >= 0 || next < kKnots) {
      around = knots_[left >= 0 ? left : next].ratio;
    }
    const double weight = knot.weight >= kKnown ? knot.weight : 0;
    knot.cost = knot.prior * (weight * knot.ratio + kPriorWeight * around) / (weight + kPriorWeight);
    if (knot.weight >= kKnown) left = i;
  }
  smooth();
}

// More rows cost no less: neighbours that say otherwise are pooled to their mean by weight (isotonic regression). And a
// step of twice the rows costs no more than two steps.
void StepCost::smooth() {
  struct Pool {
    double cost, weight;
    int knots;
  };
  std::array<Pool, kKnots> pools;
  int count = 0;
  for (const Knot& knot : knots_) {
    Pool pool{knot.cost, (knot.weight >= kKnown ? knot.weight : 0) + kPriorWeight, 1};
    for (; count > 0 && pools[count - 1].cost > pool.cost; --count) {
      const Pool& before = pools[count - 1];
      const double weight = before.weight + pool.weight;
      pool = {(before.cost * before.weight + pool.cost * pool.weight) / weight, weight, before.knots + pool.knots};
    }
    pools[count++] = pool;
  }
  for (int i = 0, pool = 0, left = pools[0].knots; i < kKnots; ++i, --left) {
    if (left == 0) left = pools[++pool].knots;
    knots_[i].cost = pools[pool].cost;
    if (i > 0) knots_[i].cost = std::min(knots_[i].cost, knots_[i - 1].cost * knots_[i].rows / knots_[i - 1].rows);
  }
}

}  // namespace weft
