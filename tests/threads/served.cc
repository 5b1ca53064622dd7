#include "threads/served.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "base/json.h"
#include "support/answers.h"

namespace weft::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kAlways =
    R"({"prompt":[5,6,7,8],"max_tokens":6,"temperature":0,"seed":1,"logprobs":1,"ignore_eos":true})";

std::string stream_of(unsigned n) {
  return R"({"prompt":"ab ab ab","max_tokens":12,"n":)" + std::to_string(n) + R"(,"stream":true,"ignore_eos":true})";
}

std::string choices_of(const PlainReply& reply) {
  const auto json = parse_json(reply.body);
  EXPECT_TRUE(reply.status == 200 && json.ok()) << reply.status << " " << reply.body;
  return json.ok() && json->find("choices") ? json->find("choices")->dump() : "";
}

void leave(int port, const std::string& body, bool after_some) {
  FuzzClient client(port);
  client.send(post_once("/v1/completions", body));
  if (after_some) (void)client.read_some();
  client.close();
}

// What a sink has seen of a request.
class Ended {
 public:
  void see(const Event& event) {
    const std::lock_guard lock(mutex_);
    first_ = true, last_ |= event.last_of_request;
    changed_.notify_all();
  }
  void wait_for_first() {
    wait([&] { return first_; });
  }
  void wait_for_last() {
    wait([&] { return last_; });
  }

 private:
  template <class Condition>
  void wait(Condition condition) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(120), condition));
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool first_ = false, last_ = false;
};

Request plain_request(int choices) {
  Request request;
  request.prompt_token_ids = std::vector<int32_t>{5, 6, 7}, request.max_tokens = 10, request.n = choices;
  request.sampling.ignore_eos = true;
  return request;
}

std::optional<RequestId> submit(Engine& engine, Request request, const std::shared_ptr<Ended>& ended) {
  const auto id = engine.submit(std::move(request), [ended](const Event& event) { ended->see(event); });
  if (id.ok()) return *id;
  EXPECT_EQ(id.error().code(), Code::resource_exhausted) << id.error().to_string();
  return std::nullopt;
}

void use(Engine& engine, Request request, bool cancel) {
  const auto ended = std::make_shared<Ended>();
  const auto id = submit(engine, std::move(request), ended);
  if (!id) return;
  if (cancel) {
    ended->wait_for_first();
    engine.cancel(*id);
  }
  ended->wait_for_last();
}

void use_held(Engine& engine) {
  std::vector<std::shared_ptr<Ended>> all;
  engine.hold();
  for (int i = 0; i < 3; ++i)
    if (const auto ended = std::make_shared<Ended>(); submit(engine, plain_request(1 + i), ended)) all.push_back(ended);
  engine.release();
  for (const auto& ended : all) ended->wait_for_last();
}

void read_numbers(const Engine& engine) {
  EXPECT_TRUE(engine.health().ok());
  const EngineMetrics metrics = engine.metrics();
  EXPECT_GE(metrics.requests.entered, metrics.requests.finished);
  EXPECT_GE(engine.watch().sequences, 0);
  for (const bool decode : {false, true})
    for (const OpTime& time : engine.op_times(decode)) EXPECT_GE(time.runs, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace

EngineOptions small_engine() {
  EngineOptions options;
  options.dtype = ComputeType::float32, options.threads = 2, options.pin_threads = Pinning::off;
  options.kv_cache_memory = int64_t{1} << 20, options.max_seq_len = 128, options.max_batch_size = 8;
  options.max_num_tokens = 64, options.tokens_per_block = 8, options.kv_cache_events = 256;
  options.measure_ops = true;
  return options;
}

std::unique_ptr<Served> Served::load(const std::string& folder, const EngineOptions& options) {
  std::unique_ptr<Served> served(new Served);
  ServerOptions server;
  server.port = 0;
  server.limits.drain = std::chrono::milliseconds(500);
  auto made = ApiServer::listen(server);
  EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().to_string());
  if (!made.ok()) return nullptr;
  served->server_ = std::move(made).value();
  served->runner_ = std::thread([&server = *served->server_] { server.run(); });
  auto engine = Engine::load(folder, options);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().to_string());
  if (!engine.ok()) return nullptr;
  served->engine_ = std::move(engine).value();
  served->server_->attach(*served->engine_);
  return served;
}

Served::~Served() {
  end_server();
  server_.reset();
}

void Served::end_server() {
  if (server_) server_->stop();
  if (runner_.joinable()) runner_.join();
}

