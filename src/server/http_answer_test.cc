#include "server/http_answer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace weft {
namespace {

// What is posted runs at once.
std::shared_ptr<HttpAnswer> answer_without_session() {
  HttpAnswer::World world;
  world.start = [](const std::function<void()>& work) {
    work();
    return true;
  };
  world.wake = [] {};
  world.unsent_limit = 1000;
  world.refuse = [](int status, const std::string& message) { return HttpResponse{status, message, "text/plain", {}}; };
  return std::make_shared<HttpAnswer>(HttpAnswer::Form(), std::move(world));
}

// A request may wait for a handler thread while its client leaves: the handler must learn of it all the same.
TEST(HttpAnswer, AnEndBeforeTheHandlerAsksIsTold) {
  for (const Ending why : {Ending::client_left, Ending::shutdown}) {
    const auto answer = answer_without_session();
    answer->end(why);
    std::vector<Ending> told;
    answer->on_end([&](Ending ending) { told.push_back(ending); });
    EXPECT_EQ(told, std::vector<Ending>{why});
    answer->end(Ending::client_left);
    EXPECT_EQ(told.size(), 1u);
    answer->respond({.status = 503, .body = "later"});
    EXPECT_EQ(answer->take().bytes, "") << "the client has left";
  }
}

TEST(HttpAnswer, AnEndIsToldOnceAndNotBehindTheAnswer) {
  const auto answer = answer_without_session();
  std::vector<Ending> told;
  answer->on_end([&](Ending ending) { told.push_back(ending); });
  answer->end(Ending::shutdown);
  answer->respond({.status = 503, .body = "bye"});
  const HttpAnswer::Output head = answer->take(), body = answer->take();
  EXPECT_TRUE(head.bytes.starts_with("HTTP/1.1 503 ")) << head.bytes;
  EXPECT_EQ(body.bytes, "bye");
  EXPECT_TRUE(answer->take().done);
  answer->end(Ending::client_left);
  EXPECT_EQ(told, std::vector<Ending>{Ending::shutdown});

  const auto complete = answer_without_session();
  complete->respond({.body = "all"});
  complete->end(Ending::client_left);
  complete->on_end([&](Ending ending) { told.push_back(ending); });
  EXPECT_EQ(told.size(), 1u);
}

// While the session waits for a client that does not read, events go on coming.
TEST(HttpAnswer, ATooSlowStreamTakesNoMoreMemory) {
  const auto answer = answer_without_session();
  for (int i = 0; i < 100; ++i) answer->send(std::string(300, 'x'));
  const HttpAnswer::Output output = answer->take();
  EXPECT_TRUE(output.too_slow);
  EXPECT_LT(output.bytes.size(), 1000u + 300u);
  answer->send(std::string(300, 'x'));
  EXPECT_TRUE(answer->take().too_slow) << "what was left out cannot be made up for";
  EXPECT_EQ(answer->take().bytes, "");
}

TEST(HttpAnswer, TheStopFlagSaysWhyItEnded) {
  const auto left = answer_without_session(), over = answer_without_session(), ends = answer_without_session();
  EXPECT_EQ(left->stop_flag()->reason(), StopReason::none);
  left->end(Ending::client_left), over->stop(StopReason::out_of_time), ends->end(Ending::shutdown);
  EXPECT_EQ(left->stop_flag()->reason(), StopReason::client_left);
  EXPECT_EQ(over->stop_flag()->reason(), StopReason::out_of_time);
  EXPECT_EQ(ends->stop_flag()->reason(), StopReason::shutdown);
}

// Whoever makes the answer is told as if the client had left; what it still says is not sent.
TEST(HttpAnswer, ARefusalStandsInForAnAnswerThatHasNotBegun) {
  const auto answer = answer_without_session();
  std::vector<Ending> told;
  answer->on_end([&](Ending ending) { told.push_back(ending); });
  answer->refuse({503, "too late", "text/plain", {}});
  answer->respond({.body = "all"});
  answer->send("data: x\n\n");
  EXPECT_EQ(told, std::vector<Ending>{Ending::client_left});
  EXPECT_TRUE(answer->take().bytes.starts_with("HTTP/1.1 503 "));
  EXPECT_EQ(answer->take().bytes, "too late");
  EXPECT_EQ(answer->take().bytes, "");

  const auto streams = answer_without_session();
  streams->send("data: x\n\n");
  streams->refuse({503, "too late", "text/plain", {}});
  streams->finish();
  EXPECT_EQ(streams->take().bytes.find("too late"), std::string::npos);
}

// What an exception says stays inside. Before a stream it is a status, in one an event.
TEST(HttpAnswer, PostedWorkThatThrowsEndsTheAnswer) {
  const auto whole = answer_without_session();
  whole->post([] { throw std::runtime_error("secret"); });
  EXPECT_TRUE(whole->take().bytes.starts_with("HTTP/1.1 500 "));
  EXPECT_EQ(whole->take().bytes, "the request failed inside the server; its log says why");
  const auto memory = answer_without_session();
  memory->post([] { throw std::bad_alloc(); });
  EXPECT_TRUE(memory->take().bytes.starts_with("HTTP/1.1 503 "));
  EXPECT_EQ(memory->take().bytes, "the server ran out of memory for this request");
  const auto stream = answer_without_session();
  std::vector<Ending> told;
  stream->on_end([&](Ending ending) { told.push_back(ending); });
  stream->send("data: x\n\n");
  stream->post([] { throw std::runtime_error("secret"); });
  const std::string bytes = stream->take().bytes;
  EXPECT_EQ(bytes.find("secret"), std::string::npos);
  EXPECT_TRUE(bytes.ends_with("data: the request failed inside the server; its log says why\n\ndata: [DONE]\n\n"))
      << bytes;
  EXPECT_TRUE(stream->take().done);
  EXPECT_EQ(told, std::vector<Ending>{Ending::client_left});
}

// One piece after the other, although two threads run what is started.
TEST(HttpAnswer, PostedWorkRunsInOrderAndOneAtATime) {
  std::mutex mutex;
  std::vector<std::thread> threads;
  HttpAnswer::World world;
  world.start = [&](std::function<void()> work) {
    const std::lock_guard lock(mutex);
    threads.emplace_back(std::move(work));
    return true;
  };
  world.wake = [] {};
  const auto answer = std::make_shared<HttpAnswer>(HttpAnswer::Form(), std::move(world));
  std::vector<int> seen;
  std::atomic<int> inside{0}, most{0}, count{0};
  constexpr int kPieces = 1000;
  for (int i = 0; i < kPieces; ++i)
    answer->post([&, i] {
      most = std::max(most.load(), ++inside);
      seen.push_back(i);
      --inside, ++count;
    });
  while (count < kPieces) std::this_thread::yield();
  for (size_t i = 0;; ++i) {
    std::unique_lock lock(mutex);
    if (i >= threads.size()) break;
    std::thread& thread = threads[i];
    lock.unlock();
    thread.join();
  }
  std::vector<int> expected(kPieces);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(most, 1);
}

// A dropped piece is destroyed, so that nothing keeps the exchange alive.
TEST(HttpAnswer, WorkIsDroppedWhenTheServerHasEnded) {
  HttpAnswer::World world;
  world.start = [](const std::function<void()>&) { return false; };
  world.wake = [] {};
  const auto answer = std::make_shared<HttpAnswer>(HttpAnswer::Form(), std::move(world));
  const auto held = std::make_shared<int>(1);
  for (int i = 0; i < 3; ++i) answer->post([held, answer] {});
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(answer.use_count(), 1);
}

}  // namespace
}  // namespace weft
