#include "api/image_prompt.h"

#include "base/files.h"
#include "media/positions.h"
#include "runtime/worker.h"
#include "text/tokenizer.h"

namespace weft {

namespace {

Result<Image> read_image(const std::string& address, bool files_allowed, const UrlOptions& urls) {
  const bool is_url = address.starts_with("data:") || address.find("://") != std::string::npos;
  if (is_url) {
    WEFT_TRY(const std::string bytes, read_image_url(address, urls));
    return decode_image(std::as_bytes(std::span(bytes)), {.max_file_bytes = urls.max_bytes});
  }
  if (!files_allowed) return fail(Code::invalid_argument, "it must be a data: URL");
  WEFT_TRY(const std::string bytes, read_file(address, urls.max_bytes));
  return decode_image(std::as_bytes(std::span(bytes)), {.max_file_bytes = urls.max_bytes});
}

Result<std::vector<MediaInput>> read_inputs(const Request& request, const UrlOptions& urls) {
  std::vector<MediaInput> inputs;
  for (size_t i = 0; i < request.images.size(); ++i) {
    auto image = read_image(request.images[i], request.local_files, urls);
    if (!image.ok())
      return fail(Code::invalid_argument, "image ", i + 1, ": ", image.error().message()).about("images");
    inputs.push_back({MediaKind::image, {}});
    inputs.back().frames.push_back(std::move(image).value());
  }
  for (size_t i = 0; i < request.videos.size(); ++i) {
    MediaInput video{MediaKind::video, {}};
    for (size_t f = 0; f < request.videos[i].size(); ++f) {
      auto frame = read_image(request.videos[i][f], request.local_files, urls);
      if (!frame.ok())
        return fail(Code::invalid_argument, "video ", i + 1, ", frame ", f + 1, ": ", frame.error().message())
            .about("videos");
      video.frames.push_back(std::move(frame).value());
    }
    inputs.push_back(std::move(video));
  }
  return inputs;
}

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
                                 const MediaProcessor& processor, const Tokenizer& tokenizer, const UrlOptions& urls,
                                 const Model& model) {
  const char* field = request.images.empty() ? "videos" : "images";
  WEFT_TRY(const std::vector<MediaInput> inputs, read_inputs(request, urls));
  auto prepared = processor.prepare(inputs);
  if (!prepared.ok()) return std::move(prepared).error().about(field);
  ExpandedPrompt expanded;
  if (request.prompt_token_ids) {
    expanded.ids = *request.prompt_token_ids;
    auto spans = processor.locate(expanded.ids, *prepared);
    if (!spans.ok()) return std::move(spans).error().about("prompt_token_ids");
    expanded.spans = std::move(spans).value();
  } else {
    const Encode encode = [&](std::string_view piece, bool add) {
      return tokenizer.encode(piece, {.add_special_tokens = add});
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
