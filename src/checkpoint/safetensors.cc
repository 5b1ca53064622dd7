#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

namespace weft {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference reader
constexpr int kMaxDepth = 4;

struct Entry {
  TensorInfo tensor;
  int64_t begin = 0, end = 0;
};

// Finds the member and refuses a second one of that name: two readers might take different ones.
Result<const Json*> sole_member(const Json& object, std::string_view key) {
  const Json* found = nullptr;
  for (const Json::Member& member : object.members()) {
    if (member.first != key) continue;
    if (found) return fail(Code::data_corrupt, "has ", key, " twice");
    found = &member.second;
  }
  if (!found) return fail(Code::data_corrupt, "has no ", key);
  return found;
}

Result<std::vector<int64_t>> whole_numbers(const Json& list, const char* what) {
  if (!list.is_array()) return fail(Code::data_corrupt, what, " is ", list.type_name(), ", not an array");
  std::vector<int64_t> numbers;
  numbers.reserve(list.items().size());
  for (const Json& item : list.items()) {
    if (!item.is_integer() || item.as_integer() < 0)
      return fail(Code::data_corrupt, what, " holds ", item.is_number() ? item.dump() : item.type_name(),
                  ", not a whole number >= 0 in 64 bits");
    numbers.push_back(item.as_integer());
  }
  return numbers;
}

Result<Entry> parse_entry(const Json& json, int64_t data_bytes) {
  if (!json.is_object()) return fail(Code::data_corrupt, "is ", json.type_name(), ", not an object");
  WEFT_TRY(const Json* dtype, sole_member(json, "dtype"));
  WEFT_TRY(const Json* shape, sole_member(json, "shape"));
  WEFT_TRY(const Json* offsets, sole_member(json, "data_offsets"));
  if (!dtype->is_string()) return fail(Code::data_corrupt, "dtype is ", dtype->type_name(), ", not a string");
  const auto type = storage_from_safetensors(dtype->as_string());

  Entry entry;
  entry.tensor.type = type.value_or(StorageType::unknown);
  if (!type) entry.tensor.unknown_type = json_quote(dtype->as_string());
  WEFT_TRY(entry.tensor.shape, whole_numbers(*shape, "shape"));
  WEFT_TRY(const std::vector<int64_t> range, whole_numbers(*offsets, "data_offsets"));
  if (range.size() != 2) return fail(Code::data_corrupt, "data_offsets has ", range.size(), " numbers, not 2");
  entry.begin = range[0], entry.end = range[1];
  if (entry.begin > entry.end)
    return fail(Code::data_corrupt, "data_offsets [", entry.begin, ", ", entry.end, "] run backwards");
  if (entry.end > data_bytes)
    return fail(Code::data_corrupt, "data_offsets end at ", entry.end, ", but the file has ", data_bytes,
                " bytes of data");

  int64_t bytes = type ? layout(*type).block_bytes : 1;
  // also refuses [huge, huge, 0]: its partial products overflow elsewhere
  for (const int64_t extent : entry.tensor.shape)
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(extent, 1), &bytes))
      return fail(Code::data_corrupt, "shape ", shape->dump(), " overflows 64 bits");
  if (!type) return entry;  // how many bytes its values take is not known
  if (std::count(entry.tensor.shape.begin(), entry.tensor.shape.end(), 0) > 0) bytes = 0;
  if (bytes != entry.end - entry.begin)
    return fail(Code::data_corrupt, "shape ", shape->dump(), " of ", dtype->as_string(), " needs ", bytes,
                " bytes, data_offsets give ", entry.end - entry.begin);
  return entry;
}

Status check_metadata(const Json& metadata) {
  if (!metadata.is_object())
    return fail(Code::data_corrupt, "__metadata__ is ", metadata.type_name(), ", not an object");
  for (const Json::Member& member : metadata.members())
    if (!member.second.is_string())
      return fail(Code::data_corrupt, "__metadata__ entry ", json_quote(member.first), " is ",
                  member.second.type_name(), ", not a string");
  return {};
}

// The ranges must tile the data: a hole could hide bytes, an overlap lets one tensor change another.
Status check_tiling(std::vector<Entry>& entries, int64_t data_bytes) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  int64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered)
      return fail(Code::data_corrupt, "tensor ", json_quote(entry.tensor.name), ": data_offsets begin at ", entry.begin,
                  ", but ", entry.begin < covered ? "the range before ends at " : "nothing covers the bytes from ",
                  covered);
    covered = entry.end;
  }
  if (covered != data_bytes)
    return fail(Code::data_corrupt, "data_offsets cover ", covered, " bytes of data, but the file has ", data_bytes);
  return {};
}

// Of a file of at least 8 bytes.
uint64_t header_length(std::span<const std::byte> file) {
  uint64_t bytes = 0;
  for (size_t i = 8; i-- > 0;) bytes = bytes << 8 | static_cast<uint8_t>(file[i]);
  return bytes;
}

Result<std::vector<TensorInfo>> parse(std::span<const std::byte> file) {
  if (file.size() < 8) return fail(Code::data_corrupt, "header length: the file has only ", file.size(), " bytes");
  const uint64_t header_bytes = header_length(file);
  if (header_bytes > kMaxHeaderBytes)
    return fail(Code::data_corrupt, "header length is ", header_bytes, ", over the limit of ", kMaxHeaderBytes);
  if (header_bytes > file.size() - 8)
    return fail(Code::data_corrupt, "header length is ", header_bytes, ", but only ", file.size() - 8, " bytes follow");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  // The JSON reader takes a byte order mark and ends at a NUL; the format allows neither.
  if (!text.starts_with('{')) return fail(Code::data_corrupt, "header does not begin with {");
  if (text.find('\0') != std::string_view::npos) return fail(Code::data_corrupt, "header holds a NUL byte");
  auto header = parse_json(text, {.max_depth = kMaxDepth});
  if (!header.ok()) return fail(Code::data_corrupt, "header is ", header.error().message());

  const std::span<const std::byte> data = file.subspan(8 + header_bytes);
  const auto data_bytes = static_cast<int64_t>(data.size());
  std::vector<Entry> entries;
  std::unordered_set<std::string_view> names;
  for (const Json::Member& member : header->members()) {
    if (!names.insert(member.first).second)
      return fail(Code::data_corrupt, "header has ", json_quote(member.first), " twice");
    if (member.first == "__metadata__") {
      WEFT_RETURN_IF_ERROR(check_metadata(member.second));
      continue;
    }
    auto entry = parse_entry(member.second, data_bytes);
    if (!entry.ok())
      return fail(entry.error().code(), "tensor ", json_quote(member.first), ": ", entry.error().message());
    entry->tensor.name = member.first;
    entries.push_back(std::move(*entry));
  }
  WEFT_RETURN_IF_ERROR(check_tiling(entries, data_bytes));

  std::vector<TensorInfo> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    entry.tensor.data = data.subspan(entry.begin, entry.end - entry.begin);
    tensors.push_back(std::move(entry.tensor));
  }
  return tensors;
}

}  // namespace

size_t safetensors_header_end(std::span<const std::byte> file) {
  if (file.size() < 8) return file.size();
  return std::min<size_t>(file.size(), 8 + std::min(header_length(file), kMaxHeaderBytes));
}

Result<std::vector<TensorInfo>> parse_safetensors(std::span<const std::byte> file, const std::string& path) {
  auto tensors = parse(file);
  if (!tensors.ok()) return fail(tensors.error().code(), path, ": ", tensors.error().message());
  return tensors;
}

}  // namespace weft
