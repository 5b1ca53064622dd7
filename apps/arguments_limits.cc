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

void add_request_limits(CLI::App* app, RequestLimits& limits) {
  for (const RequestLimit& limit : request_limits()) {
    std::string help = std::string(limit.what) + "; 0: no limit (" + std::to_string(limit.status) + ")";
    help[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(help[0])));
    add_limit(app, limit.flag, limits.*limit.member, limit.bytes, help);
  }
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
      table += "| `" + option->get_name() + " " + option->get_type_name() + "` | " + option->get_default_str() + " | " +
               option->get_description() + " |\n";
  return table;
}

}  // namespace weft
