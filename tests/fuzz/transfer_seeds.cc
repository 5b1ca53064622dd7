#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "runtime/media_message.h"
#include "target.h"
#include "transfer/message.h"

using namespace weft;

namespace {

PromptMedia images(bool cross) {
  PreparedMedia image;
  image.shape = {1, 2, 3}, image.pixel_values = {1, 2, 3, 4, 5, 6}, image.positions = {2, 3};
  image.grid_frames = 1, image.grid_rows = 2, image.grid_columns = 3;
  PromptMedia prompt{{std::make_shared<const PreparedMedia>(image)}, std::make_shared<MediaPrompt>()};
  image.kind = MediaKind::video, image.positions = {4}, image.single = false;
  prompt.media.push_back(std::make_shared<const PreparedMedia>(image));
  MediaPrompt& places = *prompt.places;
  if (cross) {
    places.real_rows = {3, 2}, places.cross.assign(12, {0, 5});
    places.cross[0] = {0, 0}, places.cross[3] = {3, 5};
  } else {
    places.spans = {{1, 2, 0, 0}, {3, 3, 0, 2}, {6, 4, 1, 0}}, places.delta = -2;
    for (auto& axis : places.positions) axis = {0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6, 7};
  }
  return prompt;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](char kind, const std::vector<std::byte>& bytes) {
    seeds.push_back(kind + std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  };
  const std::vector<std::byte> content(24, std::byte{7}), of_spans = encode_media(images(false)),
                                                          of_keys = encode_media(images(true));
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  for (const TransferMessage& message : std::vector<TransferMessage>{
           HelloMessage{}, AnswerMessage{1, {}, "model: x\nprogram: weft\n", {}}, WelcomeMessage{},
           RefusedMessage{"why"},
           ComputeMessage{1, "salt", 5, 9000, tokens, {{0, 2, "one"}, {5, 7, "two"}}, of_spans, "law", "digest", 77},
           ComputeMessage{2, "", 0, 1, tokens, {{0, 12, "all"}}, of_keys}, ComputeMessage{3, "", 0, 1, {1, 2}, {}, {}},
           SendMessage{4, {{0, 0, 8}, {0, 12, 4}, {1, 3, 1}}, {0, 1}}, CancelMessage{5},
           PartMessage{6, 1, 0, 2, 4, 3, content}, FeaturesMessage{7, 1, 9, 3, 2, content}, ProgressMessage{8, 256},
           DoneMessage{9, true, ""}, DoneMessage{10, false, "memory is full"}, PingMessage{}, PongMessage{}})
    add(0, encode(message));
  add(1, of_spans), add(1, of_keys);
  return seeds;
}

void mend(std::string& input) {
  if (input.size() < 10 || input[0] % 2 != 0) return;
  const size_t end = input.size() - 8;
  const uint64_t sum = XXH3_64bits(input.data() + 1, end - 1);
  std::memcpy(input.data() + end, &sum, sizeof sum);
}

std::vector<std::string> fuzz_words() { return {}; }
