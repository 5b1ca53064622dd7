// VILA's chats through the engine: the prompt has the tokens of the text that the original makes of the messages
// (tests/data/media/NAME/messages.json), whether or not the chat was rendered before its images were read.
#include <gtest/gtest.h>

#include <algorithm>

#include "api/engine.h"
#include "api/request_json.h"
#include "base/files.h"
#include "support/reference_case.h"

namespace weft {
namespace {

class VilaMessages : public ::testing::TestWithParam<const char*> {};

TEST_P(VilaMessages, GiveTheOriginalsText) {
  const std::string folder = testing::test_data(std::string("media/") + GetParam());
  EngineOptions options;
  options.load_format = LoadFormat::dummy;
  options.kv_cache_memory = int64_t{16} << 20;
  const auto engine = Engine::load(folder, options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  const Json cases = read_json_file(folder + "/messages.json").value();
  ASSERT_FALSE(cases.members().empty());
  for (const auto& [name, expected] : cases.members()) {
    Request request, plain;
    request.messages = *expected.find("messages");
    plain.prompt = expected.find("text")->as_string();
    plain.add_special_tokens = false;
    request.local_files = plain.local_files = true;
    for (const Json& image : expected.find("images")->items())
      request.images.push_back(folder + "/" + image.as_string());
    plain.images = request.images;
    const auto want = (*engine)->prompt_tokens(plain);
    ASSERT_TRUE(want.ok()) << name << ": " << want.error().to_string();
    EXPECT_EQ((*engine)->prompt_tokens(request).value(), *want) << name;
    request.rendered = (*engine)->render_chat(request).value();
    EXPECT_EQ((*engine)->prompt_tokens(request).value(), *want) << name << ", rendered before";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, VilaMessages, ::testing::Values("nvila", "nvila-lite"),
                         [](const auto& info) { return info.param[5] ? "lite" : "s2"; });

}  // namespace
}  // namespace weft
