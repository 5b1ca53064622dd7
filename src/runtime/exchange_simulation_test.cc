// Servers that compute prompts for each other, without models, threads or a clock: schedulers with workers that know
// what every block must hold (sched/fake_worker.h), a network that loses, repeats, delays and reorders messages and
// cuts connections, servers that are killed and come back, clients that leave. Whatever happens, every sequence has the
// answer of a run by itself within the time limit, the books agree all the time, and nothing is left over at the end.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "base/count_allocations.h"
#include "runtime/faulty_transport.h"
#include "runtime/peer_exchange.h"
#include "sched/driver.h"
#include "transfer/local_transport.h"

namespace weft {
namespace {

constexpr double kTimeLimit = 20;  // of fetches and leases, in seconds of the simulation

int schedules() {  // WEFT_SCHEDULES=10000 for the long run
  const char* const text = std::getenv("WEFT_SCHEDULES");
  return text ? std::atoi(text) : 300;
}

// Two layers: the lower and the upper halves of the hashes.
class FakeMemory final : public BlockMemory {
 public:
  FakeMemory(FakeWorker& worker, int tokens_per_block) : worker_(worker), tiles_(tokens_per_block / kTile) {}
  int layers(int) const override { return 2; }
  int tiles() const override { return tiles_; }
  int written_layers(uint64_t step, int) const override {
    return step < executed ? 2 : step == executed ? 1 + step % 2 : 0;
  }
  uint64_t executed = 0;  // the last step that was
  size_t block_tile_bytes(int) const override { return kTile * sizeof(uint32_t); }
  void read_block(int home, int group, int32_t block, const BlockPart& part, std::span<std::byte> to) const override {
    const std::vector<uint64_t> all = worker_.read_block(home, group, block);
    each(part, [&](int layer, int token, size_t at) {
      const auto half = static_cast<uint32_t>(all[static_cast<size_t>(token)] >> (32 * layer));
      std::memcpy(to.data() + at, &half, sizeof half);
    });
  }
  void write_block(int home, int group, int32_t block, const BlockPart& part,
                   std::span<const std::byte> from) override {
    each(part, [&](int layer, int token, size_t at) {
      uint32_t half = 0;
      std::memcpy(&half, from.data() + at, sizeof half);
      const uint64_t old = worker_.read_block(home, group, block)[static_cast<size_t>(token)];
      const uint64_t kept = layer == 0 ? old & 0xffffffff00000000u : old & 0xffffffffu;
      worker_.write_block(home, group, block, token, kept | uint64_t{half} << (32 * layer));
    });
  }

 private:
  static constexpr int kTile = 16;
  template <class Do>
  static void each(const BlockPart& part, Do run) {
    size_t at = 0;
    for (int layer = part.first_layer; layer < part.first_layer + part.layers; ++layer)
      for (int token = part.first_tile * kTile; token < (part.first_tile + part.tiles) * kTile; ++token)
        run(layer, token, at), at += sizeof(uint32_t);
  }
  FakeWorker& worker_;
  const int tiles_;
};

struct Coverage {
  uint64_t sequences = 0, fetched = 0, complete = 0, failures = 0, blocks = 0, joined = 0, cancelled = 0, killed = 0,
           provided = 0, connections = 0, late = 0;
};

// A server: what an EngineCore is, a step at a time.
class Server {
 public:
  Server(std::string name, LocalNetwork& network, const SchedulerOptions& options, const CacheOptions& cache,
         const double& clock, int most_local, double failure, std::function<FailingAllocations::From()> lacks_memory)
      : clock_(clock), scheduler_(make_scheduler(options, cache)),
        worker_(cache, options.max_batch_size, options.homes, options.stages), memory_(worker_, cache.tokens_per_block),
        failure_(failure), lacks_memory_(std::move(lacks_memory)) {
    PeerExchange::Options exchange{.link = {"model: x\n", "secret",
                                            [this] {
                                              Nonce nonce{};
                                              for (uint8_t& byte : nonce) byte = static_cast<uint8_t>(random_());
                                              return nonce;
                                            }},
                                   .time_limit = kTimeLimit,
                                   .max_local = most_local,
                                   .listen = name,
                                   .thread = false,
                                   .clock = [&clock] { return clock; }};
    PeerExchange::Engine engine{
        [this](SequenceId id) { scheduler_.release(id), awake_ = true; },
        [this](ComputeMessage prompt, PromptMedia, std::function<void(const std::string&)> done) {
          return compute(std::move(prompt), std::move(done));
        },
        [this](SequenceId id) {
          scheduler_.finish(id), computing_.erase(static_cast<uint64_t>(id));
          awake_ = true;
        },
        [this] { awake_ = true; },
        [](const Digest&) { return nullptr; },
        [](const Digest&, std::shared_ptr<const MediaFeatures>) {}};
    auto opened = PeerExchange::open(
        std::move(exchange),
        [&](ChannelHandler& handler) -> Result<std::unique_ptr<Transport>> {
          return std::unique_ptr<Transport>(std::make_unique<FaultyTransport>(
              handler, [&](ChannelHandler& events) { return network.join(name, events); }, lacks_memory_));
        },
        memory_, mutex_, scheduler_, std::move(engine));
    WEFT_CHECK(opened.ok()) << opened.error().message();
    exchange_ = std::move(*opened);
  }
  // As if killed: nobody is told.
  ~Server() { scheduler_.check_integrity(); }

