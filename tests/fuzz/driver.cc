// Runs a fuzz target without libFuzzer: inputs are made of its seeds (mutate.h) from a fixed seed. Inputs that reached
// something new are not known here, so this finds less in the same time; it runs with every compiler. An input that
// ends the process, or takes longer than 30 seconds of the processor, is left in FOLDER/TARGET-crash.
#include <sys/resource.h>
#include <sys/time.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "mutate.h"
#include "target.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace {

// For one input: of the processor, so that other work on the machine does not count, and by the clock, for what hangs.
constexpr time_t kLongestWork = 30, kLongestWait = 300;

std::string current, crash_file = "fuzz-crash";

void keep_input() {
  if (FILE* file = std::fopen(crash_file.c_str(), "wb")) {
    std::fwrite(current.data(), 1, current.size(), file);
    std::fclose(file);
    std::fprintf(stderr, "the input is in %s\n", crash_file.c_str());
  }
}

void end_with_input(int number) {
  std::fprintf(stderr, number == SIGALRM || number == SIGPROF ? "an input takes too long\n" : "signal %d\n", number);
  keep_input();
  std::_Exit(1);
}

void run(std::string input) {
  current = std::move(input);
  const itimerval work{{}, {kLongestWork, 0}}, wait{{}, {kLongestWait, 0}};
  ::setitimer(ITIMER_PROF, &work, nullptr), ::setitimer(ITIMER_REAL, &wait, nullptr);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
}

int usage() {
  std::fputs(
      "usage: PROGRAM [--keep FOLDER] [--inputs N] [--seconds S] [--seed N] | --write-seeds FOLDER | FILE...\n"
      "Ends after N inputs or S seconds, whichever comes later; FILEs are run once each.\n",
      stderr);
  return 2;
}

void catch_faults() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(keep_input);
#else
  // No input needs more; under a sanitizer addresses say nothing.
  const rlimit most{size_t{4} << 30, size_t{4} << 30};
  ::setrlimit(RLIMIT_DATA, &most);
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE}) std::signal(number, end_with_input);
#endif
  for (const int number : {SIGABRT, SIGALRM, SIGPROF}) std::signal(number, end_with_input);
  std::signal(SIGPIPE, SIG_IGN);
}

int run_file(const char* name) {
  std::ifstream file(name, std::ios::binary);
  if (!file) return std::fprintf(stderr, "%s cannot be read\n", name), 1;
  run({std::istreambuf_iterator<char>(file), {}});
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t inputs = 0, seed = 1;
  double seconds = 0;
  const weft::FuzzMaterial material = weft::fuzz_material();
  const std::string program = std::string(argv[0]).substr(std::string(argv[0]).rfind('/') + 1);
  crash_file = program + "-crash";
  catch_faults();
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (!name.starts_with("--")) {
      if (run_file(argv[i--]) != 0) return 1;
      continue;
    }
    if (i + 1 == argc) return usage();
    if (name == "--inputs") inputs = std::strtoull(argv[i + 1], nullptr, 10);
    else if (name == "--seconds") seconds = std::atof(argv[i + 1]);
    else if (name == "--seed") seed = std::strtoull(argv[i + 1], nullptr, 10);
    else if (name == "--keep") crash_file = std::string(argv[i + 1]) + "/" + program + "-crash";
    else if (name == "--write-seeds")
      for (size_t s = 0; s < material.seeds.size(); ++s)
        std::ofstream(std::string(argv[i + 1]) + "/seed-" + std::to_string(s), std::ios::binary) << material.seeds[s];
    else return usage();
  }
  if (inputs == 0 && seconds == 0) return 0;
  for (const std::string& one : material.seeds) run(one);
  std::mt19937_64 random(seed);
  const auto begin = std::chrono::steady_clock::now();
  uint64_t done = 0;
  while (done < inputs || std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds)
    run(next_input(material, random)), ++done;
  std::printf("%s: %llu inputs\n", program.c_str(), static_cast<unsigned long long>(done));
}
