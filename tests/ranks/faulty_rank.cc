// One rank of a job in which something goes wrong, for process_ranks_test.py:
//
//   faulty_rank CASE [DEADLINE]     DEADLINE in seconds, 2 unless given
//
// A job ends with status 0 if all went well, 3 after an error of the start that all ranks were told, 4 if a rank gets
// somewhere it should not.
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <string>

#include "base/log.h"
#include "comm/process_ranks.h"

namespace weft {
namespace {

constexpr int kTold = 3, kWrong = 4;

// One write per line: the ranks' output is mixed.
void say(const std::string& line) { std::cout << (line + "\n") << std::flush; }

double processor_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Job {
 public:
  Job(ProcessRanks& ranks, std::string what, double deadline)
      : ranks_(ranks), what_(std::move(what)), deadline_(deadline) {}

  int run() {
    ranks_.on_failure([](const std::string& line) { say("callback: " + line); });
    if (what_ == "leaves" && last()) return kWrong;
    if (const Status same = ranks_.compare(facts()); !same.ok()) return told(same);
    if (what_ == "loads_slowly" && last()) ::usleep(static_cast<useconds_t>(2e6 * deadline_));
    const Status mine = what_ == "cannot_load" && last() ? fail(Code::not_found, "no file weights.bin") : Status();
    if (const Status all = ranks_.agree(mine); !all.ok()) return told(all);

    std::vector<int> members(static_cast<size_t>(ranks_.size()));
    std::iota(members.begin(), members.end(), 0);
    group_ = ranks_.communicator(members, 1);
    if (ranks_.rank() == 0) lead();
    else follow();
    return 0;
  }

 private:
  bool last() const { return ranks_.rank() == ranks_.size() - 1; }

  ProcessRanks::Facts facts() const {
    if (what_ == "lacks_a_fact" && last()) return {{"version", "1"}};
    return {{"version", "1"}, {"instruction set", what_ == "differs" && last() ? "avx2" : "avx512"}};
  }

  int told(const Status& status) const {
    say("rank " + std::to_string(ranks_.rank()) + ": " + status.error().to_string());
    return kTold;
  }

  // Two steps and the end. Between them rank 0 may be idle for longer than the deadline.
  void lead() {
    const std::byte message[1] = {};
    ranks_.send(message);
    step();
    if (what_ == "leader_stops") std::raise(SIGSTOP);
    if (what_ == "idles") ::usleep(static_cast<useconds_t>(2e6 * deadline_));
    if (what_ == "leader_leaves") std::exit(kWrong);
    ranks_.send(message);
    step();
    ranks_.close();
  }

  void follow() {
    int steps = 0;
    const double before = processor_seconds();
    while (ranks_.receive()) {
      if (++steps == 2 && what_ == "idles")
        say("processor used while idle: " + std::to_string(processor_seconds() - before) + " s");
      if (steps == 2 && last()) misbehave();
      step();
    }
    if (steps != 2) std::exit(kWrong);
  }

  void misbehave() {
    if (what_ == "sleeps") ::sleep(1000);
    if (what_ == "stops") std::raise(SIGSTOP);
    if (what_ == "dies") std::raise(SIGKILL);
    if (what_ == "is_elsewhere") bytes_ = 2;
  }

  void step() {
    const std::array<std::byte, 2> mine{};
    const std::vector<size_t> bytes(static_cast<size_t>(ranks_.size()), bytes_);
    group_->gather(mine.data(), bytes, {0, 1});
  }

  ProcessRanks& ranks_;
  const std::string what_;
  const double deadline_;
  std::unique_ptr<Communicator> group_;
  size_t bytes_ = 1;
};

int main_of_rank(const std::string& what, double deadline) {
  auto joined = ProcessRanks::join({deadline, 60});
  if (!joined.ok()) {
    say(joined.error().to_string());
    return kTold;
  }
  if (!*joined) {
    say("one process by itself");
    return 0;
  }
  return Job(**joined, what, deadline).run();
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  return weft::main_of_rank(argc > 1 ? argv[1] : "", argc > 2 ? std::atof(argv[2]) : 2);
}
