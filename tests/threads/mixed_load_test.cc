// Engine and server under mixed load from many threads: clients that wait, stream, leave, constrain and read metrics,
// and callers of the engine itself; then the end while answers run. Made for ThreadSanitizer (the `tsan` preset), which
// reports what is not ordered; without it, answers and books are checked all the same.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "api/engine.h"
#include "base/json.h"
#include "fuzz/client.h"
#include "server/api_server.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kAlways =
    R"({"prompt":[5,6,7,8],"max_tokens":6,"temperature":0,"seed":1,"logprobs":1,"ignore_eos":true})";

std::string stream_of(int n) {
  return R"({"prompt":"ab ab ab","max_tokens":12,"n":)" + std::to_string(n) + R"(,"stream":true,"ignore_eos":true})";
}

class MixedLoad : public ::testing::Test {
 protected:
  void SetUp() override {
    EngineOptions options;
    options.dtype = ComputeType::float32, options.threads = 2, options.pin_threads = Pinning::off;
    // Small, so that sequences are preempted and blocks evicted.
    options.kv_cache_memory = int64_t{1} << 20, options.max_seq_len = 128, options.max_batch_size = 8;
    options.max_num_tokens = 64, options.tokens_per_block = 8, options.kv_cache_events = 256;
    options.speculation.method = DraftMethod::ngram;
    auto engine = Engine::load(std::string(WEFT_TEST_DATA) + "/golden/llama-3.1", options);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    engine_ = std::move(engine).value();
    ServerOptions server;
    server.port = 0;
    server.limits.drain = std::chrono::milliseconds(500);
    auto made = ApiServer::listen(server);
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    server_ = std::move(made).value();
    runner_ = std::thread([this] { server_->run(); });
    server_->attach(*engine_);
  }
  void TearDown() override {
    if (server_) server_->stop();
    if (runner_.joinable()) runner_.join();
  }

  PlainReply ask(const std::string& path, const std::string& body) const {
    const FuzzClient client(server_->port());
    client.send(post_once(path, body));
    return split_reply(client.read_all());
  }
  PlainReply get(const std::string& path) const {
    const FuzzClient client(server_->port());
    client.send("GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n");
    return split_reply(client.read_all());
  }
  std::string choices_of(const PlainReply& reply) const {
    const auto json = parse_json(reply.body);
    EXPECT_TRUE(reply.status == 200 && json.ok()) << reply.status << " " << reply.body;
    return json.ok() && json->find("choices") ? json->find("choices")->dump() : "";
  }
  void leave(const std::string& body, bool after_some) const {
    FuzzClient client(server_->port());
    client.send(post_once("/v1/completions", body));
    if (after_some) (void)client.read_some();
    client.close();
  }
  // A program that uses the engine itself, and cancels every second request at its first token.
  void use_engine(bool cancel) {
    struct Ended {
      std::mutex mutex;
      std::condition_variable changed;
      bool last = false, first = false;
    };
    const auto ended = std::make_shared<Ended>();
    Request request;
    request.prompt_token_ids = std::vector<int32_t>{5, 6, 7}, request.max_tokens = 10, request.n = 2;
    request.sampling.ignore_eos = true;
    const auto id = engine_->submit(std::move(request), [ended](const Event& event) {
      const std::lock_guard lock(ended->mutex);
      ended->first = true, ended->last |= event.last_of_request;
      ended->changed.notify_all();
    });
    if (!id.ok()) {
      EXPECT_EQ(id.error().code(), Code::resource_exhausted);
      return;
    }
    std::unique_lock lock(ended->mutex);
    if (cancel) {
      EXPECT_TRUE(ended->changed.wait_for(lock, std::chrono::seconds(60), [&] { return ended->first; }));
      lock.unlock();
      engine_->cancel(*id);
      lock.lock();
    }
    EXPECT_TRUE(ended->changed.wait_for(lock, std::chrono::seconds(60), [&] { return ended->last; }));
  }

  // One thread for each kind of client, until the time is over.
  void run_for(std::chrono::seconds time) {
    const std::string expected = choices_of(ask("/v1/completions", kAlways));
    const auto end = Clock::now() + time;
    std::vector<std::thread> clients;
    const auto add = [&](auto visit) {
      clients.emplace_back([=, this] {
        for (unsigned i = 0; Clock::now() < end; ++i) visit(i), ++visits_;
      });
    };
    add([&](unsigned) { EXPECT_EQ(choices_of(ask("/v1/completions", kAlways)), expected); });
    add([&](unsigned i) {
      const PlainReply reply = ask("/v1/completions", stream_of(1 + static_cast<int>(i % 4)));
      EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n")) << reply.body;
    });
    add([&](unsigned i) { leave(stream_of(3), i % 2); });
    add([&](unsigned i) {
      choices_of(ask("/v1/completions", R"({"prompt":"x","max_tokens":12,"guided_regex":"[a-)" +
                                            std::string(1, static_cast<char>('b' + i % 20)) + R"(]{3,6}"})"));
    });
    add([&](unsigned) {
      choices_of(ask("/v1/completions", R"({"prompt":"q","use_beam_search":true,"beam_width":3,"max_tokens":4})"));
    });
    add([&](unsigned) {
      for (const char* path : {"/metrics", "/health", "/ready", "/server_info"})
        EXPECT_EQ(get(path).status, 200) << path;
      EXPECT_EQ(ask("/kv_cache_events", R"({"after":0,"limit":10})").status, 200);
    });
    add([&](unsigned i) { use_engine(i % 2); });
    add([&](unsigned) { EXPECT_EQ(ask("/tokenize", R"({"prompt":"Hello you"})").status, 200); });
    for (std::thread& client : clients) client.join();
  }
  void expect_idle() const {
    const auto end = Clock::now() + std::chrono::seconds(60);
    const auto busy = [&] {
      const EngineMetrics m = engine_->metrics();
      return m.core.scheduler.running + m.core.scheduler.waiting + m.core.scheduler.in_flight_steps +
             m.core.blocks().used;
    };
    while (busy() > 0 && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(busy(), 0);
  }

  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ApiServer> server_;
  std::thread runner_;
  std::atomic<uint64_t> visits_{0};
};

TEST_F(MixedLoad, LeavesNothingBehind) {
  run_for(std::chrono::seconds(8));
  expect_idle();
  EXPECT_GT(visits_, 20u);
}

TEST_F(MixedLoad, MayEndAtAnyTime) {
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i)
    clients.emplace_back([&, i] {
      const FuzzClient client(server_->port());
      client.send(post_once("/v1/completions", i % 2 ? stream_of(2) : kAlways));
      (void)client.read_all();  // whatever it is: an answer, or the end of the connection
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  server_->stop();
  for (std::thread& client : clients) client.join();
  runner_.join();
  server_.reset();
  engine_.reset();
}

}  // namespace
}  // namespace weft
