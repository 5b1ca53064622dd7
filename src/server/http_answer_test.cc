#include "server/http_answer.h"

#include <gtest/gtest.h>

#include <vector>

namespace weft {
namespace {

HttpAnswer answer_without_session() {
  return HttpAnswer([](const std::function<void()>& work) { work(); }, [] {}, 1000);
}

// A request may wait for a handler thread while its client leaves: the handler must learn of it all the same.
TEST(HttpAnswer, AnEndBeforeTheHandlerAsksIsTold) {
  for (const Ending why : {Ending::client_left, Ending::shutdown}) {
    HttpAnswer answer = answer_without_session();
    answer.end(why);
    std::vector<Ending> told;
    answer.on_end([&](Ending ending) { told.push_back(ending); });
    EXPECT_EQ(told, std::vector<Ending>{why});
    answer.end(Ending::client_left);
    EXPECT_EQ(told.size(), 1u);
    answer.respond({.status = 503, .body = "later"});
    EXPECT_EQ(answer.has_unsent(), false) << "the client has left";
  }
}

TEST(HttpAnswer, AnEndIsToldOnceAndNotBehindTheAnswer) {
  HttpAnswer answer = answer_without_session();
  std::vector<Ending> told;
  answer.on_end([&](Ending ending) { told.push_back(ending); });
  answer.end(Ending::shutdown);
  answer.respond({.status = 503, .body = "bye"});
  EXPECT_TRUE(answer.done() && answer.has_unsent());
  answer.end(Ending::client_left);
  EXPECT_EQ(told, std::vector<Ending>{Ending::shutdown});

  HttpAnswer complete = answer_without_session();
  complete.respond({.body = "all"});
  complete.end(Ending::client_left);
  complete.on_end([&](Ending ending) { told.push_back(ending); });
  EXPECT_EQ(told.size(), 1u);
}

// While the session waits for a client that does not read, events go on coming.
TEST(HttpAnswer, ATooSlowStreamTakesNoMoreMemory) {
  HttpAnswer answer = answer_without_session();
  for (int i = 0; i < 100; ++i) answer.send(std::string(300, 'x'));
  EXPECT_TRUE(answer.too_slow());
  EXPECT_LT(answer.take_unsent().size(), 1000u + 300u);
  answer.send(std::string(300, 'x'));
  EXPECT_TRUE(answer.too_slow()) << "what was left out cannot be made up for";
  EXPECT_FALSE(answer.has_unsent());
}

}  // namespace
}  // namespace weft
