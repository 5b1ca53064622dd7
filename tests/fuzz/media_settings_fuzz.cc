// The settings of image processors (preprocessor_config.json, processor_config.json) to what a picture becomes: as many
// values as the shape says, or an error.
#include "media/processor.h"
#include "target.h"

using namespace weft;

namespace {

constexpr const char* kFamilies[] = {"qwen2-vl", "qwen2.5-vl", "llava-next-mistral", "mllama",
                                     "llama4",   "nvila",      "nvila-lite",         "gemma3-vision"};
constexpr size_t kCount = std::size(kFamilies);

// A folder for each family, with its own config.json.
const FuzzFolder& folder() {
  static const FuzzFolder made;
  static const bool filled = [] {
    for (const std::string name : kFamilies) {
      std::filesystem::create_directories(made.file(name));
      made.put(name + "/config.json", seed_file("media/" + name + "/config.json"));
    }
    return true;
  }();
  return (void)filled, made;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (size_t i = 0; i < kCount; ++i) {
    const std::string file = "media/" + std::string(kFamilies[i]) + "/preprocessor_config.json";
    if (!is_file(std::string(WEFT_TEST_DATA) + "/" + file)) continue;
    seeds.push_back(static_cast<char>(i) + seed_file(file));
  }
  return seeds;
}
std::vector<std::string> fuzz_words() {
  return {"\"size\": ",
          "\"crop_size\": ",
          "\"height\": ",
          "\"width\": ",
          "\"shortest_edge\": ",
          "\"longest_edge\": ",
          "\"min_pixels\": ",
          "\"max_pixels\": ",
          "\"patch_size\": ",
          "\"merge_size\": ",
          "\"temporal_patch_size\": ",
          "\"image_mean\": ",
          "\"image_std\": ",
          "\"rescale_factor\": ",
          "\"resample\": ",
          "\"do_resize\": ",
          "\"max_image_tiles\": ",
          "\"image_grid_pinpoints\": ",
          "[0.5, 0.5, 0.5]",
          "0",
          "1e-300",
          "16777216",
          "null"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text = copy_of(data, size);
  const std::string family = kFamilies[take_choice(text, kCount)];
  folder().put(family + "/preprocessor_config.json", text);
  const auto processor = MediaProcessor::from_folder(folder().file(family));
  if (!processor.ok()) return require_message(processor.error()), 0;
  if (!*processor) return 0;
  std::vector<MediaInput> inputs(1);
  inputs[0].frames.emplace_back(30, 41);
  const auto prepared = (*processor)->prepare(inputs);
  if (!prepared.ok()) return require_message(prepared.error()), 0;
  for (const PreparedMedia& media : *prepared) {
    size_t values = 1;
    for (const int64_t extent : media.shape) {
      require(extent > 0 && extent < 1 << 28, "extents are sizes");
      values *= static_cast<size_t>(extent);
    }
    require(values == media.pixel_values.size(), "a picture has as many values as its shape says");
    require(media.feature_positions() > 0, "a picture has positions");
  }
  return 0;
}
