// What a decode step costs by its number of rows, learned from steps that were measured. Costs are relative: their unit
// is the same for all answers of one object, but not a time.
#pragma once

#include <array>

namespace weft {

class StepCost {
 public:
  // `proposal`: what making one draft costs beside a step of one row, until it is measured; 0: nothing, ever.
  explicit StepCost(double proposal);

  // A step of decode rows took so long; `rows` counts drafts that were checked, `proposals` those made for later steps.
  void measured(int rows, int proposals, double seconds);

  // Of a step of so many rows, 1 or more; the fraction interpolates. Never falls with rows, and never grows faster than
  // they do. Without a measurement: kPriorRow for each row after the first, beside 1.
  double step(double rows) const;
  double proposal() const { return proposal_; }
  // How often steps of so many rows were measured, old ones counting less.
  double weight(double rows) const;
  int steps() const { return steps_; }          // that were measured
  int most_rows() const { return most_rows_; }  // of these

  static constexpr double kPriorRow = 0.06;

 private:
  // At rows 1 to 8, then four for every doubling, up to 2048.
  static constexpr int kKnots = 40;
  struct Place {
    int low = 0;
    double part = 0;  // of the knot above `low`
  };
  struct Knot {
    double rows = 0, prior = 0;
    double ratio = 1;   // of what was measured to the prior
    double weight = 0;  // measurements, of which old ones count less
    double share = 0;   // of the recent steps, which made the scale
    double cost = 0;    // the answer
  };
  static Place place_of(double rows);
  double knows(Place place) const;
  double fit(Place place, double error);
  void rebuild();
  void smooth();

  std::array<Knot, kKnots> knots_;
  double scale_ = 0;  // seconds per unit, of late; 0: nothing was measured
  double proposal_;
  bool measures_proposals_;
  int most_rows_ = 0, steps_ = 0;
};

}  // namespace weft