  void add(NewSequence request, const std::vector<std::string>& servers) {
    RemotePrompt remote{servers, {}, {}, {}};
    remote.prompt.salt = request.cache.salt, remote.prompt.tokens = request.prompt.copy();
    Expected expected{request, {}};
    request.held = !servers.empty();
    const auto id = scheduler_.add(std::move(request));
    if (!id.ok()) return;
    alive_.emplace(static_cast<uint64_t>(*id), std::move(expected));
    awake_ = true;
    const std::lock_guard lock(mutex_);
    if (servers.empty()) return;
    // As EngineCore: what is not fetched is computed.
    if (!tell_exchange([&] { exchange_->fetch(*id, std::move(remote)); })) scheduler_.release(*id);
  }
  bool cancel(uint32_t choice) {
    if (alive_.empty()) return false;
    const auto chosen = std::next(alive_.begin(), choice % alive_.size());
    const SequenceId id{chosen->first};
    alive_.erase(chosen);
    const std::lock_guard lock(mutex_);
    scheduler_.finish(id);
    exchange_->forget(id);
    awake_ = true;
    return true;
  }
  bool submit() {
    const std::lock_guard lock(mutex_);
    const bool sleeps = !awake_ && !scheduler_.has_in_flight();
    awake_ = scheduler_.schedule(batch_, static_cast<int64_t>(clock_ * 1e6));
    if (!awake_) return false;
    EXPECT_FALSE(sleeps) << "a sequence can go on, and nobody has woken the engine";
    worker_.submit(batch_);
    tell_exchange([&] { exchange_->stepped(); });
    return true;
  }
  bool commit() {
    std::unique_lock lock(mutex_);
    if (!scheduler_.has_in_flight()) return false;
    if (!executed_) {
      executed_ = worker_.execute(failure_, random_);
      memory_.executed = executed_->step;
      tell_exchange([&] { exchange_->step_finished(executed_->step); });
      return true;
    }
    StepResult result = std::move(*executed_);
    executed_.reset();
    awake_ = true;
    std::vector<SequenceOutput> outputs;
    for (const SequenceOutput& output : scheduler_.commit(result)) outputs.push_back(output);
    tell_exchange([&] { exchange_->stepped(); });
    scheduler_.check_integrity();
    for (const std::string& fault : worker_.faults) ADD_FAILURE() << fault;
    lock.unlock();
    for (const SequenceOutput& output : outputs) take(output);
    return true;
  }
  bool work() {
    std::unique_lock lock(mutex_);
    bool worked = true;
    tell_exchange([&] { worked = exchange_->work(lock); });
    if (!lock.owns_lock()) lock.lock();
    scheduler_.check_integrity();
    return worked;
  }
  bool idle() const { return alive_.empty() && computing_.empty() && scheduler_.idle(); }
  std::string state() const {
    const TransferMetrics metrics = exchange_->metrics();
    const SchedulerMetrics sequences = scheduler_.metrics();
    std::string text = std::to_string(alive_.size()) + " alive, " + std::to_string(computing_.size()) + " computed, " +
                       std::to_string(metrics.fetched.active) + " fetched, " + std::to_string(metrics.provided.active) +
                       " leases, " + std::to_string(sequences.running) + " running, " +
                       std::to_string(sequences.waiting) + " waiting, " + std::to_string(sequences.in_flight_steps) +
                       " steps in flight, executed " + std::to_string(executed_.has_value()) + " finished " +
                       std::to_string(finished_) + " queued " + std::to_string(worker_.queued()) + " steps " +
                       std::to_string(sequences.steps);
    for (int g = 0; g < scheduler_.cache(0).groups(); ++g)
      text += ", group " + std::to_string(g) + ": " + std::to_string(scheduler_.cache(0).gauges(g).used) + " used";
    return text;
  }
  void expect_nothing_left() {
    const std::lock_guard lock(mutex_);
    const TransferMetrics metrics = exchange_->metrics();
    EXPECT_EQ(metrics.fetched.active, 0);
    EXPECT_EQ(metrics.provided.active, 0);
    EXPECT_TRUE(scheduler_.idle());
    for (int h = 0; h < scheduler_.homes(); ++h)
      for (int g = 0; g < scheduler_.cache(h).groups(); ++g) EXPECT_EQ(scheduler_.cache(h).gauges(g).used, 0);
  }
  void report(Coverage& coverage) {
    const std::lock_guard lock(mutex_);
    const TransferMetrics metrics = exchange_->metrics();
    coverage.sequences += finished_, coverage.fetched += metrics.fetched.fetches;
    coverage.complete += metrics.fetched.complete, coverage.failures += metrics.fetched.failures;
    coverage.blocks += metrics.fetched.blocks, coverage.provided += metrics.provided.prompts;
  }
  size_t alive() const { return alive_.size(); }

