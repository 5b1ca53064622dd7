#include "mutate.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "target.h"

namespace weft {

namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t end) { return end == 0 ? 0 : random() % end; }

// A number of 1, 2, 4 or 8 bytes: small, near a power of two, about as long as the input, or any.
void write_number(std::string& input, Random& random) {
  const size_t width = size_t{1} << below(random, 4);
  if (input.size() < width + 1) return;
  uint64_t value = 0;
  switch (below(random, 4)) {
    case 0: value = below(random, 16); break;
    case 1: value = (uint64_t{1} << below(random, 64)) + below(random, 3) - 1; break;
    case 2: value = input.size() / (size_t{1} << below(random, 4)) + below(random, 17) - 8; break;
    default: value = random(); break;
  }
  std::memcpy(input.data() + 1 + below(random, input.size() - width), &value, width);
}

// Instead of a run of digits another number as text.
void write_digits(std::string& input, Random& random) {
  static constexpr const char* kNumbers[] = {
      "0",    "-1",  "1",       "2147483647",          "4294967296", "1e400",
      "-0.0", "0.5", "1000000", "9223372036854775807", "1e-9",       "18446744073709551616"};
  const size_t from = input.find_first_of("0123456789", below(random, input.size()));
  if (from == std::string::npos) return;
  const size_t end = std::min(input.find_first_not_of("0123456789.", from), input.size());
  input.replace(from, end - from, kNumbers[below(random, std::size(kNumbers))]);
}

// A piece of the input again, some times over.
void repeat(std::string& input, Random& random) {
  const size_t at = below(random, input.size());
  const std::string piece = input.substr(at, 1 + below(random, 40));
  for (size_t times = 1 + below(random, 20); times > 0; --times) input.insert(at, piece);
}

void splice(std::string& input, const std::string& other, Random& random) {
  const size_t at = below(random, input.size()), from = below(random, other.size()), length = below(random, 24);
  input = input.substr(0, at) + other.substr(from, below(random, 2) ? std::string::npos : length) +
          (below(random, 2) ? input.substr(std::min(input.size(), at + length)) : "");
}

}  // namespace

FuzzMaterial fuzz_material() {
  set_log_level(LogLevel::error);  // a warning for each of a million inputs says nothing
  return {fuzz_seeds(), fuzz_words()};
}

void change_input(std::string& input, const FuzzMaterial& material, Random& random) {
  const size_t at = below(random, input.size()), length = below(random, 24);
  switch (below(random, 11)) {
    case 0:
      if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << below(random, 8)));
      break;
    case 1:
    case 2: write_number(input, random); break;
    case 3: input.resize(at); break;
    case 4:
      if (!input.empty()) input.erase(at, length);
      break;
    case 5: input.insert(at, std::string(length, static_cast<char>(random()))); break;
    case 6: write_digits(input, random); break;
    case 7: repeat(input, random); break;
    case 8:
    case 9:
      if (!material.words.empty()) {
        const std::string& word = material.words[below(random, material.words.size())];
        below(random, 2) ? input.insert(at, word) : input.replace(at, std::min(length, word.size()), word);
        break;
      }
      [[fallthrough]];
    default: splice(input, material.seeds[below(random, material.seeds.size())], random);
  }
}

std::string next_input(const FuzzMaterial& material, Random& random) {
  std::string input = material.seeds[below(random, material.seeds.size())];
  for (size_t changes = 1 + below(random, 4); changes > 0; --changes) change_input(input, material, random);
  if (below(random, 16) != 0) mend(input);
  return input;
}

}  // namespace weft
