// Gemma 3: the image squeezed to a square, one tile. Pan and scan (more crops) is off in the published checkpoints, and
// refused here when it is on. The placeholder is the start token; the newlines around the block are part of the text
// and may merge with its neighbours.
#include <utility>

#include "media/pixels.h"

namespace weft {
namespace {

struct Rules {
  int side;
  int positions;  // soft tokens per image
  Filter filter;
  Levels levels;
  std::string block;  // what the placeholder becomes
};

class Gemma3 final : public MediaProcessor {
 public:
  Gemma3(PromptForm form, Rules rules) : MediaProcessor(std::move(form)), rules_(std::move(rules)) {}

 protected:
  Result<PreparedMedia> prepare_one(const MediaInput& media, bool) const override {
    PreparedMedia out;
    append_tiles(resize(media.frames[0], rules_.side, rules_.side, rules_.filter, media.stop), rules_.side,
                 rules_.levels, out.pixel_values);
    out.shape = {1, 3, rules_.side, rules_.side};
    out.positions = {rules_.positions};
    return out;
  }
  Result<Sizes> sizes(const MediaInput&, bool) const override {
    return Sizes{int64_t{3} * rules_.side * rules_.side, rules_.side, rules_.side};
  }
  std::string expansion(const PreparedMedia&) const override { return rules_.block; }

 private:
  Rules rules_;
};

}  // namespace

Result<std::unique_ptr<const MediaProcessor>> make_gemma3(const SettingsSource& source, Settings config) {
  WEFT_TRY(Settings processor, Settings::read(source, "processor_config.json"));
  WEFT_TRY(Settings pixels, Settings::read(source, "preprocessor_config.json", processor, "image_processor"));
  WEFT_TRY(Settings tokenizer, Settings::read(source, "tokenizer_config.json"));
  Rules rules;
  rules.side = read_side(pixels, "size", config.count("vision_config.image_size", 896));
  rules.filter = read_filter(pixels, Filter::bilinear);
  rules.levels = read_levels(pixels, Rounding::fused, kHalf, kHalf);
  refuse_no_resize(pixels);
  if (pixels.flag("do_pan_and_scan", false))
    pixels.fault(Code::unsupported, "do_pan_and_scan", "is true, which is not supported");
  rules.positions =
      processor.count("image_seq_length", pixels.count("image_seq_length", config.count("mm_tokens_per_image", 256)));
  PromptForm form;
  form.image_id = config.index("image_token_index", config.index("image_token_id", 262144));
  form.image = token_spelling(tokenizer, config.index("boi_token_index", 255999), "<start_of_image>");
  form.feature = token_spelling(tokenizer, form.image_id, "<image_soft_token>");
  const std::string end = token_spelling(tokenizer, config.index("eoi_token_index", 256000), "<end_of_image>");
  rules.block = "\n\n" + form.image;
  for (int i = 0; i < rules.positions; ++i) rules.block += form.feature;
  rules.block += end + "\n\n";
  for (const Settings* file : {&config, &pixels, &processor, &tokenizer}) WEFT_RETURN_IF_ERROR(file->status());
  return std::unique_ptr<const MediaProcessor>(std::make_unique<Gemma3>(std::move(form), std::move(rules)));
}

}  // namespace weft
