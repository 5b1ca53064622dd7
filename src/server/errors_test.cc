#include "server/errors.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

std::string message(const Error& error) {
  return parse_json(error_response(error).body)->find("error")->find("message")->as_string();
}

// Of what failed in a library the client is not told what it said; what was meant for the client stays.
TEST(Errors, NothingFromInside) {
  for (const char* inside : {"panic: index out of bounds: the len is 3", "tokenizer: panic: called `Option::unwrap()`",
                             "std::bad_alloc", "std::length_error"}) {
    const std::string said = message(Error(Code::internal, inside));
    EXPECT_EQ(said, "the request failed inside the server; its log says why") << inside;
    EXPECT_EQ(error_json(Error(Code::internal, inside)).dump().find(inside), std::string::npos);
  }
  EXPECT_EQ(message(Error(Code::internal, "a number is not finite")), "a number is not finite");
  EXPECT_EQ(message(Error(Code::invalid_argument, "regex: std::x is no group")), "regex: std::x is no group");
}

}  // namespace
}  // namespace weft
