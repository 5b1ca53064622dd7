// What the images of a request may take: each limit refuses what is beyond it before anything is decoded, with its
// status and its option's name.
#include <gtest/gtest.h>

#include <functional>

#include "api/engine.h"
#include "base/files.h"
#include "server/base64.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

TEST(ImageLimits, NameTheirOptions) {
  const std::string folder = test_data("media/mllama");
  const auto file = read_file(folder + "/images/wide.png");
  ASSERT_TRUE(file.ok());
  const auto bytes = static_cast<int64_t>(file->size());
  Request request;
  request.prompt = "<|image|><|image|>hi", request.max_tokens = 1;
  request.images = {"data:image/png;base64," + encode_base64(*file), "data:image/png;base64," + encode_base64(*file)};
  struct Case {
    const char* option;
    Code code;
    std::function<void(MediaLimits&)> set;
  };
  const std::vector<Case> cases = {
      {"--max-images", Code::too_large, [](MediaLimits& m) { m.max_images = 1; }},
      {"--max-image-bytes", Code::invalid_argument, [&](MediaLimits& m) { m.max_file_bytes = bytes - 1; }},
      {"--max-images-bytes", Code::too_large, [&](MediaLimits& m) { m.max_total_file_bytes = 2 * bytes - 1; }},
      {"--max-image-pixels", Code::invalid_argument, [](MediaLimits& m) { m.max_pixels = 100; }},
      {"--max-images-pixels", Code::too_large, [](MediaLimits& m) { m.max_total_pixels = 100; }},
      {"--max-prepared-memory", Code::too_large, [](MediaLimits& m) { m.max_prepared_bytes = 1000; }},
      {"--max-media-memory", Code::too_large, [](MediaLimits& m) { m.max_held_bytes = 1000; }},
  };
  EngineOptions options;
  options.load_format = LoadFormat::dummy;
  options.threads = 1, options.kv_cache_memory = int64_t{16} << 20;
  for (const Case& one : cases) {
    EngineOptions limited = options;
    one.set(limited.media_limits);
    const auto engine = Engine::load(folder, limited);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    const auto refused = (*engine)->submit(request, [](const Event&) {});
    ASSERT_FALSE(refused.ok()) << one.option;
    EXPECT_EQ(refused.error().code(), one.code) << refused.error().message();
    EXPECT_EQ(refused.error().param().substr(0, 6), "images") << refused.error().message();
    EXPECT_NE(refused.error().message().find(std::string("(") + one.option + ")"), std::string::npos)
        << refused.error().message();
  }
  const auto engine = Engine::load(folder, options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  EXPECT_TRUE((*engine)->submit(request, [](const Event&) {}).ok());
}

}  // namespace
}  // namespace weft::testing
