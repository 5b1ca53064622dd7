// The token of an image has no logit where it lies behind the vocabulary: prompt_logprobs are refused, by name.
#include <gtest/gtest.h>

#include "api/engine.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

TEST(ImageLogprobs, OfMllama) {
  const std::string folder = test_data("media/mllama");
  EngineOptions options;
  options.load_format = LoadFormat::dummy;
  options.threads = 1, options.kv_cache_memory = int64_t{16} << 20;
  const auto engine = Engine::load(folder, options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  Request request;
  request.prompt = "<|image|>hi", request.local_files = true, request.max_tokens = 1;
  request.images = {folder + "/images/wide.png"};
  EXPECT_EQ(ask(**engine, request).error, "");
  request.sampling.prompt_logprobs = 1;
  const auto refused = (*engine)->submit(request, [](const Event&) {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().param(), "prompt_logprobs");
  EXPECT_NE(refused.error().message().find("the image's token 512 has no logit"), std::string::npos)
      << refused.error().message();
}

}  // namespace
}  // namespace weft::testing
