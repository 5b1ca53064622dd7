// A deployment in one process: a front, a server that computes prompts for others, and one that generates and fetches
// their blocks; under mixed load, and while one of them ends.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "orchestrate/front.h"
#include "support/reference_case.h"
#include "threads/served.h"

namespace weft::testing {
namespace {

using std::chrono::milliseconds;

class Deployment : public ::testing::Test {
 protected:
  void SetUp() override {
    EngineOptions options = small_engine();
    options.tp_size = 2, options.role = ServerRole::context, options.kv_transfer = "127.0.0.1:0";
    context_ = load(options);
    options = small_engine();
    options.role = ServerRole::generation;
    std::string name = (std::filesystem::temp_directory_path() / "weft_threads_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    options.kv_cache_tier = tier_ = name, options.kv_cache_tier_bytes = int64_t{4} << 20;
    options.kv_cache_tier_use = TierUse::always;
    generation_ = load(options);
    ASSERT_TRUE(context_ && generation_);
    FrontOptions front;
    front.port = 0, front.watch.interval = milliseconds(30), front.limits.drain = milliseconds(500);
    front.generation_router = front.context_router = RouterKind::kv_cache_aware;
    auto made = Front::listen(std::move(front));
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    front_ = std::move(made).value();
    front_->servers().set_members({entry(*context_), entry(*generation_)});
    runner_ = std::thread([this] { front_->run(); });
    for (int i = 0; i < 1000 && !all_up(); ++i) std::this_thread::sleep_for(milliseconds(10));
    ASSERT_TRUE(all_up());
  }
  void TearDown() override {
    if (front_) front_->stop();
    if (runner_.joinable()) runner_.join();
    generation_.reset();
    std::filesystem::remove_all(tier_);
  }

  static std::unique_ptr<Served> load(const EngineOptions& options) {
    return Served::load(test_data("golden/llama-3.1"), options);
  }
  static ServerEntry entry(const Served& served) { return {{"127.0.0.1", served.port(), ""}, std::nullopt}; }
  bool all_up() const {
    int up = 0;
    for (const ServerStatus& server : front_->servers().status()) up += server.state == ServerState::up;
    return up == 2;
  }

  std::unique_ptr<Served> context_, generation_;
  std::unique_ptr<Front> front_;
  std::thread runner_;
  std::string tier_;  // of the server that generates
};

TEST_F(Deployment, LeavesNothingBehind) {
  Visitors visitors;
  add_clients(visitors, front_->port());
  add_readers(visitors, context_->port());
  add_readers(visitors, generation_->port());
  add_users(visitors, generation_->engine(), {}, {context_->engine().transfer_address()});
  visitors.add([this](unsigned) {
    for (const char* path : {"/metrics", "/metrics/servers", "/cluster_info", "/ready"})
      EXPECT_EQ(get(front_->port(), path).status, 200) << path;
  });
  visitors.run_for(std::chrono::seconds(6));
  generation_->expect_idle(), context_->expect_idle();
  EXPECT_GT(generation_->engine().metrics().core.transfer.fetched.blocks, 0u);
  EXPECT_GT(context_->engine().metrics().core.transfer.provided.prompts, 0u);
}

// Who computes prompts leaves, and then who generates.
TEST_F(Deployment, MayEndAtAnyTime) {
  std::vector<std::thread> clients;
  for (unsigned i = 0; i < 4; ++i)
    clients.emplace_back([&, i] {
      for (unsigned turn = 0; turn < 3; ++turn) {
        const FuzzClient client(front_->port());
        client.send(post_once("/v1/completions",
                              R"({"prompt":"a b c d e f g h i j k l m n o p","max_tokens":20,"cache_salt":")" +
                                  std::to_string(4 * turn + i) + R"(","stream":)" + (i % 2 ? "true}" : "false}")));
        (void)client.read_all();
      }
    });
  std::this_thread::sleep_for(milliseconds(30));
  context_.reset();
  std::this_thread::sleep_for(milliseconds(30));
  generation_->end_server();
  Request request;  // that look into the tier, and then ask a server that is not there
  request.max_tokens = 5, request.context_servers = {"127.0.0.1:1"};
  for (int i = 0; i < 32; ++i) {
    request.prompt_token_ids = std::vector<int32_t>(30, 3 + i);
    EXPECT_TRUE(generation_->engine().submit(request, [](const Event&) {}).ok());
  }
  generation_.reset();
  front_->stop();
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace weft::testing