 private:
  struct Expected {
    NewSequence request;
    std::vector<int32_t> tokens;
  };

  Result<SequenceId> compute(ComputeMessage prompt, std::function<void(const std::string&)> done) {
    SamplingParams sampling;
    sampling.max_tokens = 0, sampling.top_p_reset_id = std::atoi(prompt.salt.c_str());
    NewSequence sequence;
    sequence.prompt = std::move(prompt.tokens), sequence.cache.salt = prompt.salt;
    sequence.sampling = std::make_shared<const SamplingParams>(std::move(sampling));
    const std::lock_guard lock(mutex_);
    const auto id = scheduler_.add(std::move(sequence));
    awake_ = true;
    if (!id.ok()) return id;
    try {
      computing_.emplace(static_cast<uint64_t>(*id), std::move(done));
    } catch (...) {
      scheduler_.finish(*id);
      throw;
    }
    return id;
  }
  // False: there was no memory.
  template <class Call>
  bool tell_exchange(Call call) {
    try {
      const FailingAllocations failing(lacks_memory_());
      call();
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }
  void take(const SequenceOutput& output) {
    const auto id = static_cast<uint64_t>(output.id);
    if (const auto job = computing_.find(id); job != computing_.end()) {
      if (output.reason == FinishReason::none) return;
      const auto done = std::move(job->second);
      computing_.erase(job);
      return done(output.error);
    }
    const auto found = alive_.find(id);
    if (found == alive_.end()) return;
    Expected& expected = found->second;
    expected.tokens.insert(expected.tokens.end(), output.tokens.begin(), output.tokens.end());
    if (output.reason == FinishReason::none) return;
    EXPECT_EQ(output.error, "");
    EXPECT_EQ(expected.tokens, right_tokens(expected.request, expected.request.sampling->max_tokens));
    ++finished_;
    alive_.erase(found);
  }

  const double& clock_;
  std::mt19937 random_{7};
  std::mutex mutex_;
  Scheduler scheduler_;
  FakeWorker worker_;
  FakeMemory memory_;
  StepBatch batch_;
  std::map<uint64_t, Expected> alive_;
  std::map<uint64_t, std::function<void(const std::string&)>> computing_;
  uint64_t finished_ = 0;
  std::optional<StepResult> executed_;  // and not committed
  double failure_ = 0;
  const std::function<FailingAllocations::From()> lacks_memory_;  // in what is done next
  bool awake_ = false;  // there may be something to schedule; an engine that has found nothing sleeps until it is told
  std::unique_ptr<PeerExchange> exchange_;
};

class Deployment {
 public:
  // `lacking`: how often an event has too little memory.
  explicit Deployment(uint32_t seed, double lacking = 0)
      : random_(seed), network_(LocalNetwork::Mode::steps), lacking_(lacking) {
    using Kind = CacheSpec::Kind;
    const int groups = one_of({1, 1, 2, 2, 3});
    for (int g = 0; g < groups; ++g)
      kinds_.push_back({one_of({Kind::full, Kind::full, Kind::latent, Kind::window, Kind::chunk}), between(5, 60), 16});
    lookahead_ = one_of({0, 0, 0, 1});
    recomputed_ = lookahead_ > 0 && chance(0.5);
    bad_ = one_of({0.0, 0.0, 0.01, 0.05, 0.2});
    kills_ = one_of({0.0, 0.0, 0.002, 0.01}), row_failures_ = one_of({0.0, 0.0, 0.05});
    network_.set_hook([this](const std::string&, const std::string&, std::span<const std::byte>) { return fault(); });
    for (int i = between(1, 2); i > 0; --i) start("context" + std::to_string(i));
    contexts_ = static_cast<int>(servers_.size());
    for (int i = between(1, 2); i > 0; --i) start("generation" + std::to_string(i));
    for (int i = 0; i < 3; ++i) {
      std::vector<int32_t>& stem = stems_.emplace_back();
      for (int t = 0; t < 150; ++t) stem.push_back(between(0, kVocabulary - 1));
    }
  }

