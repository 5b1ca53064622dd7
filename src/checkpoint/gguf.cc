// Reading a GGUF file's header: metadata and the list of tensors.
#include <algorithm>
#include <cstring>
#include <optional>

#include "checkpoint/gguf_metadata.h"

namespace weft {
namespace {

constexpr uint64_t kMaxEntries = 1 << 20, kMaxArray = uint64_t{1} << 26;

// GGUF's value types.
enum Type : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Reads little-endian values; every step is checked against the end of the file.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const MappedFile* source) : file_(file), source_(source) {}
  size_t at() const { return at_; }
  // Of all that was read.
  std::vector<MappedFile::Pin> take_pins() { return std::move(pins_); }

  template <class T>
  Result<T> scalar() {
    if (file_.size() - at_ < sizeof(T))
      return fail(Code::data_corrupt, "the file ends inside its header (byte ", at_, ")");
    WEFT_RETURN_IF_ERROR(bring(sizeof(T)));
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  Result<std::string_view> text() {
    WEFT_TRY(const uint64_t length, scalar<uint64_t>());
    if (length > file_.size() - at_)
      return fail(Code::data_corrupt, "a string of ", length, " bytes at byte ", at_, " goes beyond the file");
    WEFT_RETURN_IF_ERROR(bring(length));
    const std::string_view value(reinterpret_cast<const char*>(file_.data()) + at_, length);
    at_ += length;
    return value;
  }

  Result<GgufValue> value(uint32_t type) {
    switch (type) {
      case u8: return integer<uint8_t>();
      case i8: return integer<int8_t>();
      case u16: return integer<uint16_t>();
      case i16: return integer<int16_t>();
      case u32: return integer<uint32_t>();
      case i32: return integer<int32_t>();
      case u64: return integer<uint64_t>();
      case i64: return integer<int64_t>();
      case f32: return number<float>();
      case f64: return number<double>();
      case boolean: {
        WEFT_TRY(const uint8_t bit, scalar<uint8_t>());
        return GgufValue{bit != 0};
      }
      case string: {
        WEFT_TRY(const std::string_view words, text());
        return GgufValue{words};
      }
      case array: return list();
    }
    return fail(Code::data_corrupt, "unknown metadata type ", type, " at byte ", at_);
  }

 private:
  template <class T>
  Result<GgufValue> integer() {
    WEFT_TRY(const T value, scalar<T>());
    return GgufValue{static_cast<int64_t>(value)};
  }
  template <class T>
  Result<GgufValue> number() {
    WEFT_TRY(const T value, scalar<T>());
    return GgufValue{static_cast<double>(value)};
  }

  Result<GgufValue> list() {
    WEFT_TRY(const uint32_t type, scalar<uint32_t>());
    WEFT_TRY(const uint64_t count, scalar<uint64_t>());
    if (type == array)
      return fail(Code::unsupported, "an array inside an array in the metadata at byte ", at_,
                  ", which is not supported");
    if (count > kMaxArray || count > file_.size() - at_)
      return fail(Code::data_corrupt, "an array of ", count, " entries at byte ", at_,
                  "; the file, or this reader, has no room for so many");
    std::vector<std::string_view> texts;
    std::vector<int64_t> integers;
    std::vector<double> numbers;
    for (uint64_t i = 0; i < count; ++i) {
      WEFT_TRY(const GgufValue item, value(type));
      if (const auto* words = std::get_if<std::string_view>(&item.value)) texts.push_back(*words);
      else if (const auto* whole = std::get_if<int64_t>(&item.value)) integers.push_back(*whole);
      else if (const auto* real = std::get_if<double>(&item.value)) numbers.push_back(*real);
      else integers.push_back(std::get<bool>(item.value));
    }
    if (type == string) return GgufValue{std::move(texts)};
    if (type == f32 || type == f64) return GgufValue{std::move(numbers)};
    return GgufValue{std::move(integers)};
  }

  // Pins the next `bytes`, which the file has, and some more at a time.
  Status bring(size_t bytes) {
    if (!source_ || at_ + bytes <= pinned_) return {};
    const size_t end = std::min(file_.size(), std::max(at_ + bytes, pinned_ + kAhead));
    WEFT_TRY(MappedFile::Pin pin, source_->pin(file_.subspan(pinned_, end - pinned_)));
    pins_.push_back(std::move(pin));
    pinned_ = end;
    return {};
  }

  static constexpr size_t kAhead = size_t{1} << 20;
  std::span<const std::byte> file_;
  const MappedFile* source_;
  std::vector<MappedFile::Pin> pins_;
  size_t at_ = 0, pinned_ = 0;
};

struct Placed {
  TensorInfo tensor;
  uint64_t offset = 0;
};

Result<Placed> read_tensor_info(Reader& reader) {
  Placed placed;
  WEFT_TRY(const std::string_view name, reader.text());
  if (name.empty()) return fail(Code::data_corrupt, "a tensor has no name");
  placed.tensor.name = name;
  WEFT_TRY(const uint32_t dims, reader.scalar<uint32_t>());
  if (dims > 4) return fail(Code::data_corrupt, "tensor ", name, " has ", dims, " dimensions; at most 4 are possible");
  int64_t values = 1;
  for (uint32_t d = 0; d < dims; ++d) {
    WEFT_TRY(const uint64_t extent, reader.scalar<uint64_t>());
    if (extent == 0 || extent > (uint64_t{1} << 40))
      return fail(Code::data_corrupt, "tensor ", name, " has a dimension of size ", extent);
    if (__builtin_mul_overflow(values, static_cast<int64_t>(extent), &values))
      return fail(Code::data_corrupt, "tensor ", name, " has more values than a file can hold");
    placed.tensor.shape.insert(placed.tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  WEFT_TRY(const uint32_t type, reader.scalar<uint32_t>());
  const std::optional<StorageType> storage = storage_from_ggml(type);
  placed.tensor.type = storage.value_or(StorageType::unknown);
  if (!storage) placed.tensor.unknown_type = unknown_ggml_type(type);
  WEFT_TRY(placed.offset, reader.scalar<uint64_t>());
  return placed;
}

// Tensors begin at multiples of the alignment, and none within another.
Status check_places(const std::vector<Placed>& tensors, uint64_t alignment) {
  std::vector<const Placed*> in_order;
  for (const Placed& p : tensors) {
    if (p.offset % alignment != 0)
      return fail(Code::data_corrupt, "tensor ", p.tensor.name, " begins at byte ", p.offset,
                  " of the data, which is no multiple of the alignment ", alignment);
    in_order.push_back(&p);
  }
  std::ranges::sort(in_order, {}, &Placed::offset);
  for (size_t i = 1; i < in_order.size(); ++i) {
    const Placed &before = *in_order[i - 1], &p = *in_order[i];
    if (before.tensor.type == StorageType::unknown) continue;
    const StorageLayout shape = layout(before.tensor.type);
    // In another type, as the product may be larger than any whole number.
    const double bytes = static_cast<double>(before.tensor.values()) / shape.block_values * shape.block_bytes;
    if (static_cast<double>(p.offset - before.offset) < bytes)
      return fail(Code::data_corrupt, "tensor ", p.tensor.name, " begins within tensor ", before.tensor.name);
  }
  return {};
}

}  // namespace

Result<GgufHeader> parse_gguf(std::span<const std::byte> file, const MappedFile* source) {
  Reader reader(file, source);
  WEFT_TRY(const uint32_t magic, reader.scalar<uint32_t>());
  if (magic != 0x46554747) return fail(Code::data_corrupt, "not a GGUF file");
  WEFT_TRY(const uint32_t version, reader.scalar<uint32_t>());
  if (version != 3 && version != 2) return fail(Code::unsupported, "GGUF version ", version, " (3 is supported)");
  WEFT_TRY(const uint64_t tensor_count, reader.scalar<uint64_t>());
  WEFT_TRY(const uint64_t value_count, reader.scalar<uint64_t>());
  if (tensor_count > kMaxEntries || value_count > kMaxEntries)
    return fail(Code::data_corrupt, "the header claims ", tensor_count, " tensors and ", value_count,
                " metadata values; at most ", kMaxEntries, " of each are read");
  GgufHeader header;
  for (uint64_t i = 0; i < value_count; ++i) {
    WEFT_TRY(const std::string_view key, reader.text());
    WEFT_TRY(const uint32_t type, reader.scalar<uint32_t>());
    auto value = reader.value(type);
    if (!value.ok()) return std::move(value).error().with("key " + std::string(key));
    if (!header.metadata.values.emplace(std::string(key), std::move(value).value()).second)
      return fail(Code::data_corrupt, "metadata key ", key, " occurs twice");
  }
  std::vector<Placed> placed;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    WEFT_TRY(Placed tensor, read_tensor_info(reader));
    placed.push_back(std::move(tensor));
  }
  const int64_t alignment = header.metadata.integer("general.alignment", 32);
  if (alignment < 1 || alignment > 65536)
    return fail(Code::data_corrupt, "general.alignment is ", alignment, "; it must be from 1 to 65536");
  WEFT_RETURN_IF_ERROR(check_places(placed, static_cast<uint64_t>(alignment)));
  const uint64_t data = (reader.at() + alignment - 1) / alignment * alignment;
  for (Placed& p : placed) {
    if (p.tensor.type == StorageType::unknown) {  // its size is not known, and its bytes are not read
      header.tensors.push_back(std::move(p.tensor));
      continue;
    }
    const StorageLayout shape = layout(p.tensor.type);
    if (p.tensor.cols() % shape.block_values != 0)
      return fail(Code::data_corrupt, "tensor ", p.tensor.name, " has rows of ", p.tensor.cols(), " values; ",
                  name(p.tensor.type), " stores them in blocks of ", shape.block_values,
                  ", so the length of a row must be a multiple of that");
    uint64_t bytes = static_cast<uint64_t>(p.tensor.values() / shape.block_values);
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(shape.block_bytes), &bytes) || data > file.size() ||
        p.offset > file.size() - data || bytes > file.size() - data - p.offset)
      return fail(Code::data_corrupt, "tensor ", p.tensor.name, " goes beyond the end of the file; it is truncated");
    p.tensor.data = file.subspan(data + p.offset, bytes);
    header.tensors.push_back(std::move(p.tensor));
  }
  header.pins = reader.take_pins();
  return header;
}

}  // namespace weft
