#include "api/image_prompt.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/files.h"
#include "base/stop_flag.h"
#include "media/positions.h"
#include "runtime/worker.h"
#include "text/tokenizer.h"

namespace weft {

namespace {

// A request's image or frame: its file, and what that says of itself.
struct Picture {
  std::string bytes;
  bool local = false;  // a file of the command line's, which counts for no limit of its own
  ImageSize size;

  std::span<const std::byte> file() const { return std::as_bytes(std::span(bytes.data(), bytes.size())); }
};

// An image, or a video with its frames.
struct Medium {
  MediaKind kind;
  size_t number;  // counted from 1, images and videos apart
  std::vector<Picture> frames;

  std::string name() const { return (kind == MediaKind::image ? "image " : "video ") + std::to_string(number); }
  const char* field() const { return kind == MediaKind::image ? "images" : "videos"; }
};

// Reads and prepares a request's images one after the other: first all files and what their headers tell, which is
// charged before anything is decoded.
class Reader {
 public:
  Reader(const Request& request, const MediaSource& source) : request_(request), source_(source) {}

  Result<std::vector<PreparedMedia>> read(const MediaProcessor& processor) {
    WEFT_RETURN_IF_ERROR(check_count());
    for (size_t i = 0; i < request_.images.size(); ++i)
      WEFT_RETURN_IF_ERROR(add({MediaKind::image, i + 1, {}}, {&request_.images[i], 1}));
    for (size_t i = 0; i < request_.videos.size(); ++i)
      WEFT_RETURN_IF_ERROR(add({MediaKind::video, i + 1, {}}, request_.videos[i]));
    WEFT_RETURN_IF_ERROR(charge(processor));
    std::vector<PreparedMedia> prepared;
    for (Medium& medium : media_) {
      auto one = prepare(std::exchange(medium.frames, {}), medium, processor);
      if (!one.ok()) return about(std::move(one).error(), medium);
      one->share = shares_.kept;
      prepared.push_back(std::move(one).value());
    }
    return prepared;
  }

 private:
  const MediaLimits& limits() const { return source_.limits; }
  ImageLimits image_limits() const {
    return {.max_file_bytes = static_cast<size_t>(limits().max_file_bytes), .max_pixels = limits().max_pixels};
  }

  // With the image's name; what stopped or overfilled the server stays what it is.
  static Error about(Error error, const Medium& medium) {
    const Code code = error.code();
    const bool of_server = code == Code::cancelled || code == Code::deadline_exceeded || code == Code::internal;
    if (of_server) return error;
    const bool kept = code == Code::too_large || code == Code::resource_exhausted || code == Code::unsupported;
    return fail(kept ? code : Code::invalid_argument, medium.name(), ": ", error.message()).about(medium.field());
  }

  Status check_count() const {
    size_t count = request_.images.size();
    for (const auto& video : request_.videos) count += video.size();
    if (count <= static_cast<size_t>(limits().max_images)) return {};
    return fail(Code::too_large, "the request has ", count, " images and frames of videos; at most ",
                limits().max_images, " are accepted (--max-images)")
        .about(request_.images.empty() ? "videos" : "images");
  }

  Result<Picture> open(const std::string& address) const {
    Picture picture;
    const bool is_url = address.starts_with("data:") || address.find("://") != std::string::npos;
    if (is_url) {
      WEFT_TRY(picture.bytes, read_image_url(address, source_.urls));
    } else {
      if (!request_.local_files) return fail(Code::invalid_argument, "it must be a data: URL");
      WEFT_TRY(picture.bytes, read_file(address, FileLimit::image));
      picture.local = true;
    }
    WEFT_TRY(picture.size, read_image_size(picture.file(), image_limits()));
    return picture;
  }