  void run(Coverage& coverage) {
    for (int i = 0; i < 1500 && !::testing::Test::HasFailure(); ++i) act(coverage);
    bad_ = kills_ = lacking_ = 0;
    const double deadline = clock_ + 3000;  // most of it is events at servers that have nothing to do
    while (!::testing::Test::HasFailure() && !idle()) {
      advance();
      ASSERT_LT(clock_, deadline) << "the sequences do not end" << state();
    }
    for (const double end = clock_ + 2 * kTimeLimit; clock_ < end;) advance();  // leases of lost servers end
    for (auto& [name, server] : servers_) server->expect_nothing_left(), server->report(coverage);
  }

 private:
  int between(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<int>(values.size()) - 1)];
  }

  void start(const std::string& name) {
    SchedulerOptions options;
    options.homes = one_of({1, 1, 2}), options.max_batch_size = between(2, 6) * options.homes;
    options.max_num_tokens = one_of({17, 48, 100, 300}), options.max_logit_rows = 30, options.max_seq_len = 220;
    options.stages = one_of({1, 1, 2}), options.overlap = options.stages + one_of({0, 1});
    CacheOptions cache;
    cache.groups = kinds_, cache.tokens_per_block = one_of({16, 16, 32});
    for (CacheGroup& group : cache.groups) group.block_bytes = cache.tokens_per_block;
    cache.lookahead = lookahead_, cache.recomputed = recomputed_;
    options.draft_ahead = lookahead_;
    cache.budget_bytes = int64_t{1} << 30;
    const int64_t one = CacheManager::create(cache)->bytes_for(options.max_seq_len, options.max_seq_len);
    cache.budget_bytes = static_cast<int64_t>(static_cast<double>(one) * one_of({1.1, 1.5, 3.0, 20.0}));
    servers_[name] =
        std::make_unique<Server>(name, network_, options, cache, clock_, one_of({0, 0, 40}),
                                 name.starts_with("context") ? row_failures_ : 0, [this] { return lack(); });
  }

  LocalFault fault() {
    if (!chance(bad_)) return {};
    using Kind = LocalFault::Kind;
    return {one_of({Kind::drop, Kind::duplicate, Kind::delay, Kind::overtake, Kind::cut}), between(1, 60)};
  }

  FailingAllocations::From lack() {
    if (!chance(lacking_)) return {};
    return {static_cast<uint64_t>(between(1, 12)), chance(0.3)};
  }

  Server& some_server() {
    return *std::next(servers_.begin(), between(0, static_cast<int>(servers_.size()) - 1))->second;
  }

