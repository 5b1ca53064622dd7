#include "api/picture_prompt.h"

#include "base/files.h"
#include "media/positions.h"
#include "text/tokenizer.h"

namespace weft {

namespace {

Result<Image> read_picture(const std::string& address, bool files_allowed, const UrlOptions& urls) {
  const bool is_url = address.starts_with("data:") || address.find("://") != std::string::npos;
  if (is_url) {
    WEFT_TRY(const std::string bytes, read_picture_url(address, urls));
    return decode_image(std::as_bytes(std::span(bytes)), {.max_file_bytes = urls.max_bytes});
  }
  if (!files_allowed) return fail(Code::invalid_argument, "it must be a data: URL");
  WEFT_TRY(const MappedFile file, MappedFile::open(address));
  return decode_image(file.bytes(), {.max_file_bytes = urls.max_bytes});
}

Result<std::vector<MediaInput>> read_inputs(const Request& request, const UrlOptions& urls) {
  std::vector<MediaInput> inputs;
  for (size_t i = 0; i < request.images.size(); ++i) {
    auto image = read_picture(request.images[i], request.local_files, urls);
    if (!image.ok()) return fail(Code::invalid_argument, "image ", i + 1, ": ", image.error().message()).about("images");
    inputs.push_back({MediaKind::image, {}});
    inputs.back().frames.push_back(std::move(image).value());
  }
  for (size_t i = 0; i < request.videos.size(); ++i) {
    MediaInput video{MediaKind::video, {}};
    for (size_t f = 0; f < request.videos[i].size(); ++f) {
      auto frame = read_picture(request.videos[i][f], request.local_files, urls);
      if (!frame.ok()) return fail(Code::invalid_argument, "video ", i + 1, ", frame ", f + 1, ": ", frame.error().message()).about("videos");
      video.frames.push_back(std::move(frame).value());
    }
    inputs.push_back(std::move(video));
  }
  return inputs;
}

}  // namespace

Result<PicturePrompt> picture_prompt(const Request& request, const std::string& text, bool add_special_tokens, const MediaProcessor& processor,
                                     const Tokenizer& tokenizer, const UrlOptions& urls, int axes) {
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
    const Encode encode = [&](std::string_view piece, bool add) { return tokenizer.encode(piece, {.add_special_tokens = add}); };
    auto whole = processor.expand(text, add_special_tokens, *prepared, encode);
    if (!whole.ok()) return std::move(whole).error().about(request.messages ? "messages" : "prompt");
    expanded = std::move(whole).value();
  }
  if (prepared->empty()) return PicturePrompt{std::move(expanded.ids), {}, nullptr, {}};
  PicturePrompt prompt{std::move(expanded.ids), {}, std::make_shared<MediaPrompt>(), {}};
  if (axes > 1) {
    MropePositions positions = mrope_positions(static_cast<int64_t>(prompt.tokens.size()), expanded.spans, *prepared);
    prompt.places->positions = std::move(positions.axes), prompt.places->delta = positions.delta;
  }
  for (PreparedMedia& media : *prepared) prompt.media.push_back(std::make_shared<const PreparedMedia>(std::move(media)));
  prompt.places->features.resize(prompt.media.size());
  for (const FeatureSpan& span : expanded.spans) {
    const Digest& hash = prompt.media[span.media]->hash;
    prompt.places->spans.push_back({static_cast<int>(span.position), span.count, span.media, span.first});
    prompt.content.push_back({static_cast<int>(span.position), span.count, std::string(hash.begin(), hash.end())});
  }
  return prompt;
}

}  // namespace weft
