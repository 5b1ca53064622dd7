// The limits of a request: an option for each row of api/limits.h. Options of other files that bound something are in
// the same group; `weft limits` lists them all, and docs/limits.md is made of that list.
#include "api/limits.h"

#include <cctype>
#include <charconv>
#include <iterator>

#include "arguments_parts.h"

namespace weft {

CLI::Option* add_limit(CLI::App* app, const std::string& name, int64_t& target, bool bytes, const std::string& help) {
  return app
      ->add_option_function<std::string>(
          name,
          [name, &target, bytes](const std::string& text) {
            const auto number = bytes ? parse_size(text) : parse_count(text);
            if (!number.ok()) throw CLI::ValidationError(name, number.error().message());
            target = *number;
          },
          help)
      ->type_name(bytes ? "SIZE" : "N")
      ->default_str(bytes ? size_text(target) : std::to_string(target))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(kLimitOptions);
}

std::string capitalised(std::string_view text) {
  std::string out(text);
  if (!out.empty()) out[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(out[0])));
  return out;
}

void add_request_limits(CLI::App* app, RequestLimits& limits) {
  for (const RequestLimit& limit : request_limits()) {
    const std::string help = capitalised(limit.what) + "; 0: no limit (" + std::to_string(limit.status) + ")";
    add_limit(app, limit.flag, limits.*limit.member, limit.bytes, help);
  }
}

void add_media_limits(CLI::App* app, MediaLimits& limits) {
  const auto add = [&](const char* flag, int64_t MediaLimits::*member, bool bytes, const char* help) {
    add_limit(app, flag, limits.*member, bytes, help);
  };
  add("--max-images", &MediaLimits::max_images, false, "Images of a request, and frames of its videos (413)");
  add("--max-image-bytes", &MediaLimits::max_file_bytes, true, "File of an image (400)");
  add("--max-images-bytes", &MediaLimits::max_total_file_bytes, true, "Files of all images of a request (413)");
  add("--max-image-pixels", &MediaLimits::max_pixels, false, "Pixels of an image (400)");
  add("--max-images-pixels", &MediaLimits::max_total_pixels, false, "Pixels of all images of a request (413)");
  add("--max-prepared-memory", &MediaLimits::max_prepared_bytes, true,
      "What a request's images are for the vision tower, in floats (413)");
  add("--max-media-memory", &MediaLimits::max_held_bytes, true,
      "Memory that images of all requests take: files, pixels, what waits for the vision tower (429, or 413)");
}

Result<int64_t> parse_count(const std::string& text) {
  int64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || number < 0)
    return fail(Code::invalid_argument, "must be a whole number that is not negative, got ", text);
  return number;
}

std::string size_text(int64_t bytes) {
  static constexpr const char* kUnits[] = {"", "K", "M", "G", "T"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) bytes /= 1024, ++unit;
  return std::to_string(bytes) + kUnits[unit];
}

std::string limits_table(const CLI::App& app) {
  std::string table = "| option | default | what it bounds |\n|---|---|---|\n";
  for (const CLI::Option* option : app.get_options())
    if (option->get_group() == kLimitOptions)
      table += "| `" + option->get_name() + " " + option->get_type_name().substr(0, option->get_type_name().find(':')) +
               "` | " + option->get_default_str() + " | " + option->get_description() + " |\n";
  return table;
}

}  // namespace weft
