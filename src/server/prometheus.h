// The text format of Prometheus.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace weft {

namespace prometheus {

constexpr char kCounter[] = "counter", kGauge[] = "gauge";

std::string number(double value);
// A label's value: quotes, backslashes and line breaks escaped as the text format wants it.
std::string label(const std::string& value);
// The lines in front of a metric's samples.
void describe(std::string& out, const std::string& name, const char* type, const char* help);
// A metric of one sample, named weft_NAME.
void print(std::string& out, const std::string& name, const char* type, const char* help, double value);

}  // namespace prometheus

// Seconds in buckets. Not thread-safe by itself.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double value);
  // The lines of a Prometheus histogram.
  void print(const std::string& name, const char* help, std::string& out) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // not cumulated
  double sum_ = 0;
};

}  // namespace weft
