// From images to what a vision tower reads, and from a prompt with placeholders to token ids: the processors of the
// vision-language families, each reading its checkpoint's own files (config.json, preprocessor_config.json,
// processor_config.json, ...).
//
// A request goes through three calls:
//   1. prepare(): resize, tiling, normalising -> one PreparedMedia per image or video, in the order of the
//     placeholders;
//   2. the chat template (with the processor's placeholders: message_text() first) gives the prompt's text;
//   3. expand(): placeholders become as many feature positions as each image has, the text becomes ids, and spans say
//      where the features go. Expansion is textual, before tokenising, except for VILA, which expands ids.
//
// Positions for M-RoPE and the rows of Mllama's cross attention follow from the spans: positions.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "media/image.h"

namespace weft {

enum class MediaKind : unsigned char { image, video };
constexpr int kMediaKinds = static_cast<int>(MediaKind::video) + 1;

class SettingsSource;  // settings.h

// What a request hands over: one image, or the frames of a video, already sampled.
struct MediaInput {
  MediaKind kind = MediaKind::image;
  std::vector<Image> frames;  // one for an image
  double fps = 2;             // frames per second of `frames`; videos only
  // Looked at while it is prepared; null: never.
  const StopFlag* stop = nullptr;
};

// What preparing an image or video takes, told by the sizes of its frames.
struct MediaCost {
  int64_t values = 0;         // floats that the vision tower reads
  int64_t scratch_bytes = 0;  // of resized frames, until it is prepared
};

// One image or video, ready for the vision tower. Fields that a family does not name are left as they are here.
struct PreparedMedia {
  MediaKind kind = MediaKind::image;
  // [tiles, 3, S, S], channels first; Qwen: [patches, 3 * frames * patch * patch].
  std::vector<float> pixel_values;
  std::vector<int64_t> shape;
  int height = 0, width = 0;  // of the image as decoded (LLaVA-NeXT's image_sizes)
  // Rows and columns of tiles: LLaVA-NeXT's best resolution / S; Llama 4's and Mllama's aspect ratio; VILA's
  // block_size. In Llama 4, LLaVA-NeXT and VILA (dynamic) one more tile, the whole image, comes with them.
  int tile_rows = 1, tile_columns = 1;
  int aspect_ratio_id = 0;                               // Mllama: 1 + index in the list of ratios
  int grid_frames = 0, grid_rows = 0, grid_columns = 0;  // Qwen: image_grid_thw or video_grid_thw, in patches
  // Qwen: spatial_merge_size, patches per position along each side
  int merge = 1;
  // Qwen: temporal distance of two frames of the grid in M-RoPE positions
  double time_step = 1;
  bool single = true;  // VILA: the only image of its request, which alone is tiled (S2: has a grid)
  // Feature positions for each placeholder in the text: mostly one placeholder; VILA (dynamic) has one for each tile.
  // Mllama's one position per image is not overwritten with features, it only marks where the image is seen from.
  std::vector<int> positions;
  // What the memory that this takes is charged to (media/account.h); null: to nobody.
  std::shared_ptr<const void> share;
  // Same hash, same features at the same positions: content_hash of every frame, with the kind, the frame rate and the
  // shapes.
  Digest hash{};

  int feature_positions() const {
    int sum = 0;
    for (int n : positions) sum += n;
    return sum;
  }
};

// `count` features of media[media], from feature `first` on, belong at positions position .. position + count - 1.
struct FeatureSpan {
  int media = 0, first = 0;
  int64_t position = 0;
  int count = 0;
  bool operator==(const FeatureSpan&) const = default;
};

struct ExpandedPrompt {
  std::vector<int32_t> ids;
  std::vector<FeatureSpan> spans;  // by position
};

// Text to ids; special tokens in the text are parsed. `add_special_tokens`: what the model's tokenizer adds around a
// prompt (BOS).
using Encode = std::function<Result<std::vector<int32_t>>(std::string_view text, bool add_special_tokens)>;

// How a family's prompts mention images.
struct PromptForm {
  // the placeholder as the chat template writes it: "<image>", "<|image_pad|>", "<start_of_image>", ...
  std::string image;
  std::string video;  // the same for videos; empty: the family takes none
  // the text of the token whose embedding the features replace, if it is not the placeholder itself
  std::string feature;
  int32_t image_id = -1;  // the ids whose positions take the features, in order
  int32_t video_id = -1;
  bool rewrites_messages = false;  // the chat template gets template_messages() instead of the client's
};

// Immutable; all functions may be called from any thread at once.
class MediaProcessor {
 public:
  // Reads the files of a checkpoint's folder. Null for a text-only model. Errors name file and key; unsupported:
  // settings that change the pixels in a way that this build does not know.
  static Result<std::unique_ptr<const MediaProcessor>> from_folder(const std::string& folder);
  // The same for the files' contents (GGUF has them as metadata).
  static Result<std::unique_ptr<const MediaProcessor>> from(const SettingsSource& source);
  virtual ~MediaProcessor() = default;

