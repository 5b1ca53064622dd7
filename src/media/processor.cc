// What all families share: checks of the input, hashes, placeholders in text, features to positions, and finding the
// family.
#include "media/processor.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/stop_flag.h"
#include "media/pixels.h"

namespace weft {
namespace {

const char* word(MediaKind kind) { return kind == MediaKind::image ? "image" : "video"; }

size_t count_kind(std::span<const PreparedMedia> media, MediaKind kind) {
  return static_cast<size_t>(std::ranges::count(media, kind, &PreparedMedia::kind));
}

void append_u64(std::vector<std::byte>& out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
}

// Everything that decides features and positions: the pixels as decoded, and how they were cut up.
Digest hash_of(const MediaInput& input, const PreparedMedia& prepared) {
  std::vector<std::byte> block;
  append_u64(block, static_cast<uint64_t>(input.kind));
  append_u64(block, input.kind == MediaKind::video ? std::bit_cast<uint64_t>(input.fps) : 0);
  append_u64(block, prepared.single);
  for (int64_t extent : prepared.shape) append_u64(block, static_cast<uint64_t>(extent));
  for (const Image& frame : input.frames) {
    const Digest digest = content_hash(frame);
    const auto bytes = std::as_bytes(std::span(digest));
    block.insert(block.end(), bytes.begin(), bytes.end());
  }
  return sha256(block);
}

size_t occurrences(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

Error wrong_count(MediaKind kind, std::string_view placeholder, size_t found, size_t given) {
  return fail(Code::invalid_argument, "the prompt has ", found, " ", word(kind),
              found == 1 ? " placeholder (" : " placeholders (", placeholder, "), but ", given, " ", word(kind),
              given == 1 ? " was given" : "s were given");
}

}  // namespace

Status MediaProcessor::check_input(const MediaInput& input) const {
  constexpr int kMaxFrames = 768;  // the reference's own limit for sampled videos
  if (input.kind == MediaKind::video && form_.video.empty())
    return fail(Code::invalid_argument, "this model takes no videos");
  if (input.frames.empty()) return fail(Code::invalid_argument, "it has no frames");
  if (input.kind == MediaKind::image && input.frames.size() != 1)
    return fail(Code::invalid_argument, "it has more than one frame");
  if (input.frames.size() > kMaxFrames) {
    return fail(Code::invalid_argument, "it has ", input.frames.size(), " frames; at most ", kMaxFrames,
                " are accepted");
  }
  const Image& first = input.frames.front();
  for (size_t i = 0; i < input.frames.size(); ++i) {
    const Image& frame = input.frames[i];
    if (frame.height < 1 || frame.width < 1) return fail(Code::invalid_argument, "frame ", i + 1, " has no pixels");
    if (frame.height != first.height || frame.width != first.width) {
      return fail(Code::invalid_argument, "frame ", i + 1, " is ", frame.width, " x ", frame.height,
                  " pixels, the first is ", first.width, " x ", first.height);
    }
  }
  if (input.kind == MediaKind::video && !(input.fps >= 0.001 && input.fps <= 1000)) {
    return fail(Code::invalid_argument, "its frame rate (fps) is not from 0.001 to 1000");
  }
  return {};
}

Result<PreparedMedia> MediaProcessor::prepare(const MediaInput& input, bool alone) const {
  WEFT_RETURN_IF_ERROR(check_input(input));
  WEFT_RETURN_IF_ERROR(check_stop(input.stop));
  WEFT_TRY(PreparedMedia one, prepare_one(input, alone));
  WEFT_RETURN_IF_ERROR(check_stop(input.stop));  // resizing that was stopped leaves half an image
  one.kind = input.kind;
  one.height = input.frames.front().height;
  one.width = input.frames.front().width;
  one.hash = hash_of(input, one);
  return one;
}

Result<std::vector<PreparedMedia>> MediaProcessor::prepare(std::span<const MediaInput> media) const {
  std::vector<PreparedMedia> prepared;
  size_t numbers[kMediaKinds] = {};
  for (const MediaInput& input : media) {
    const std::string where =
        std::string(word(input.kind)) + " " + std::to_string(++numbers[static_cast<int>(input.kind)]);
    Result<PreparedMedia> one = prepare(input, media.size() == 1);
    if (!one.ok()) return fail(one.error().code(), where, ": ", one.error().message());
    prepared.push_back(std::move(*one));
  }
  return prepared;
}

Result<MediaCost> MediaProcessor::cost(const MediaInput& input, bool alone) const {
  WEFT_RETURN_IF_ERROR(check_input(input));
  WEFT_TRY(const Sizes sizes, this->sizes(input, alone));
  MediaCost cost{.values = sizes.values};
  // A frame is resized along its rows, then along its columns; a canvas holds the result once more.
  const int64_t frame = 3 * (sizes.width * input.frames.front().height + 2 * sizes.height * sizes.width);
  const auto frames = static_cast<int64_t>(input.frames.size());
  cost.scratch_bytes = frame + (frames - 1) * 3 * sizes.height * sizes.width;
  return cost;
}

Json MediaProcessor::template_messages(Json messages, std::span<const PreparedMedia> media) const {
  if (!form_.rewrites_messages) return messages;
  for (Json& message : messages.items()) {
    const Json* content = message.find("content");
    if (!content || content->is_null()) continue;
    std::string text = content->is_string() ? content->as_string() : "";
    if (content->is_array()) {
      for (const Json& part : content->items()) {
        const Json *type = part.find("type"), *value = part.find("text");
        if (value && value->is_string()) text += value->as_string();
        else if (type && type->is_string()) text += type->as_string() == "video" ? form_.video : form_.image;
      }
    }
    message.set("content", message_text(text, media));
  }
  return messages;
}

std::string MediaProcessor::message_text(std::string_view content, std::span<const PreparedMedia>) const {
  return std::string(content);
}

Result<std::string> MediaProcessor::expand_text(std::string_view text, std::span<const PreparedMedia> media) const {
  for (const MediaKind kind : {MediaKind::image, MediaKind::video}) {
    const std::string& placeholder = kind == MediaKind::image ? form_.image : form_.video;
    if (placeholder.empty()) continue;
    const size_t found = occurrences(text, placeholder), given = count_kind(media, kind);
    if (found != given) return wrong_count(kind, placeholder, found, given);
  }
  if (!form_.feature.empty() && text.find(form_.feature) != text.npos) {
    return fail(Code::invalid_argument, "the prompt holds ", form_.feature, ", which stands for an image's features; ",
                form_.image, " is the placeholder");
  }
  std::string out;
  size_t next[kMediaKinds] = {};  // into `media`, per kind
  const auto find_video = [&](size_t from) { return form_.video.empty() ? text.npos : text.find(form_.video, from); };
  // A place is looked for again only once the text is past it.
  size_t here = 0, image_at = text.find(form_.image), video_at = find_video(0);
  while (here < text.size()) {
    const size_t at = std::min(image_at, video_at);
    out += text.substr(here, std::min(at, text.size()) - here);
    if (at == text.npos) break;
    const MediaKind kind = image_at < video_at ? MediaKind::image : MediaKind::video;
    size_t& index = next[static_cast<int>(kind)];
    while (media[index].kind != kind) ++index;
    out += expansion(media[index++]);
    here = at + (kind == MediaKind::image ? form_.image : form_.video).size();
    if (image_at < here) image_at = text.find(form_.image, here);
    if (video_at < here) video_at = find_video(here);
  }
  return out;
}

Result<std::vector<int32_t>> MediaProcessor::finish_ids(std::vector<int32_t> ids, std::span<const PreparedMedia>,
                                                        const Encode&) const {
  return ids;
}

Result<ExpandedPrompt> MediaProcessor::expand(std::string_view text, bool add_special_tokens,
                                              std::span<const PreparedMedia> media, const Encode& encode) const {
  WEFT_TRY(const std::string expanded, expand_text(text, media));
  WEFT_TRY(std::vector<int32_t> encoded, encode(expanded, add_special_tokens));
  ExpandedPrompt prompt;
  WEFT_TRY(prompt.ids, finish_ids(std::move(encoded), media, encode));
  WEFT_TRY(prompt.spans, locate(prompt.ids, media));
  return prompt;
}

Result<std::vector<FeatureSpan>> MediaProcessor::locate(std::span<const int32_t> ids,
                                                        std::span<const PreparedMedia> media) const {
  std::vector<FeatureSpan> spans;
  // Per kind: the medium whose features come next, and how many it has left.
  int next[kMediaKinds], left[kMediaKinds] = {};
  std::fill(std::begin(next), std::end(next), -1);
  int64_t found[kMediaKinds] = {}, wanted[kMediaKinds] = {};
  for (const PreparedMedia& m : media) wanted[static_cast<int>(m.kind)] += m.feature_positions();
  for (size_t position = 0; position < ids.size(); ++position) {
    const bool video = form_.video_id >= 0 && ids[position] == form_.video_id;
    if (!video && ids[position] != form_.image_id) continue;
    const MediaKind kind = video ? MediaKind::video : MediaKind::image;
    const int k = static_cast<int>(kind);
    if (++found[k] > wanted[k]) continue;
    while (left[k] == 0) {
      do ++next[k];
      while (media[next[k]].kind != kind);
      left[k] = media[next[k]].feature_positions();
    }
    const int first = media[next[k]].feature_positions() - left[k]--;
    const bool goes_on = !spans.empty() && spans.back().media == next[k] &&
                         spans.back().position + spans.back().count == static_cast<int64_t>(position);
    if (goes_on) ++spans.back().count;
    else spans.push_back({next[k], first, static_cast<int64_t>(position), 1});
  }
  for (const MediaKind kind : {MediaKind::image, MediaKind::video}) {
    const int k = static_cast<int>(kind);
    if (found[k] == wanted[k]) continue;
    return fail(Code::invalid_argument, "the prompt has ", found[k], " tokens for ", word(kind), " features (id ",
                kind == MediaKind::image ? form_.image_id : form_.video_id, "), but the ", count_kind(media, kind), " ",
                word(kind), "s given have ", wanted[k]);
  }
  return spans;
}

MediaProcessor::Tensor MediaProcessor::reference_layout(std::span<const PreparedMedia> media, MediaKind kind) const {
  Tensor all;  // concatenated along the first extent
  for (const PreparedMedia& m : media) {
    if (m.kind != kind) continue;
    if (all.shape.empty()) all.shape = m.shape;
    else all.shape[0] += m.shape[0];
    all.values.insert(all.values.end(), m.pixel_values.begin(), m.pixel_values.end());
  }
  return all;
}

Result<std::unique_ptr<const MediaProcessor>> MediaProcessor::from_folder(const std::string& folder) {
  return from(SettingsSource(folder));
}

Result<std::unique_ptr<const MediaProcessor>> MediaProcessor::from(const SettingsSource& source) {
  WEFT_TRY(Settings config, Settings::read(source, "config.json"));
  const Json* architectures = config.find("architectures");
  if (!architectures || !architectures->is_array()) return std::unique_ptr<const MediaProcessor>();
  const bool vision = config.has("vision_config");
  for (const Json& item : architectures->items()) {
    if (!item.is_string()) continue;
    const std::string& name = item.as_string();
    if (name == "LlavaNextForConditionalGeneration") return make_llava_next(source, std::move(config));
    if (name == "Qwen2VLForConditionalGeneration" || name == "Qwen2_5_VLForConditionalGeneration")
      return make_qwen_vl(source, std::move(config));
    if (name == "LlavaLlamaModel") return make_vila(source.folder(), std::move(config));
    // These exist without their vision part as well.
    if (name == "Llama4ForConditionalGeneration" && vision) return make_llama4(source, std::move(config));
    if (name == "MllamaForConditionalGeneration" && vision) return make_mllama(source, std::move(config));
    if (name == "Gemma3ForConditionalGeneration" && vision) return make_gemma3(source, std::move(config));
  }
  return std::unique_ptr<const MediaProcessor>();
}

}  // namespace weft