  void act(Coverage& coverage) {
    if (chance(0.04)) add();
    if (chance(0.004)) coverage.cancelled += some_server().cancel(random_());
    if (chance(kills_)) {
      const std::string name = std::next(servers_.begin(), between(0, static_cast<int>(servers_.size()) - 1))->first;
      servers_[name]->report(coverage);
      servers_.erase(name);
      start(name);
      ++coverage.killed;
    }
    advance();
  }

  // One event somewhere; time goes on where there is none.
  void advance() {
    Server& server = some_server();
    bool moved = false;
    switch (between(0, 4)) {
      case 0: moved = server.submit(); break;
      case 1: moved = server.commit(); break;
      case 2: moved = server.work(); break;
      default: moved = network_.step(random_()); break;
    }
    clock_ += moved ? 0.001 : 0.01 * between(1, 3);
  }

  void add() {
    auto sampling = std::make_shared<SamplingParams>();
    NewSequence s;
    const std::vector<int32_t>& stem = stems_[static_cast<size_t>(between(0, 2))];
    std::vector<int32_t> prompt(stem.begin(), stem.begin() + between(1, 150));
    while (prompt.size() < 170 && chance(0.9)) prompt.push_back(between(0, kVocabulary - 1));
    s.prompt = std::move(prompt);
    const int salt = chance(0.2);
    s.cache.salt = std::to_string(salt), sampling->top_p_reset_id = salt;
    s.seed = static_cast<uint64_t>(between(1, 2)), sampling->max_tokens = between(1, 40);
    sampling->ignore_eos = true;
    s.sampling = std::move(sampling);
    std::vector<std::string> from;
    for (int i = between(0, 2); i > 0; --i)
      from.push_back(chance(0.05) ? "nobody" : "context" + std::to_string(between(1, contexts_)));
    const std::string to = "generation" + std::to_string(between(1, static_cast<int>(servers_.size()) - contexts_));
    if (servers_[to]->alive() < 12) servers_[to]->add(std::move(s), from);
  }

  std::string state() const {
    std::string text;
    for (const auto& [name, server] : servers_) text += "\n" + name + ": " + server->state();
    return text;
  }
  bool idle() const {
    for (const auto& [name, server] : servers_)
      if (!server->idle()) return false;
    return true;
  }

  std::mt19937 random_;
  double clock_ = 1000;
  LocalNetwork network_;
  std::vector<CacheGroup> kinds_;
  int lookahead_ = 0, contexts_ = 0;
  bool recomputed_ = false;
  double lacking_ = 0, bad_ = 0, kills_ = 0, row_failures_ = 0;
  std::map<std::string, std::unique_ptr<Server>> servers_;
  std::vector<std::vector<int32_t>> stems_;
};

void run_schedules(double lacking, Coverage& total) {
  const char* const first = std::getenv("WEFT_FIRST_SCHEDULE");
  for (int seed = first ? std::atoi(first) : 1; seed <= schedules() && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Deployment(static_cast<uint32_t>(seed), lacking).run(total);
  }
  std::printf("%llu sequences, %llu fetches, %llu complete, %llu failures, %llu blocks, %llu cancelled, %llu killed\n",
              static_cast<unsigned long long>(total.sequences), static_cast<unsigned long long>(total.fetched),
              static_cast<unsigned long long>(total.complete), static_cast<unsigned long long>(total.failures),
              static_cast<unsigned long long>(total.blocks), static_cast<unsigned long long>(total.cancelled),
              static_cast<unsigned long long>(total.killed));
}

TEST(ExchangeSimulation, EveryAnswerIsRightAndNothingIsLeft) {
  Coverage total;
  run_schedules(0, total);
  EXPECT_GT(total.complete, 10u);
  EXPECT_GT(total.failures, 10u);
  EXPECT_GT(total.killed, 0u);
}

TEST(ExchangeSimulation, MemoryRunsOut) {
  const uint64_t before = FailingAllocations::failed();
  Coverage total;
  run_schedules(0.1, total);
  std::printf("%llu allocations failed\n", static_cast<unsigned long long>(FailingAllocations::failed() - before));
  EXPECT_GT(FailingAllocations::failed() - before, 5u * static_cast<uint64_t>(schedules()));
  EXPECT_GT(total.complete, 10u);
}

}  // namespace
}  // namespace weft