  // Opens the files of a medium and counts what they hold.
  Status add(Medium medium, std::span<const std::string> addresses) {
    for (size_t i = 0; i < addresses.size(); ++i) {
      WEFT_RETURN_IF_ERROR(check_stop(request_.stop_flag.get()));
      auto picture = open(addresses[i]);
      if (!picture.ok()) {
        const std::string frame = medium.kind == MediaKind::video ? "frame " + std::to_string(i + 1) + ": " : "";
        const Error& error = picture.error();
        return about(frame.empty() ? error : fail(error.code(), frame, error.message()), medium);
      }
      if (!picture->local) file_bytes_ += static_cast<int64_t>(picture->bytes.size());
      pixels_ += int64_t{picture->size.height} * picture->size.width;
      if (file_bytes_ > limits().max_total_file_bytes)
        return fail(Code::too_large, "the files up to ", medium.name(), " have ", file_bytes_, " bytes; at most ",
                    limits().max_total_file_bytes, " are accepted in a request (--max-images-bytes)")
            .about(medium.field());
      if (pixels_ > limits().max_total_pixels)
        return fail(Code::too_large, "the images up to ", medium.name(), " have ", pixels_, " pixels; at most ",
                    limits().max_total_pixels, " are accepted in a request (--max-images-pixels)")
            .about(medium.field());
      medium.frames.push_back(std::move(picture).value());
    }
    media_.push_back(std::move(medium));
    return {};
  }

  // What decoding and preparing a medium holds at once, and what is left of it. EXIF may turn an image by 90 degrees,
  // so the costlier way counts.
  Result<MediaCost> cost_of(const Medium& medium, const MediaProcessor& processor) const {
    MediaCost most;
    for (const bool turned : {false, true}) {
      MediaInput shape{.kind = medium.kind};
      for (const Picture& frame : medium.frames) {
        Image& image = shape.frames.emplace_back();
        image.height = turned ? frame.size.width : frame.size.height;
        image.width = turned ? frame.size.height : frame.size.width;
      }
      const auto cost = processor.cost(shape, media_.size() == 1);
      if (!cost.ok()) {
        if (turned) break;
        return cost.error();
      }
      most.values = std::max(most.values, cost->values);
      most.scratch_bytes = std::max(most.scratch_bytes, cost->scratch_bytes);
    }
    int64_t pixels = 0, decoding = 0;
    for (const Picture& frame : medium.frames) {
      pixels += int64_t{3} * frame.size.height * frame.size.width;
      decoding = std::max(decoding, frame.size.decode_bytes);
    }
    most.scratch_bytes = std::max(most.scratch_bytes + pixels, decoding + pixels);
    return most;
  }

  Status charge(const MediaProcessor& processor) {
    int64_t values = 0, scratch = 0;
    for (const Medium& medium : media_) {
      auto cost = cost_of(medium, processor);
      if (!cost.ok()) return about(std::move(cost).error(), medium);
      values += cost->values * static_cast<int64_t>(sizeof(float));
      scratch = std::max(scratch, cost->scratch_bytes);
      if (values > limits().max_prepared_bytes)
        return fail(Code::too_large, "the images up to ", medium.name(), " take ", values,
                    " bytes for the vision tower; at most ", limits().max_prepared_bytes,
                    " are accepted in a request (--max-prepared-memory)")
            .about(medium.field());
    }
    if (!source_.account || media_.empty()) return {};
    const StopFlag* stop = request_.stop_flag.get();
    const char* field = media_.front().field();
    auto shares = source_.account->take(values, scratch + file_bytes_, limits().wait_ms, stop);
    if (!shares.ok()) return std::move(shares).error().about(field);
    shares_ = std::move(shares).value();
    return {};
  }

  Result<PreparedMedia> prepare(std::vector<Picture> frames, const Medium& medium, const MediaProcessor& processor) {
    MediaInput input{.kind = medium.kind, .stop = request_.stop_flag.get()};
    for (Picture& frame : frames) {
      WEFT_RETURN_IF_ERROR(check_stop(input.stop));
      auto image = decode_image(frame.file(), image_limits(), input.stop);
      if (!image.ok()) {
        if (medium.kind == MediaKind::image) return std::move(image).error();
        return fail(image.error().code(), "frame ", input.frames.size() + 1, ": ", image.error().message());
      }
      input.frames.push_back(std::move(image).value());
      frame = {};
    }
    return processor.prepare(input, media_.size() == 1);
  }

