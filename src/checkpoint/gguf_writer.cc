#include "checkpoint/gguf_writer.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/file_descriptor.h"
#include "base/files.h"

namespace weft {
namespace {

constexpr int64_t kAlignment = 32;  // of tensors, where general.alignment is not written

// GGUF's value types of a metadata value, in the order of GgufItem; lists: of their elements.
constexpr uint32_t kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;

// GGUF's number of a type of tensors.
std::optional<uint32_t> ggml_number(StorageType type) {
  for (uint32_t number = 0; number < 256; ++number)
    if (storage_from_ggml(number) == type) return number;
  return std::nullopt;
}

class Header {
 public:
  template <class T>
  void scalar(T value) {
    const char* const bytes = reinterpret_cast<const char*>(&value);
    text_.append(bytes, sizeof value);
  }
  void string(const std::string& text) {
    scalar(static_cast<uint64_t>(text.size()));
    text_ += text;
  }

  void item(uint32_t value) { scalar(kU32), scalar(value); }
  void item(int32_t value) { scalar(kI32), scalar(value); }
  void item(float value) { scalar(kF32), scalar(value); }
  void item(bool value) { scalar(kBool), scalar(static_cast<uint8_t>(value)); }
  void item(const std::string& value) { scalar(kString), string(value); }
  void item(const std::vector<int32_t>& list) { numbers(kI32, list); }
  void item(const std::vector<float>& list) { numbers(kF32, list); }
  void item(const std::vector<std::string>& list) {
    scalar(kArray), scalar(kString), scalar(static_cast<uint64_t>(list.size()));
    for (const std::string& text : list) string(text);
  }
  void pad() { text_.resize((text_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  const std::string& text() const { return text_; }

 private:
  template <class T>
  void numbers(uint32_t type, const std::vector<T>& list) {
    scalar(kArray), scalar(type), scalar(static_cast<uint64_t>(list.size()));
    for (const T value : list) scalar(value);
  }
  std::string text_;
};

}  // namespace

int64_t GgufTensorPlan::bytes() const {
  int64_t values = 1;
  for (const int64_t extent : shape) values *= extent;
  const StorageLayout stored = layout(type);
  return values / stored.block_values * stored.block_bytes;
}

struct GgufWriter::State {
  std::string path, temporary;
  std::vector<GgufTensorPlan> tensors;
  std::FILE* file = nullptr;
  size_t tensor = 0;
  int64_t left = 0;  // bytes of that tensor
  bool published = false;

  ~State() {
    if (file) std::fclose(file);
    if (!published && !temporary.empty()) std::remove(temporary.c_str());
  }
  Status write(const void* data, size_t bytes) {
    if (bytes > 0 && std::fwrite(data, 1, bytes, file) != bytes) return file_error("write", path);
    return {};
  }
  // Goes on to the next tensor with bytes where one is complete.
  Status step() {
    while (left == 0 && tensor < tensors.size()) {
      const int64_t bytes = tensors[tensor].bytes(), rest = (kAlignment - bytes % kAlignment) % kAlignment;
      static constexpr char kZeros[kAlignment] = {};
      WEFT_RETURN_IF_ERROR(write(kZeros, static_cast<size_t>(rest)));
      if (++tensor < tensors.size()) left = tensors[tensor].bytes();
    }
    return {};
  }
};

GgufWriter::GgufWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufWriter::GgufWriter(GgufWriter&&) noexcept = default;
GgufWriter& GgufWriter::operator=(GgufWriter&&) noexcept = default;
GgufWriter::~GgufWriter() = default;

Result<GgufWriter> GgufWriter::create(const std::string& path, const GgufItems& metadata,
                                      std::vector<GgufTensorPlan> tensors) {
  if (std::error_code unknown; std::filesystem::exists(path, unknown))
    return fail(Code::invalid_argument, path, " is there already");
  Header header;
  header.scalar(uint32_t{0x46554747}), header.scalar(uint32_t{3});
  header.scalar(static_cast<uint64_t>(tensors.size())), header.scalar(static_cast<uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    header.string(key);
    std::visit([&](const auto& v) { header.item(v); }, value);
  }
  int64_t offset = 0;
  for (const GgufTensorPlan& tensor : tensors) {
    const std::optional<uint32_t> number = ggml_number(tensor.type);
    const int64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (!number || columns % layout(tensor.type).block_values != 0)
      return fail(Code::invalid_argument, "tensor ", tensor.name, " with rows of ", columns,
                  " values cannot be stored as ", name(tensor.type), " in a GGUF file");
    header.string(tensor.name);
    header.scalar(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t d = tensor.shape.size(); d > 0; --d) header.scalar(static_cast<uint64_t>(tensor.shape[d - 1]));
    header.scalar(*number), header.scalar(static_cast<uint64_t>(offset));
    offset += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  header.pad();
  auto state = std::make_unique<State>();
  state->path = path;
  const std::string temporary = path + ".part.gguf";
  state->file = std::fopen(temporary.c_str(), "wb");
  if (!state->file) return file_error("write", path);
  state->temporary = temporary;
  state->tensors = std::move(tensors);
  if (!state->tensors.empty()) state->left = state->tensors[0].bytes();
  WEFT_RETURN_IF_ERROR(state->write(header.text().data(), header.text().size()));
  return GgufWriter(std::move(state));
}

Status GgufWriter::append(std::span<const std::byte> bytes) {
  State& s = *state_;
  while (!bytes.empty()) {
    WEFT_RETURN_IF_ERROR(s.step());
    if (s.tensor == s.tensors.size()) return fail(Code::internal, s.path, ": more data than its tensors have");
    const auto part = std::min(bytes.size(), static_cast<size_t>(s.left));
    WEFT_RETURN_IF_ERROR(s.write(bytes.data(), part));
    s.left -= static_cast<int64_t>(part);
    bytes = bytes.subspan(part);
  }
  return {};
}

Status GgufWriter::finish() {
  State& s = *state_;
  WEFT_RETURN_IF_ERROR(s.step());
  if (s.tensor < s.tensors.size())
    return fail(Code::internal, s.path, ": tensor ", s.tensors[s.tensor].name, " lacks ", s.left, " bytes");
  const int failed = std::fclose(s.file);
  s.file = nullptr;
  if (failed != 0) return file_error("write", s.path);
  return {};
}

const std::string& GgufWriter::temporary() const { return state_->temporary; }

Status GgufWriter::publish() {
  State& s = *state_;
  if (std::rename(s.temporary.c_str(), s.path.c_str()) != 0) return file_error("write", s.path);
  s.published = true;
  return {};
}

}  // namespace weft
