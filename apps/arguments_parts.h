// What the files of the command line's options share.
#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "arguments.h"

namespace weft {

using Words = std::vector<std::string>;

constexpr const char* kEngineOptions = "Engine options";  // their group
constexpr const char* kLimitOptions = "Limits (docs/limits.md)";

// An option whose values are the names of an enum.
template <class E>
CLI::Option* add_choice(CLI::App* app, const std::string& name, E& target, const std::string& help) {
  return app
      ->add_option_function<std::string>(
          name, [&target](const std::string& text) { target = *value_named<E>(text); }, help)
      ->check(CLI::IsMember(all_names<E>()))
      ->default_str(name_of(target))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

inline void add_switch(CLI::App* app, const std::string& name, bool& target, const std::string& help) {
  app->add_option(name, target, help)
      ->check(CLI::IsMember(Words{"on", "off", "true", "false"}).description(""))
      ->type_name("on|off")
      ->default_str(target ? "on" : "off")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

inline CLI::Option* add_number(CLI::App* app, const std::string& name, int& target, const std::string& help, int low,
                               int high = 1 << 30) {
  return app->add_option(name, target, help)
      ->check(CLI::Range(low, high))
      ->type_name("N")
      ->capture_default_str()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

inline CLI::Option* add_text(CLI::App* app, const std::string& name, std::string& target, const std::string& help,
                             const std::string& type) {
  return app->add_option(name, target, help)
      ->type_name(type)
      ->capture_default_str()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

// A number that is one: "nan" lies in every range.
inline const CLI::Validator kFinite(
    [](std::string& text) {
      return std::isfinite(std::strtod(text.c_str(), nullptr)) ? std::string() : "must be a finite number, got " + text;
    },
    "");

// arguments_limits.cc. A limit is a count, or a size like 16M.
CLI::Option* add_limit(CLI::App* app, const std::string& name, int64_t& target, bool bytes, const std::string& help);
void add_request_limits(CLI::App* app, RequestLimits& limits);
void add_media_limits(CLI::App* app, MediaLimits& limits);
std::string capitalised(std::string_view text);
Result<int64_t> parse_count(const std::string& text);
std::string size_text(int64_t bytes);           // "16M", as parse_size() reads it
std::string limits_table(const CLI::App& app);  // the options of the group above, in Markdown

void add_engine_options(CLI::App* app, EngineOptions& o);  // arguments_engine.cc
void add_serve(CLI::App* serve, Arguments& a);             // arguments_serving.cc, as what follows
void add_orchestrate(CLI::App* app, Arguments& a);
// What parsing cannot know of `weft serve`; empty: all is well.
std::string fault_of_serve(const Arguments& a);

}  // namespace weft