  const Request& request_;
  const MediaSource& source_;
  std::vector<Medium> media_;
  int64_t file_bytes_ = 0, pixels_ = 0;
  MediaAccount::Shares shares_;  // what all of them take
};

// Sets which keys each row attends to; the keys are those of the images' real tiles, image after image. Rows before the
// first image attend to all images, so the cache key of every block depends on all images.
void add_cross(ImagePrompt& prompt, const std::vector<FeatureSpan>& spans, const models::VisionTower& tower) {
  const auto tokens = static_cast<int>(prompt.tokens.size());
  prompt.places->cross.resize(tokens);
  const std::vector<RowRange> rows = cross_attention_rows(tokens, spans);
  std::string identity;
  int key = 0;
  for (size_t i = 0; i < prompt.media.size(); ++i) {
    const PreparedMedia& media = *prompt.media[i];
    const int keys = tower.most_keys / static_cast<int>(media.shape[0]) * media.tile_rows * media.tile_columns;
    for (int64_t r = rows[i].first; r < rows[i].end; ++r) {
      MediaPrompt::Keys& seen = prompt.places->cross[r];
      if (seen.first == seen.end) seen.first = key;
      seen.end = key + keys;
    }
    key += keys;
    prompt.places->real_rows.push_back(keys);
    identity.append(media.hash.begin(), media.hash.end());
  }
  prompt.content.push_back({0, tokens, identity});
}

}  // namespace

Result<ImagePrompt> image_prompt(const Request& request, const PromptText& text, bool add_special_tokens,
                                 const MediaProcessor& processor, const Tokenizer& tokenizer, const MediaSource& source,
                                 const Model& model) {
  const char* field = request.images.empty() ? "videos" : "images";
  auto prepared = Reader(request, source).read(processor);
  if (!prepared.ok()) return std::move(prepared).error();
  ExpandedPrompt expanded;
  if (request.prompt_token_ids) {
    expanded.ids = *request.prompt_token_ids;
    auto spans = processor.locate(expanded.ids, *prepared);
    if (!spans.ok()) return std::move(spans).error().about("prompt_token_ids");
    expanded.spans = std::move(spans).value();
  } else {
    const Encode encode = [&](std::string_view piece, bool add) {
      return tokenizer.encode(piece, {.add_special_tokens = add, .stop = request.stop_flag.get()});
    };
    WEFT_TRY(const std::string written, text(*prepared));
    auto whole = processor.expand(written, add_special_tokens, *prepared, encode);
    if (!whole.ok()) return std::move(whole).error().about(request.messages ? "messages" : "prompt");
    expanded = std::move(whole).value();
  }
  if (prepared->empty()) return ImagePrompt{std::move(expanded.ids), {}, nullptr, {}};
  ImagePrompt prompt{std::move(expanded.ids), {}, std::make_shared<MediaPrompt>(), {}};
  if (model.plan().position_axes > 1) {
    MropePositions positions = mrope_positions(static_cast<int64_t>(prompt.tokens.size()), expanded.spans, *prepared);
    prompt.places->positions = std::move(positions.axes), prompt.places->delta = positions.delta;
  }
  for (PreparedMedia& media : *prepared)
    prompt.media.push_back(std::make_shared<const PreparedMedia>(std::move(media)));
  prompt.places->features.resize(prompt.media.size());
  if (model.vision->most_keys > 0) {
    if (prompt.media.size() > kMaxCrossImages)
      return fail(Code::invalid_argument, "the prompt has ", prompt.media.size(), " images, this model takes ",
                  kMaxCrossImages, " at most")
          .about(field);
    add_cross(prompt, expanded.spans, *model.vision);
    return prompt;
  }
  for (const FeatureSpan& span : expanded.spans) {
    const Digest& hash = prompt.media[span.media]->hash;
    prompt.places->spans.push_back({static_cast<int>(span.position), span.count, span.media, span.first});
    prompt.content.push_back({static_cast<int>(span.position), span.count,
                              std::string(hash.begin(), hash.end()) + std::to_string(span.first)});
  }
  return prompt;
}

}  // namespace weft
