#include "checkpoint/safetensors_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "base/files.h"
#include "base/json.h"

namespace weft {
namespace {

constexpr size_t kBytesPerTensor = 192;

Error write_error(const std::string& path) {
  return fail(Code::internal, "cannot write ", path, ": ", std::string(std::strerror(errno)));
}

}  // namespace

struct SafetensorsWriter::State {
  struct Entry {
    std::string name;
    StorageType type;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;
  };
  std::string path, temporary;
  Options options;
  std::FILE* file = nullptr;
  size_t header_room = 0;
  std::vector<Entry> entries;
  std::set<std::string, std::less<>> names;
  uint64_t written = 0;

  ~State() {
    if (!file) return;
    std::fclose(file);
    std::remove(temporary.c_str());
  }
  std::string header() const;
  Status check_complete() const;
  Status move_data(size_t room);
};

std::string SafetensorsWriter::State::header() const {
  Json json = Json::object();
  if (!options.metadata.empty()) {
    Json metadata = Json::object();
    for (const auto& [key, value] : options.metadata) metadata.set(key, value);
    json.set("__metadata__", std::move(metadata));
  }
  for (const Entry& entry : entries) {
    Json shape = Json::array();
    for (int64_t extent : entry.shape) shape.push_back(static_cast<long long>(extent));
    json.members().emplace_back(
        entry.name,
        Json::object(
            {{"dtype", safetensors_name(entry.type)},
             {"shape", std::move(shape)},
             {"data_offsets", Json::array({static_cast<long long>(entry.begin), static_cast<long long>(entry.end)})}}));
  }
  return json.dump();
}

Status SafetensorsWriter::State::check_complete() const {
  if (entries.empty() || written == entries.back().end) return {};
  return fail(Code::invalid_argument, path, ": tensor ", entries.back().name, " has ", written - entries.back().begin,
              " bytes instead of ", entries.back().end - entries.back().begin);
}

// More tensors than expected: the data moves up, from its end on.
Status SafetensorsWriter::State::move_data(size_t room) {
  std::vector<char> buffer(1 << 20);
  for (uint64_t left = written; left > 0;) {
    const size_t step = std::min<uint64_t>(left, buffer.size());
    left -= step;
    std::fseek(file, static_cast<long>(8 + header_room + left), SEEK_SET);
    if (std::fread(buffer.data(), 1, step, file) != step) return write_error(path);
    std::fseek(file, static_cast<long>(8 + room + left), SEEK_SET);
    if (std::fwrite(buffer.data(), 1, step, file) != step) return write_error(path);
  }
  header_room = room;
  return {};
}

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, Options options) {
  auto state = std::make_unique<State>();
  const OutputPlace place = output_place(path);
  if (place.in_place()) return fail(Code::invalid_argument, path, " is no file; tensors are written to files only");
  state->path = place.target, state->temporary = place.temporary;
  state->header_room = (256 + options.expected_tensors * kBytesPerTensor + 7) / 8 * 8;
  state->options = std::move(options);
  state->file = std::fopen(state->temporary.c_str(), "w+b");
  if (!state->file) return write_error(path);
  if (std::fseek(state->file, static_cast<long>(8 + state->header_room), SEEK_SET) != 0) return write_error(path);
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::begin(std::string_view name, StorageType type, const std::vector<int64_t>& shape) {
  State& s = *state_;
  WEFT_RETURN_IF_ERROR(s.check_complete());
  if (safetensors_name(type).empty())
    return fail(Code::invalid_argument, s.path, ": ", name, " cannot be stored as ", weft::name(type));
  int64_t bytes = layout(type).block_bytes;
  for (const int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes))
      return fail(Code::invalid_argument, s.path, ": ", name, " has an extent of ", extent);
  if (name.empty() || name == "__metadata__" || !s.names.emplace(name).second)
    return fail(Code::invalid_argument, s.path, ": tensor name ", json_quote(name),
                " is empty, reserved or used twice");
  s.entries.push_back({std::string(name), type, shape, s.written, s.written + static_cast<uint64_t>(bytes)});
  return {};
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  State& s = *state_;
  if (s.entries.empty() || bytes.size() > s.entries.back().end - s.written)
    return fail(Code::invalid_argument, s.path, ": more data than the tensor's shape says");
  if (!bytes.empty() && std::fwrite(bytes.data(), 1, bytes.size(), s.file) != bytes.size()) return write_error(s.path);
  s.written += bytes.size();
  return {};
}

Status SafetensorsWriter::add(std::string_view name, StorageType type, const std::vector<int64_t>& shape,
                              std::span<const std::byte> bytes) {
  WEFT_RETURN_IF_ERROR(begin(name, type, shape));
  return append(bytes);
}
Status SafetensorsWriter::add(std::string_view name, const std::vector<int64_t>& shape, std::span<const float> values) {
  return add(name, StorageType::f32, shape, std::as_bytes(values));
}
Status SafetensorsWriter::add(std::string_view name, const std::vector<int64_t>& shape,
                              std::span<const int64_t> values) {
  return add(name, StorageType::i64, shape, std::as_bytes(values));
}

Status SafetensorsWriter::finish() {
  State& s = *state_;
  WEFT_RETURN_IF_ERROR(s.check_complete());
  std::string header = s.header();
  if (header.size() > s.header_room) WEFT_RETURN_IF_ERROR(s.move_data((header.size() + 7) / 8 * 8));
  header.resize(s.header_room, ' ');
  const uint64_t length = header.size();
  std::rewind(s.file);
  bool ok = std::fwrite(&length, 1, sizeof length, s.file) == sizeof length;
  ok = std::fwrite(header.data(), 1, header.size(), s.file) == header.size() && ok;
  ok = std::fclose(s.file) == 0 && ok;
  s.file = nullptr;
  if (!ok || std::rename(s.temporary.c_str(), s.path.c_str()) != 0) {
    const Error error = write_error(s.path);
    std::remove(s.temporary.c_str());
    return error;
  }
  return {};
}

}  // namespace weft
