// Images and prompts of the vision-language families against the reference processors (tests/data/media; make_data.py
// beside this file made it): decoded pixels, pixel_values to the bit, expanded ids, positions, masks and grids. One
// folder is one model; adding a folder adds its tests. WEFT_MEDIA_DATA names another folder of the same form.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "media/positions.h"
#include "media/processor.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft {
namespace {

std::string data_folder() {
  const char* other = std::getenv("WEFT_MEDIA_DATA");
  return other ? other : std::string(WEFT_TEST_DATA) + "/media";
}

std::vector<std::string> models() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(data_folder())) {
    if (is_file(entry.path() / "expected.json")) names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  return names;
}

std::string hex(const Digest& digest) {
  std::string text;
  for (uint8_t byte : digest) text += "0123456789abcdef"[byte >> 4], text += "0123456789abcdef"[byte & 15];
  return text;
}

std::vector<int64_t> integers(const Json& list) {
  std::vector<int64_t> out;
  for (const Json& item : list.items()) {
    if (item.is_array()) {
      const std::vector<int64_t> inner = integers(item);
      out.insert(out.end(), inner.begin(), inner.end());
    } else {
      out.push_back(item.as_integer());
    }
  }
  return out;
}

template <class T>
std::vector<int64_t> widened(const std::vector<T>& list) {
  return {list.begin(), list.end()};
}

class MediaOracle : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = data_folder() + "/" + GetParam();
    expected_ = read_json_file(folder_ + "/expected.json").value();
    Result<std::unique_ptr<const MediaProcessor>> made = MediaProcessor::from_folder(folder_);
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    processor_ = std::move(*made);
    ASSERT_TRUE(processor_);
    tokenizer_ = Tokenizer::from_folder(is_file(folder_ + "/tokenizer.json") ? folder_ : folder_ + "/llm").value();
  }

  Image read(const std::string& path) const {
    const std::string bytes = read_file(folder_ + "/" + path).value();
    Result<Image> image = decode_image(std::as_bytes(std::span(bytes)));
    EXPECT_TRUE(image.ok()) << path << ": " << image.error().to_string();
    return image.ok() ? *image : Image(1, 1);
  }

  std::vector<PreparedMedia> prepared(const Json& prompt) const {
    std::vector<MediaInput> inputs;
    for (const Json& path : prompt.find("images")->items())
      inputs.push_back({MediaKind::image, {read(path.as_string())}});
    for (const Json& video : prompt.find("videos")->items()) {
      MediaInput input{MediaKind::video};
      for (const Json& path : video.items()) input.frames.push_back(read(path.as_string()));
      inputs.push_back(std::move(input));
    }
    Result<std::vector<PreparedMedia>> media = processor_->prepare(inputs);
    EXPECT_TRUE(media.ok()) << media.error().to_string();
    return media.ok() ? *media : std::vector<PreparedMedia>();
  }

  Encode encode() const {
    return [this](std::string_view text, bool add) { return tokenizer_->encode(text, {.add_special_tokens = add}); };
  }

  ExpandedPrompt expanded(const Json& prompt, const std::vector<PreparedMedia>& media) const {
    Result<ExpandedPrompt> result = processor_->expand(prompt.find("text")->as_string(), false, media, encode());
    EXPECT_TRUE(result.ok()) << result.error().to_string();
    return result.ok() ? *result : ExpandedPrompt();
  }

  const Json::Object& prompts() const { return expected_.find("prompts")->members(); }

  std::string folder_;
  Json expected_;
  std::unique_ptr<const MediaProcessor> processor_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(MediaOracle, DecodesEveryImage) {
  for (const auto& [name, want] : expected_.find("images")->members()) {
    const Image image = read("images/" + name);
    EXPECT_EQ((std::vector<int64_t>{image.height, image.width, 3}), integers(*want.find("shape"))) << name;
    EXPECT_EQ(hex(sha256(std::as_bytes(std::span(image.rgb)))), want.find("sha256")->as_string()) << name;
  }
}

