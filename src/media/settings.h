// Reading of one JSON settings file of a processor: plain expressions, the first fault remembered until status() is
// asked. A null value counts as absent: saved processors write every key they know.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace weft {

// Where settings files are: in a folder, or (GGUF) in memory, made from metadata.
class SettingsSource {
 public:
  SettingsSource(std::string folder) : folder_(std::move(folder)) {}
  // An object with the documents by their names.
  explicit SettingsSource(Json documents) : documents_(std::move(documents)) {}

  const std::string& folder() const { return folder_; }
  bool has(const std::string& name) const;
  // The document; an empty object where there is none.
  Result<Json> read(const std::string& name) const;

 private:
  std::string folder_;
  Json documents_;
};

class Settings {
 public:
  // The document `name` of `source`; an empty object where it does not exist. Errors name the file.
  static Result<Settings> read(const SettingsSource& source, const std::string& name);
  // The same; where the file does not exist, the object `key` of `whole`: transformers 5 saves all parts in
  // processor_config.json.
  static Result<Settings> read(const SettingsSource& source, const std::string& name, const Settings& whole,
                               std::string_view key);

  // By dotted path ("size.height"); null if absent or null.
  const Json* find(std::string_view path) const;
  bool has(std::string_view path) const { return find(path) != nullptr; }
  // Whole numbers from 1 to 2^24, or from 0 for index(). On error, and where absent: `absent`.
  int count(std::string_view path, int absent);
  int index(std::string_view path, int absent);
  double number(std::string_view path, double absent);  // finite
  bool flag(std::string_view path, bool absent);        // whole numbers count as in Python
  std::string text(std::string_view path, std::string_view absent);
  std::vector<double> numbers(std::string_view path, std::vector<double> absent);

  // Remembers a fault about `path`, if it is the first.
  void fault(Code code, std::string_view path, std::string_view what);
  Status status() const;
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  Json document_;
  std::optional<Error> error_;
};

}  // namespace weft
