// Settings files: see settings.h.
#include "media/settings.h"

#include <cmath>
#include <utility>

#include "base/files.h"

namespace weft {

bool SettingsSource::has(const std::string& name) const {
  return documents_.is_object() ? documents_.find(name) != nullptr : is_file(folder_ + "/" + name);
}

Result<Json> SettingsSource::read(const std::string& name) const {
  if (!has(name)) return Json::object();
  if (documents_.is_object()) return *documents_.find(name);
  const std::string path = folder_ + "/" + name;
  WEFT_TRY(Json document, read_json_file(path));
  if (!document.is_object()) return fail(Code::data_corrupt, path, " holds ", document.type_name(), ", not an object");
  return document;
}

Result<Settings> Settings::read(const SettingsSource& source, const std::string& name) {
  Settings settings;
  settings.name_ = name;
  WEFT_TRY(settings.document_, source.read(name));
  return settings;
}

Result<Settings> Settings::read(const SettingsSource& source, const std::string& name, const Settings& whole,
                                std::string_view key) {
  const Json* part = whole.find(key);
  if (source.has(name) || !part) return read(source, name);
  Settings settings;
  settings.name_ = whole.name_ + ": " + std::string(key);
  settings.document_ = *part;
  if (!part->is_object()) return fail(Code::data_corrupt, settings.name_, " is ", part->type_name(), ", not an object");
  return settings;
}

const Json* Settings::find(std::string_view path) const {
  const Json* at = &document_;
  while (at) {
    const size_t dot = path.find('.');
    at = at->find(path.substr(0, dot));
    if (dot == path.npos) break;
    path.remove_prefix(dot + 1);
  }
  return at && !at->is_null() ? at : nullptr;
}

void Settings::fault(Code code, std::string_view path, std::string_view what) {
  if (!error_) error_ = fail(code, name_, ": ", path, " ", what);
}

Status Settings::status() const {
  if (error_) return *error_;
  return {};
}

int Settings::index(std::string_view path, int absent) {
  const Json* value = find(path);
  if (!value) return absent;
  if (!value->is_integer() || value->as_integer() < 0 || value->as_integer() > (1 << 24)) {
    fault(Code::data_corrupt, path, "is not a whole number from 0 to 2^24");
    return absent;
  }
  return static_cast<int>(value->as_integer());
}

int Settings::count(std::string_view path, int absent) {
  const int value = index(path, absent);
  if (value >= 1) return value;
  fault(Code::data_corrupt, path, "is not at least 1");
  return absent;
}

double Settings::number(std::string_view path, double absent) {
  const Json* value = find(path);
  if (!value) return absent;
  if (value->is_number() && std::isfinite(value->as_number())) return value->as_number();
  fault(Code::data_corrupt, path, "is not a finite number");
  return absent;
}

bool Settings::flag(std::string_view path, bool absent) {
  const Json* value = find(path);
  if (!value) return absent;
  if (value->is_bool()) return value->as_bool();
  if (value->is_integer()) return value->as_integer() != 0;
  fault(Code::data_corrupt, path, "is neither true nor false");
  return absent;
}

std::string Settings::text(std::string_view path, std::string_view absent) {
  const Json* value = find(path);
  if (!value) return std::string(absent);
  if (value->is_string()) return value->as_string();
  fault(Code::data_corrupt, path, "is not a string");
  return std::string(absent);
}

std::vector<double> Settings::numbers(std::string_view path, std::vector<double> absent) {
  const Json* value = find(path);
  if (!value) return absent;
  std::vector<double> list;
  if (value->is_array()) {
    for (const Json& item : value->items()) {
      if (item.is_number() && std::isfinite(item.as_number())) list.push_back(item.as_number());
    }
  }
  if (!value->is_array() || list.size() != value->items().size()) {
    fault(Code::data_corrupt, path, "is not a list of finite numbers");
    return absent;
  }
  return list;
}

}  // namespace weft
