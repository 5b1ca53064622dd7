#include "arrival_mix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include "base/files.h"
#include "base/json.h"
#include "config_file.h"

namespace weft {

namespace {

constexpr int kClasses = 10;
constexpr double kZ95 = 1.6448536269514722;  // the standard normal distribution's 95th percentile
constexpr double kMostTokens = 1 << 24;

double normal_quantile(double probability) {
  double low = -10, high = 10;
  for (int i = 0; i < 80; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < probability ? low : high) = middle;
  }
  return high;
}

// A log-normal's mean is exp(mu + sigma^2 / 2) and its 95th percentile exp(mu + z sigma), so that
// ln(p95 / mean) = z sigma - sigma^2 / 2, of which the smaller solution is taken.
double sigma_of(const TokenLengths& lengths) {
  const double ratio = std::log(lengths.p95 / lengths.mean);
  return kZ95 - std::sqrt(std::max(0.0, kZ95 * kZ95 - 2 * ratio));
}

std::vector<int64_t> values_of(const TokenLengths& lengths) {
  const auto whole = [](double tokens) { return std::max<int64_t>(1, std::llround(tokens)); };
  if (lengths.p95 == 0) return {whole(lengths.mean)};
  std::array<double, kClasses> tokens{};
  double sum = 0;
  for (int k = 0; k < kClasses; ++k) {
    tokens[static_cast<size_t>(k)] = std::exp(sigma_of(lengths) * normal_quantile((k + 0.5) / kClasses));
    sum += tokens[static_cast<size_t>(k)];
  }
  std::vector<int64_t> values;
  for (const double t : tokens) values.push_back(whole(t * lengths.mean * kClasses / sum));
  return values;
}

bool parse_number(const std::string& text, double& value) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t\r");
  if (first == std::string::npos) return false;
  const std::string word = text.substr(first, last - first + 1);
  char* end = nullptr;
  value = std::strtod(word.c_str(), &end);
  return end == word.c_str() + word.size() && std::isfinite(value);
}

// `place`: "mix.csv line 3".
Result<RequestClass> class_of(const std::string& place, double share, double input, double output) {
  if (!(share > 0)) return fail(Code::invalid_argument, place, ": the share must be more than 0, got ", share);
  for (const auto& [name, tokens] : {std::pair("input", input), std::pair("output", output)})
    if (!(tokens >= 1 && tokens <= kMostTokens) || tokens != std::floor(tokens))
      return fail(Code::invalid_argument, place, ": ", name, " must be a whole number of tokens of at least 1, got ",
                  tokens);
  return RequestClass{share, static_cast<int64_t>(input), static_cast<int64_t>(output)};
}

Result<std::vector<RequestClass>> read_csv(const std::string& path) {
  WEFT_TRY(const std::string text, read_file(path, FileLimit::options));
  std::vector<RequestClass> classes;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = path + " line " + std::to_string(number);
    std::array<std::string, 3> words;
    std::istringstream fields(line);
    size_t count = 0;
    for (std::string word; std::getline(fields, word, ','); ++count)
      if (count < words.size()) words[count] = word;
    if (number == 1 && line.starts_with("share,input,output")) continue;
    std::array<double, 3> values{};
    bool numbers = count == words.size();
    for (size_t i = 0; numbers && i < words.size(); ++i) numbers = parse_number(words[i], values[i]);
    if (!numbers) return fail(Code::invalid_argument, place, " must be SHARE,INPUT,OUTPUT, three numbers, got ", line);
    WEFT_TRY(classes.emplace_back(), class_of(place, values[0], values[1], values[2]));
  }
  return classes;
}

Result<std::vector<RequestClass>> read_yaml_list(const std::string& path) {
  WEFT_TRY(const Json root, read_yaml_file(path));
  if (!root.is_array())
    return fail(Code::invalid_argument, path, " must hold a list of {share: S, input: TOKENS, output: TOKENS}");
  std::vector<RequestClass> classes;
  for (const Json& item : root.items()) {
    const std::string place = path + " entry " + std::to_string(classes.size() + 1);
    std::array<double, 3> values{};
    const std::array<const char*, 3> names = {"share", "input", "output"};
    if (!item.is_object() || item.members().size() != names.size())
      return fail(Code::invalid_argument, place, " must have share, input and output and no more");
    for (size_t i = 0; i < names.size(); ++i) {
      const Json* value = item.find(names[i]);
      if (!value || !value->is_number())
        return fail(Code::invalid_argument, place, ": ", names[i], " must be a number");
      values[i] = value->as_number();
    }
    WEFT_TRY(classes.emplace_back(), class_of(place, values[0], values[1], values[2]));
  }
  return classes;
}

}  // namespace

Result<TokenLengths> parse_lengths(const std::string& text) {
  const size_t comma = text.find(',');
  TokenLengths lengths;
  const bool read = parse_number(text.substr(0, comma), lengths.mean) &&
                    (comma == std::string::npos || parse_number(text.substr(comma + 1), lengths.p95));
  if (!read || !(lengths.mean >= 1 && lengths.mean <= kMostTokens))
    return fail(Code::invalid_argument, "must be MEAN or MEAN,P95, tokens of at least 1, got ", text);
  if (comma != std::string::npos && !(lengths.p95 > lengths.mean && lengths.p95 <= 3.8 * lengths.mean))
    return fail(Code::invalid_argument, "must have a P95 of more than MEAN and at most 3.8 times as much, got ", text);
  return lengths;
}

std::vector<RequestClass> classes_of(const TokenLengths& input, const TokenLengths& output) {
  const std::vector<int64_t> inputs = values_of(input), outputs = values_of(output);
  std::vector<RequestClass> classes;
  for (const int64_t i : inputs)
    for (const int64_t o : outputs)
      classes.push_back({1.0 / static_cast<double>(inputs.size() * outputs.size()), i, o});
  return classes;
}

Result<std::vector<RequestClass>> read_arrival_mix(const std::string& path) {
  const bool csv = path.ends_with(".csv");
  if (!csv && !path.ends_with(".yaml") && !path.ends_with(".yml"))
    return fail(Code::invalid_argument, "--arrival-mix ", path, " must be a .csv or a .yaml file");
  WEFT_TRY(std::vector<RequestClass> classes, csv ? read_csv(path) : read_yaml_list(path));
  if (classes.empty()) return fail(Code::invalid_argument, path, " holds no requests");
  double sum = 0;
  for (const RequestClass& c : classes) sum += c.share;
  for (RequestClass& c : classes) c.share /= sum;
  return classes;
}

}  // namespace weft
