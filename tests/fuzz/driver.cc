// Runs a fuzz target without libFuzzer: inputs are made of its seeds by flipped bits, other numbers, pieces of other
// inputs, and cuts, from a fixed seed. Inputs that reached something new are not known here, so this finds less in the
// same time; it runs with every compiler. An input that ends the process is left in fuzz-crash.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "seeds.h"

namespace {

using Random = std::mt19937_64;

std::string current;

void keep_input(int) {
  if (FILE* file = std::fopen("fuzz-crash", "wb")) {
    std::fwrite(current.data(), 1, current.size(), file);
    std::fclose(file);
    std::fputs("the input is in fuzz-crash\n", stderr);
  }
  std::_Exit(1);
}

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

void change(std::string& input, const std::vector<std::string>& seeds, Random& random) {
  const size_t at = below(random, input.size()), length = below(random, 24);
  switch (below(random, 7)) {
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
    default: {
      const std::string& other = seeds[below(random, seeds.size())];
      const size_t from = below(random, other.size());
      input = input.substr(0, at) + other.substr(from, below(random, 2) ? std::string::npos : length) +
              (below(random, 2) ? input.substr(std::min(input.size(), at + length)) : "");
    }
  }
}

std::string next_input(const std::vector<std::string>& seeds, Random& random) {
  std::string input = seeds[below(random, seeds.size())];
  for (size_t changes = 1 + below(random, 4); changes > 0; --changes) change(input, seeds, random);
  if (below(random, 16) != 0) mend(input);
  return input;
}

void run(const std::string& input) {
  current = input;
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
}

int usage() {
  std::fputs("usage: PROGRAM [--inputs N] [--seconds S] [--seed N] | --write-seeds FOLDER | FILE...\n", stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t inputs = 0, seed = 1;
  double seconds = 0;
  const std::vector<std::string> seeds = fuzz_seeds();
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (!name.starts_with("--")) {
      std::ifstream file(name, std::ios::binary);
      if (!file) return std::fprintf(stderr, "%s cannot be read\n", argv[i]), 1;
      run({std::istreambuf_iterator<char>(file), {}});
      --i;
      continue;
    }
    if (i + 1 == argc) return usage();
    if (name == "--inputs") inputs = std::strtoull(argv[i + 1], nullptr, 10);
    else if (name == "--seconds") seconds = std::atof(argv[i + 1]);
    else if (name == "--seed") seed = std::strtoull(argv[i + 1], nullptr, 10);
    else if (name == "--write-seeds")
      for (size_t s = 0; s < seeds.size(); ++s)
        std::ofstream(std::string(argv[i + 1]) + "/seed-" + std::to_string(s), std::ios::binary) << seeds[s];
    else return usage();
  }
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE}) std::signal(number, keep_input);
  for (const std::string& one : seeds) run(one);
  Random random(seed);
  const auto begin = std::chrono::steady_clock::now();
  uint64_t done = 0;
  while (done < inputs || std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds)
    for (int i = 0; i < 1000; ++i, ++done) run(next_input(seeds, random));
  std::printf("%llu inputs\n", static_cast<unsigned long long>(done));
}