TEST_P(MediaOracle, PixelValuesAreThoseOfTheReference) {
  for (const auto& [name, prompt] : prompts()) {
    const std::vector<PreparedMedia> media = prepared(prompt);
    for (const auto& [key, kind] :
         {std::pair{"pixel_values", MediaKind::image}, {"pixel_values_videos", MediaKind::video}}) {
      const Json* want = prompt.find(key);
      const MediaProcessor::Tensor got = processor_->reference_layout(media, kind);
      ASSERT_EQ(want == nullptr, got.values.empty()) << name << " " << key;
      if (!want) continue;
      ASSERT_EQ(got.shape, integers(*want->find("shape"))) << name;
      const Json::Array& some = want->find("every_997th")->items();
      for (size_t i = 0; i < some.size(); ++i) {
        ASSERT_EQ(got.values[i * 997], static_cast<float>(some[i].as_number()))
            << name << " " << key << " at " << i * 997;
      }
      EXPECT_EQ(hex(sha256(std::as_bytes(std::span(got.values)))), want->find("sha256")->as_string())
          << name << " " << key;
    }
  }
}

TEST_P(MediaOracle, ExpandsPlaceholders) {
  for (const auto& [name, prompt] : prompts()) {
    const std::vector<PreparedMedia> media = prepared(prompt);
    const ExpandedPrompt got = expanded(prompt, media);
    EXPECT_EQ(widened(got.ids), integers(*prompt.find("input_ids"))) << name;
    const Result<std::vector<FeatureSpan>> again = processor_->locate(got.ids, media);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(*again, got.spans);
    int64_t spanned = 0, features = 0;
    for (const FeatureSpan& span : got.spans) spanned += span.count;
    for (const PreparedMedia& m : media) features += m.feature_positions();
    EXPECT_EQ(spanned, features);
  }
}

TEST_P(MediaOracle, OtherOutputsOfTheProcessor) {
  for (const auto& [name, prompt] : prompts()) {
    SCOPED_TRACE(name);
    const std::vector<PreparedMedia> media = prepared(prompt);
    std::vector<int64_t> sizes, ratios, ids, grids, tokens;
    for (const PreparedMedia& m : media) {
      sizes.insert(sizes.end(), {m.height, m.width});
      ratios.insert(ratios.end(), {m.tile_rows, m.tile_columns});
      ids.push_back(m.aspect_ratio_id);
      grids.insert(grids.end(), {m.grid_frames, m.grid_rows, m.grid_columns});
      tokens.insert(tokens.end(), m.positions.begin(), m.positions.end());
    }
    const std::pair<const char*, const std::vector<int64_t>*> known[] = {
        {"image_sizes", &sizes},       {"aspect_ratios", &ratios}, {"block_sizes", &ratios},
        {"aspect_ratio_ids", &ids},    {"image_grid_thw", &grids}, {"video_grid_thw", &grids},
        {"tokens_per_image", &tokens},
    };
    for (const auto& [key, got] : known) {
      const Json* want = prompt.find(key);
      if (want && !media.empty()) {
        EXPECT_EQ(*got, integers(*want)) << key;
      }
    }
  }
}

TEST_P(MediaOracle, MropePositions) {
  for (const auto& [name, prompt] : prompts()) {
    const Json* want = prompt.find("position_ids");
    if (!want) continue;
    const std::vector<PreparedMedia> media = prepared(prompt);
    const ExpandedPrompt text = expanded(prompt, media);
    const MropePositions got = mrope_positions(static_cast<int64_t>(text.ids.size()), text.spans, media);
    for (int axis = 0; axis < 3; ++axis)
      EXPECT_EQ(widened(got.axes[axis]), integers(want->items()[axis])) << name << " axis " << axis;
    if (const Json* delta = prompt.find("rope_delta")) EXPECT_EQ(got.delta, integers(*delta)[0]) << name;
    else EXPECT_EQ(got.delta, 0) << name;
  }
}

