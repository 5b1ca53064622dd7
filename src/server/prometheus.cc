// See the header.
#include "server/prometheus.h"

#include <algorithm>
#include <cstdio>

namespace weft {

namespace prometheus {

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

std::string label(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

void describe(std::string& out, const std::string& name, const char* type, const char* help) {
  out += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

void print(std::string& out, const std::string& name, const char* type, const char* help, double value) {
  describe(out, "weft_" + name, type, help);
  out += "weft_" + name + " " + number(value) + "\n";
}

}  // namespace prometheus

using prometheus::number;

void Histogram::observe(double value) {
  ++counts_[static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin())];
  sum_ += value;
}

void Histogram::print(const std::string& name, const char* help, std::string& out) const {
  prometheus::describe(out, name, "histogram", help);
  int64_t below = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    out += name + "_bucket{le=\"" + (i < bounds_.size() ? number(bounds_[i]) : "+Inf") + "\"} " +
           std::to_string(below) + "\n";
  }
  out += name + "_sum " + number(sum_) + "\n" + name + "_count " + std::to_string(below) + "\n";
}

}  // namespace weft