  const PromptForm& form() const { return form_; }

  // All images and videos of one request together, in the order of their placeholders. An error names the one it is
  // about ("image 2: ..."), counted from 1, images and videos apart.
  Result<std::vector<PreparedMedia>> prepare(std::span<const MediaInput> media) const;
  // One of them, so that its pixels need not be kept; `alone`: it is the request's only one. Errors do not name it.
  Result<PreparedMedia> prepare(const MediaInput& media, bool alone) const;
  // What that will take; of the frames, the sizes alone are looked at.
  Result<MediaCost> cost(const MediaInput& media, bool alone) const;

  // The messages of a chat as they go into the chat template. VILA makes each content one text, by message_text(); the
  // others (PromptForm::rewrites_messages is false) change nothing. `media`: all of the request's.
  Json template_messages(Json messages, std::span<const PreparedMedia> media) const;
  // The content of one message, in which placeholders stand for images. VILA writes one for each tile of an image and
  // removes the white space around the text. Without `media`, while they are not prepared yet, each placeholder stays
  // one.
  virtual std::string message_text(std::string_view content, std::span<const PreparedMedia> media) const;

  // The prompt's ids with every placeholder expanded. Another number of placeholders than of images is
  // invalid_argument, as is text that holds the feature token itself.
  Result<ExpandedPrompt> expand(std::string_view text, bool add_special_tokens, std::span<const PreparedMedia> media,
                                const Encode& encode) const;
  // For ids that are already expanded (prompt_token_ids): where the features go. A wrong number of feature tokens is
  // invalid_argument.
  Result<std::vector<FeatureSpan>> locate(std::span<const int32_t> ids, std::span<const PreparedMedia> media) const;

  // The request's pixel_values as the reference's processor returns them: concatenated, stacked or padded, with the
  // shape it gives them. `kind` picks pixel_values or pixel_values_videos. For tests and `weft score`.
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  virtual Tensor reference_layout(std::span<const PreparedMedia> media, MediaKind kind) const;

 protected:
  explicit MediaProcessor(PromptForm form) : form_(std::move(form)) {}
  // One image or video; `alone`: it is the request's only one. Everything but `hash`, `kind`, `height` and `width`.
  virtual Result<PreparedMedia> prepare_one(const MediaInput& media, bool alone) const = 0;
  // What prepare_one() puts into pixel_values, in floats, and the largest image that frames are resized to.
  struct Sizes {
    int64_t values = 0;
    int64_t height = 0, width = 0;
  };
  virtual Result<Sizes> sizes(const MediaInput& media, bool alone) const = 0;
  // What a placeholder becomes in the text.
  virtual std::string expansion(const PreparedMedia& media) const = 0;
  // The prompt's final ids, given those of the expanded text. Only VILA changes them: its placeholders are expanded
  // here, as ids, instead of in the text.
  virtual Result<std::vector<int32_t>> finish_ids(std::vector<int32_t> ids, std::span<const PreparedMedia> media,
                                                  const Encode& encode) const;
  // The text with its placeholders expanded, after checking their number.
  virtual Result<std::string> expand_text(std::string_view text, std::span<const PreparedMedia> media) const;

 private:
  Status check_input(const MediaInput& media) const;
  PromptForm form_;
};

}  // namespace weft