TEST_P(MediaOracle, CrossAttentionMask) {
  for (const auto& [name, prompt] : prompts()) {
    const Json* want = prompt.find("cross_attention_mask");
    if (!want) continue;
    const std::vector<PreparedMedia> media = prepared(prompt);
    const ExpandedPrompt text = expanded(prompt, media);
    const std::vector<RowRange> rows = cross_attention_rows(static_cast<int64_t>(text.ids.size()), text.spans);
    ASSERT_EQ(rows.size(), media.size());
    std::vector<int64_t> mask, tiles;
    for (int64_t t = 0; t < static_cast<int64_t>(text.ids.size()); ++t) {
      for (size_t i = 0; i < media.size(); ++i) {
        const int real = media[i].tile_rows * media[i].tile_columns;
        for (int tile = 0; tile < media[i].shape[0]; ++tile)
          mask.push_back(t >= rows[i].first && t < rows[i].end && tile < real);
      }
    }
    EXPECT_EQ(mask, integers(*want)) << name;
    for (const PreparedMedia& m : media) {
      for (int tile = 0; tile < m.shape[0]; ++tile) tiles.push_back(tile < m.tile_rows * m.tile_columns);
    }
    EXPECT_EQ(tiles, integers(*prompt.find("aspect_ratio_mask"))) << name;
  }
}

// From messages instead of the finished text: what the chat template is given. messages.json (make_vila_messages.py)
// has white space at the ends, and images in every place.
TEST_P(MediaOracle, MessagesGiveThePromptsText) {
  if (!is_directory(folder_ + "/llm")) {  // only VILA rewrites messages
    const Json messages = parse_json(R"([{"role": "user", "content": " as it is\n"}])").value();
    EXPECT_EQ(processor_->template_messages(messages, {}), messages);
    return;
  }
  const auto chat = ChatTemplate::from_folder(folder_ + "/llm").value();
  const Json cases = read_json_file(folder_ + "/messages.json").value();
  for (const Json::Object* each : {&prompts(), &cases.members()}) {
    for (const auto& [name, prompt] : *each) {
      const Json messages = processor_->template_messages(*prompt.find("messages"), prepared(prompt));
      EXPECT_EQ(chat->render(messages, Json(), Json()).value(), prompt.find("text")->as_string()) << name;
    }
  }
}

TEST_P(MediaOracle, WrongNumbersOfPlaceholdersAreNamed) {
  for (const auto& [name, prompt] : prompts()) {
    const std::vector<PreparedMedia> media = prepared(prompt);
    const std::string text = prompt.find("text")->as_string();
    const bool video = !prompt.find("videos")->items().empty();
    const std::string& placeholder = video ? processor_->form().video : processor_->form().image;
    const Result<ExpandedPrompt> more = processor_->expand(text + placeholder, false, media, encode());
    ASSERT_FALSE(more.ok()) << name;
    EXPECT_EQ(more.error().code(), Code::invalid_argument);
    EXPECT_NE(more.error().message().find(placeholder), std::string::npos) << more.error().message();
    if (media.empty()) continue;
    const Result<ExpandedPrompt> none = processor_->expand("Nothing to see.", false, media, encode());
    ASSERT_FALSE(none.ok()) << name;
    EXPECT_NE(none.error().message().find("has 0 " + std::string(video ? "video" : "image") + " placeholders"),
              std::string::npos)
        << none.error().message();
    const std::vector<int32_t> short_ids = {1, 2, 3};
    EXPECT_FALSE(processor_->locate(short_ids, media).ok());
  }
}

TEST_P(MediaOracle, HashesTellImagesApart) {
  std::vector<Digest> seen;
  for (const auto& [name, prompt] : prompts()) {
    const std::vector<PreparedMedia> media = prepared(prompt), again = prepared(prompt);
    for (size_t i = 0; i < media.size(); ++i) {
      EXPECT_EQ(media[i].hash, again[i].hash);
      seen.push_back(media[i].hash);
    }
  }
  const size_t all = seen.size();
  ASSERT_GT(all, 2u);
  std::ranges::sort(seen);
  const auto end = std::unique(seen.begin(), seen.end());
  // The nvila folders ask about tall.jpg alone and beside another image, which tiles it differently; nothing else
  // occurs twice.
  EXPECT_EQ(static_cast<size_t>(end - seen.begin()), all);
}

INSTANTIATE_TEST_SUITE_P(Models, MediaOracle, ::testing::ValuesIn(models()), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
});

}  // namespace
}  // namespace weft
