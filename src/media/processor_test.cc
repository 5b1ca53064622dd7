// The processors on sizes and settings that the oracle (tests/media) does not have: values from the reference's
// documentation and from working the rules out by hand, and every refusal.
#include "media/processor.h"
#include "base/stop_flag.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/files.h"
#include "media/positions.h"

namespace weft {
namespace {

// A folder with a checkpoint's settings files.
class Folder {
 public:
  explicit Folder(std::vector<std::pair<std::string, std::string>> files) {
    std::string pattern = (std::filesystem::temp_directory_path() / "weft_media_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    for (const auto& [name, text] : files) {
      std::filesystem::create_directories(std::filesystem::path(path_ + "/" + name).parent_path());
      EXPECT_TRUE(write_file(path_ + "/" + name, text).ok());
    }
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

using Files = std::vector<std::pair<std::string, std::string>>;

std::unique_ptr<const MediaProcessor> processor(const Files& files) {
  const Folder folder(files);
  Result<std::unique_ptr<const MediaProcessor>> made = MediaProcessor::from_folder(folder.path());
  EXPECT_TRUE(made.ok()) << made.error().to_string();
  return made.ok() ? std::move(*made) : nullptr;
}

std::string refusal(const Files& files) {
  const Folder folder(files);
  Result<std::unique_ptr<const MediaProcessor>> made = MediaProcessor::from_folder(folder.path());
  return made.ok() ? "accepted" : made.error().message();
}

PreparedMedia one(const MediaProcessor& p, int height, int width) {
  const MediaInput input{MediaKind::image, {Image(height, width)}};
  Result<std::vector<PreparedMedia>> media = p.prepare({&input, 1});
  EXPECT_TRUE(media.ok()) << media.error().to_string();
  if (!media.ok()) return {};
  // What it takes is known beforehand, to the float.
  const Result<MediaCost> cost = p.cost(input, true);
  EXPECT_TRUE(cost.ok());
  if (!cost.ok()) return {};
  EXPECT_EQ(cost->values, static_cast<int64_t>(media->front().pixel_values.size()));
  return std::move(media->front());
}

std::string prepare_error(const MediaProcessor& p, std::vector<MediaInput> inputs) {
  Result<std::vector<PreparedMedia>> media = p.prepare(inputs);
  return media.ok() ? "prepared" : media.error().message();
}

const Files kQwen = {
    {"config.json", R"({"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"})"},
    {"preprocessor_config.json", R"({"min_pixels": 3136, "max_pixels": 12845056})"}};
const Files kQwenTimed = {
    {"config.json", R"({"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
                                              "vision_config": {"tokens_per_second": 2}})"},
    {"preprocessor_config.json", R"({"size": {"shortest_edge": 3136, "longest_edge": 100352}})"}};
const Files kLlava = {{"config.json", R"({"architectures": ["LlavaNextForConditionalGeneration"]})"},
                      {"preprocessor_config.json", R"({"size": {"shortest_edge": 336}, "crop_size": 336})"}};
const Files kLlama4 = {{"config.json", R"({"architectures": ["Llama4ForConditionalGeneration"], "vision_config": {}})"},
                       {"preprocessor_config.json", R"({"size": {"height": 224, "width": 224}, "max_patches": 4})"}};
const Files kMllama = {{"config.json", R"({"architectures": ["MllamaForConditionalGeneration"], "vision_config": {}})"},
                       {"preprocessor_config.json", R"({"size": {"height": 56, "width": 56}, "max_image_tiles": 4})"}};
const Files kGemma = {{"config.json", R"({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}})"},
                      {"preprocessor_config.json", R"({"size": {"height": 28, "width": 28}})"}};

Files with(Files files, const std::string& name, const std::string& text) {
  std::erase_if(files, [&](const auto& file) { return file.first == name; });
  files.push_back({name, text});
  return files;
}

TEST(Processor, CostIsWhatIsPrepared) {
  for (const Files& files : {kQwen, kQwenTimed, kLlava, kLlama4, kMllama, kGemma}) {
    const auto p = processor(files);
    for (const auto& [height, width] : {std::pair{1, 1}, {1, 150}, {56, 84}, {300, 200}, {700, 1000}})
      one(*p, height, width);
  }
  const auto qwen = processor(kQwenTimed);
  const MediaInput video{MediaKind::video, std::vector<Image>(5, Image(56, 84)), 1.0};
  EXPECT_EQ(qwen->cost(video, true)->values, 3 * 4 * 6 * 1176);
}

TEST(Processor, AStopFlagEndsPreparing) {
  StopFlag stop;
  stop.set(StopReason::out_of_time);
  const MediaInput input{.kind = MediaKind::image, .frames = {Image(100, 100)}, .stop = &stop};
  const auto got = processor(kGemma)->prepare(input, true);
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code(), Code::deadline_exceeded);
}

TEST(Processor, TextOnlyModelsHaveNone) {
  EXPECT_EQ(processor({{"config.json", R"({"architectures": ["LlamaForCausalLM"]})"}}), nullptr);
  EXPECT_EQ(processor({{"config.json", R"({"architectures": ["MllamaForConditionalGeneration"]})"}}),
            nullptr);  // without its vision part
}

TEST(Qwen, SizesAreMultiplesOf28WithinThePixelLimits) {
  const auto p = processor(kQwen);
  const auto grid = [&](int height, int width) {
    const PreparedMedia m = one(*p, height, width);
    return std::array{m.grid_frames, m.grid_rows, m.grid_columns, m.feature_positions()};
  };
  EXPECT_EQ(grid(700, 1000), (std::array{1, 50, 72, 900}));  // 700 = 25 * 28; 1000 / 28 = 35.7
  EXPECT_EQ(grid(1, 1), (std::array{1, 4, 4, 4}));           // grown to 56 x 56
  EXPECT_EQ(grid(70, 126), (std::array{1, 4, 8, 8}));        // 2.5 and 4.5 go to the even 2 and 4
}

// As transformers 5 saves them: both processors inside processor_config.json.
TEST(Qwen, SettingsInOneFile) {
  const auto p = processor(
      {kQwen[0],
       {"processor_config.json", R"({"image_processor": {"size": {"shortest_edge": 3136, "longest_edge": 6272}},
                                                          "video_processor": {"patch_size": 14, "size": {"shortest_edge": 784, "longest_edge": 784}}})"}});
  EXPECT_EQ(one(*p, 560, 560).shape[0], 4 * 4);  // sqrt(6272) is 79: 56 x 56
  const MediaInput input{MediaKind::video, {Image(560, 560)}};
  EXPECT_EQ(p->prepare({&input, 1}).value()[0].shape[0], 2 * 2);
  EXPECT_NE(refusal({kQwen[0], {"processor_config.json", R"({"image_processor": {"resample": 0}})"}})
                .find("processor_config.json: image_processor: resample"),
            std::string::npos);
}

TEST(Qwen, FramesPairUpAndTimeCounts) {
  const auto p = processor(kQwenTimed);
  const MediaInput input{MediaKind::video, std::vector<Image>(5, Image(56, 84)), 1.0};
  const std::vector<PreparedMedia> media = p->prepare({&input, 1}).value();
  EXPECT_EQ(media[0].grid_frames, 3);  // the last frame is repeated
  EXPECT_EQ(media[0].time_step, 4);    // 2 positions a second, 2 seconds apart
  EXPECT_EQ(media[0].shape, (std::vector<int64_t>{3 * 4 * 6, 1176}));
  EXPECT_EQ(p->reference_layout(media, MediaKind::image).values.size(), 0u);
  const FeatureSpan span{0, 0, 2, 18};
  const MropePositions got = mrope_positions(22, {&span, 1}, media);
  EXPECT_EQ(got.axes[0],
            (std::vector<int32_t>{0, 1, 2, 2, 2, 2, 2, 2, 6, 6, 6, 6, 6, 6, 10, 10, 10, 10, 10, 10, 11, 12}));
  EXPECT_EQ(got.axes[1], (std::vector<int32_t>{0, 1, 2, 2, 2, 3, 3, 3, 2, 2, 2, 3, 3, 3, 2, 2, 2, 3, 3, 3, 11, 12}));
  EXPECT_EQ(got.axes[2], (std::vector<int32_t>{0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3, 4, 11, 12}));
  EXPECT_EQ(got.delta, 13 - 22);
}

TEST(Qwen, Refusals) {
  const auto p = processor(kQwen);
  EXPECT_NE(prepare_error(*p, {{MediaKind::image, {Image(28, 28)}}, {MediaKind::image, {Image(1, 201)}}})
                .find("image 2: one side is more than 200 times"),
            std::string::npos);
  EXPECT_EQ(prepare_error(*p, {{MediaKind::video, {}}}), "video 1: it has no frames");
  EXPECT_EQ(prepare_error(*p, {{MediaKind::video, {Image(28, 28), Image(28, 30)}}}),
            "video 1: frame 2 is 30 x 28 pixels, the first is 28 x 28");
  EXPECT_NE(prepare_error(*p, {{MediaKind::video, {Image(28, 28)}, 0.0}}).find("fps"), std::string::npos);
  EXPECT_NE(prepare_error(*p, {{MediaKind::video, std::vector<Image>(769, Image(1, 1))}}).find("at most 768"),
            std::string::npos);
  EXPECT_NE(
      refusal(with(kQwen, "preprocessor_config.json", R"({"min_pixels": 10, "max_pixels": 5})")).find("min_pixels"),
      std::string::npos);
  EXPECT_NE(refusal(with(kQwen, "preprocessor_config.json", R"({"image_std": [0.5, 0.5]})")).find("image_std"),
            std::string::npos);
  EXPECT_NE(refusal(with(kQwen, "preprocessor_config.json", R"({"image_std": [0, 1, 1]})")).find("image_std"),
            std::string::npos);
  EXPECT_NE(
      refusal(with(kQwen, "preprocessor_config.json", R"({"resample": 1})")).find("preprocessor_config.json: resample"),
      std::string::npos);
  EXPECT_NE(refusal(with(kQwen, "preprocessor_config.json", R"({"patch_size": 0})")).find("patch_size"),
            std::string::npos);
  EXPECT_NE(refusal(with(kQwen, "preprocessor_config.json", "[1]")).find("not an object"), std::string::npos);
}

TEST(LlavaNext, PublishedResolutionsAndCounts) {
  const auto p = processor(kLlava);  // the five resolutions of LLaVA-1.6 and 24 x 24 patches
  // 640 x 480 goes into 672 x 672, whose width it uses whole, and 36 of the 48 feature rows.
  const PreparedMedia m = one(*p, 480, 640);
  EXPECT_EQ(m.tile_rows, 2);
  EXPECT_EQ(m.tile_columns, 2);
  EXPECT_EQ(m.shape, (std::vector<int64_t>{5, 3, 336, 336}));
  EXPECT_EQ(m.feature_positions(), 576 + 36 * 48 + 36);
  const PreparedMedia banner = one(*p, 300, 2000);
  EXPECT_EQ(banner.tile_rows * 10 + banner.tile_columns, 13);
}

TEST(LlavaNext, Refusals) {
  EXPECT_NE(refusal(with(kLlava, "preprocessor_config.json", R"({"image_grid_pinpoints": [[336, 100]]})"))
                .find("image_grid_pinpoints"),
            std::string::npos);
  EXPECT_NE(
      refusal(with(kLlava, "preprocessor_config.json", R"({"image_grid_pinpoints": 3})")).find("image_grid_pinpoints"),
      std::string::npos);
  EXPECT_NE(refusal(with(kLlava, "preprocessor_config.json", R"({"crop_size": 224})")).find("crop_size"),
            std::string::npos);
  EXPECT_NE(refusal(with(kLlava, "processor_config.json", R"({"vision_feature_select_strategy": "full"})"))
                .find("vision_feature_select_strategy"),
            std::string::npos);
  const auto p = processor(kLlava);
  EXPECT_EQ(prepare_error(*p, {{MediaKind::video, {Image(9, 9)}}}), "video 1: this model takes no videos");
}

TEST(Llama4, CanvasOfTheReferencesExample) {
  const auto p = processor(kLlama4);
  const PreparedMedia m = one(*p, 200, 300);  // the example in get_best_fit: 1 x 2 tiles of 224
  EXPECT_EQ(m.tile_rows * 10 + m.tile_columns, 12);
  EXPECT_EQ(m.shape[0], 3);
  EXPECT_EQ(m.positions, std::vector<int>{3 * 64});
  EXPECT_EQ(one(*p, 100, 100).shape[0], 1);  // one tile, no whole image besides
}

TEST(Mllama, RatiosAndTheirIds) {
  const auto p = processor(kMllama);
  const auto shape = [&](int height, int width) {
    const PreparedMedia m = one(*p, height, width);
    return std::array{m.tile_rows, m.tile_columns, m.aspect_ratio_id};
  };
  // Ids of Llama 3.2 Vision: 1x1, 1x2, 1x3, 1x4, 2x1, 2x2, 3x1, 4x1.
  EXPECT_EQ(shape(56, 56), (std::array{1, 1, 1}));
  EXPECT_EQ(shape(50, 200), (std::array{1, 4, 4}));
  EXPECT_EQ(shape(200, 50), (std::array{4, 1, 8}));
  EXPECT_EQ(shape(100, 100), (std::array{2, 2, 6}));
  EXPECT_EQ(shape(1, 3000), (std::array{1, 4, 4}));
  EXPECT_EQ(one(*p, 1, 1).pixel_values.size(), size_t{4} * 3 * 56 * 56);
}

TEST(Mllama, RowsThatSeeAImage) {
  const auto rows = [](std::vector<int64_t> tokens, int64_t all) {
    std::vector<FeatureSpan> spans;
    for (size_t i = 0; i < tokens.size(); ++i) spans.push_back({static_cast<int>(i), 0, tokens[i], 1});
    return cross_attention_rows(all, spans);
  };
  EXPECT_EQ(rows({}, 9), std::vector<RowRange>{});
  EXPECT_EQ(rows({2}, 9), (std::vector<RowRange>{{2, 9}}));
  EXPECT_EQ(rows({1, 4}, 9), (std::vector<RowRange>{{1, 4}, {4, 9}}));
  EXPECT_EQ(rows({1, 2, 5, 6, 7}, 9), (std::vector<RowRange>{{1, 5}, {2, 5}, {5, 9}, {6, 9}, {7, 9}}));
}

TEST(Gemma3, PanAndScanIsRefused) {
  EXPECT_EQ(refusal(with(kGemma, "preprocessor_config.json", R"({"do_pan_and_scan": null})")), "accepted");
  EXPECT_NE(refusal(with(kGemma, "preprocessor_config.json", R"({"do_pan_and_scan": true})")).find("do_pan_and_scan"),
            std::string::npos);
  EXPECT_NE(refusal(with(kGemma, "preprocessor_config.json", R"({"size": {"height": 28, "width": 30}})")).find("size"),
            std::string::npos);
}

TEST(Vila, Refusals) {
  const Files files = {{"config.json", R"({"architectures": ["LlavaLlamaModel"], "image_aspect_ratio": "dynamic"})"},
                       {"vision_tower/preprocessor_config.json", R"({"size": {"height": 28, "width": 28}})"}};
  EXPECT_EQ(refusal(files), "accepted");
  const auto with_setting = [&](const std::string& setting) {
    return refusal(with(files, "config.json", R"({"architectures": ["LlavaLlamaModel"], )" + setting + "}"));
  };
  EXPECT_NE(with_setting(R"("image_aspect_ratio": "pad")").find("image_aspect_ratio is pad"), std::string::npos);
  EXPECT_NE(with_setting(R"("image_aspect_ratio": "dynamic_s2")").find("s2_scales"), std::string::npos);
  EXPECT_NE(with_setting(R"("image_aspect_ratio": "dynamic_s2", "s2_scales": "28,x")").find("s2_scales"),
            std::string::npos);
  EXPECT_NE(with_setting(R"("image_aspect_ratio": "dynamic_s2", "s2_scales": "28,112")").find("max_tiles"),
            std::string::npos);
  EXPECT_NE(with_setting(R"("mm_projector_cfg": {"mm_projector_type": "other"})").find("mm_projector_type"),
            std::string::npos);
  EXPECT_NE(with_setting(R"("mm_vision_select_feature": "patch")").find("mm_vision_select_feature"), std::string::npos);
  EXPECT_NE(with_setting(R"("max_tiles": 1000000)").find("max_tiles"), std::string::npos);
}

TEST(Expand, TheFeatureTokenItselfIsNoPlaceholder) {
  const auto p = processor(kLlama4);
  const std::vector<PreparedMedia> media = {one(*p, 100, 100)};
  const Encode encode = [](std::string_view, bool) -> Result<std::vector<int32_t>> { return std::vector<int32_t>{}; };
  const Result<ExpandedPrompt> got = p->expand("<|image|> and <|patch|>", true, media, encode);
  ASSERT_FALSE(got.ok());
  EXPECT_NE(got.error().message().find("<|patch|>"), std::string::npos);
}

// Two images side by side, one interrupted: ids 5 are features.
TEST(Locate, SpansFollowImagesAndGaps) {
  const auto p = processor(
      with(kGemma, "config.json",
           R"({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}, "image_token_index": 5})"));
  std::vector<PreparedMedia> media(2);
  media[0].positions = {3};
  media[1].positions = {1, 1};
  const std::vector<int32_t> ids = {1, 5, 5, 2, 5, 5, 5, 3};
  EXPECT_EQ(p->locate(ids, media).value(), (std::vector<FeatureSpan>{{0, 0, 1, 2}, {0, 2, 4, 1}, {1, 0, 5, 2}}));
}

}  // namespace
}  // namespace weft