void Served::expect_idle() const {
  const auto end = Clock::now() + std::chrono::seconds(60);
  const auto busy = [&] {
    const CoreMetrics m = engine_->metrics().core;
    return m.scheduler.running + m.scheduler.waiting + m.scheduler.in_flight_steps + m.blocks().used;
  };
  while (busy() > 0 && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(busy(), 0);
}

PlainReply ask(int port, const std::string& path, const std::string& body) {
  const FuzzClient client(port);
  client.send(post_once(path, body));
  return split_reply(client.read_all());
}

PlainReply get(int port, const std::string& path) {
  const FuzzClient client(port);
  client.send("GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n");
  return split_reply(client.read_all());
}

void Visitors::run_for(std::chrono::seconds time) {
  if (const char* const text = std::getenv("WEFT_VISIT_SECONDS")) time = std::chrono::seconds(std::atoi(text));
  const auto end = Clock::now() + time;
  std::vector<std::thread> threads;
  for (const auto& visit : visits_)
    threads.emplace_back([&] {
      unsigned turn = 0;
      do visit(turn++), ++done_;
      while (Clock::now() < end);
    });
  for (std::thread& thread : threads) thread.join();
}

void add_clients(Visitors& visitors, int port) {
  const std::string expected = choices_of(ask(port, "/v1/completions", kAlways));
  visitors.add([=](unsigned) { EXPECT_EQ(choices_of(ask(port, "/v1/completions", kAlways)), expected); });
  visitors.add([=](unsigned turn) {
    const PlainReply reply = ask(port, "/v1/completions", stream_of(1 + turn % 4));
    EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n")) << reply.body;
  });
  visitors.add([=](unsigned turn) { leave(port, stream_of(3), turn % 2); });
  visitors.add([=](unsigned turn) {
    choices_of(ask(port, "/v1/completions",
                   R"({"prompt":"x","max_tokens":12,"guided_regex":"[a-)" +
                       std::string(1, static_cast<char>('b' + turn % 20)) + R"(]{3,6}"})"));
  });
  visitors.add([=](unsigned) {
    choices_of(ask(port, "/v1/completions", R"({"prompt":"q","use_beam_search":true,"beam_width":3,"max_tokens":4})"));
  });
  visitors.add([=](unsigned turn) {
    const std::string seconds = turn % 2 ? "0.001" : "0.05";
    const int status = ask(port, "/v1/completions",
                           R"({"prompt":[9,9,9],"max_tokens":100,"ignore_eos":true,"n":2,"timeout":)" + seconds + "}")
                           .status;
    EXPECT_TRUE(status == 200 || status == 503) << status;
  });
  visitors.add([=](unsigned turn) {  // prompts of some blocks, of which the beginning is known
    std::string ids = "1";
    for (unsigned i = 0; i < 40; ++i) ids += "," + std::to_string(1 + (i < 20 ? i : i * turn) % 200);
    choices_of(ask(port, "/v1/completions", R"({"prompt":[)" + ids + R"(],"max_tokens":3})"));
  });
  visitors.add([=](unsigned) { EXPECT_EQ(ask(port, "/tokenize", R"({"prompt":"Hello you"})").status, 200); });
}

void add_readers(Visitors& visitors, int port) {
  visitors.add([=](unsigned) {
    for (const char* path : {"/metrics", "/health", "/ready", "/server_info"})
      EXPECT_EQ(get(port, path).status, 200) << path;
    EXPECT_EQ(ask(port, "/kv_cache_events", R"({"after":0,"limit":10})").status, 200);
  });
}

void add_users(Visitors& visitors, Engine& engine, const std::vector<Request>& images,
               const std::vector<std::string>& servers) {
  visitors.add([&engine, servers](unsigned turn) {
    Request request = plain_request(2);
    request.context_servers = servers;
    use(engine, std::move(request), turn % 2);
  });
  visitors.add([&engine](unsigned) { use_held(engine); });
  visitors.add([&engine](unsigned) {
    for (const auto& result : score(engine, {plain_request(1), plain_request(1)}))
      EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().to_string());
  });
  visitors.add([&engine](unsigned) { read_numbers(engine); });
  if (!images.empty())
    visitors.add([&engine, images](unsigned turn) {
      Request request = images[turn % images.size()];
      if (turn % 3 == 0) request.cache_salt = std::to_string(turn);
      use(engine, std::move(request), turn % 4 == 3);
    });
}

}  // namespace weft::testing
