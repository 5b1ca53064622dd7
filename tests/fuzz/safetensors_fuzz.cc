// A safetensors file: what its header says lies inside the file, piece behind piece, and can be read.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "target.h"

using namespace weft;

namespace {

std::string file_with(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(file.data(), &size, sizeof size);
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i % 251);
  return file;
}

void check_layout(const std::string& file, std::vector<TensorInfo>& tensors) {
  const auto* begin = reinterpret_cast<const std::byte*>(file.data());
  std::erase_if(tensors, [](const TensorInfo& tensor) { return tensor.data.empty(); });
  std::ranges::sort(tensors, {}, [](const TensorInfo& tensor) { return tensor.data.data(); });
  const std::byte* end = nullptr;
  for (const TensorInfo& tensor : tensors) {
    require(tensor.data.data() >= begin && tensor.data.size() <= file.size(), "a tensor begins in the file");
    require(!end || tensor.data.data() == end, "tensors cover the data without gap or overlap");
    end = tensor.data.data() + tensor.data.size();
    require(end <= begin + file.size(), "a tensor ends in the file");
  }
  require(tensors.empty() || end == begin + file.size(), "the last tensor ends the file");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      file_with(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],)"
                R"("data_offsets":[24,32]},"__metadata__":{"format":"pt"}})",
                32),
      file_with(R"({"x":{"dtype":"F8_E4M3","shape":[3,1,5],"data_offsets":[0,15]},"y":{"dtype":"F16","shape":[],)"
                R"("data_offsets":[15,17]},"z":{"dtype":"I64","shape":[0,7],"data_offsets":[17,17]}})",
                17),
      file_with(R"({"q":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"r":{"dtype":"U8","shape":[3],)"
                R"("data_offsets":[8,11]},"s":{"dtype":"F4","shape":[6],"data_offsets":[11,14]}}   )",
                14),
      file_with("{}", 0),
  };
}

std::vector<std::string> fuzz_words() {
  return {"\"dtype\"",
          "\"shape\"",
          "\"data_offsets\"",
          "\"__metadata__\"",
          "F32",
          "BF16",
          "I8",
          "BOOL",
          "F8_E5M2",
          "[0,0]",
          "18446744073709551615",
          "-1",
          "{}",
          "[]",
          ","};
}

// The length of the header, so that changes of the header reach the parser.
void mend(std::string& input) {
  if (input.size() < 9) return;
  uint64_t size = 0;
  std::memcpy(&size, input.data(), sizeof size);
  const size_t brace = input.rfind('}');
  if (size <= input.size() - 8 || brace == std::string::npos || brace < 8) return;
  size = brace + 1 - 8;
  std::memcpy(input.data(), &size, sizeof size);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = copy_of(data, size);
  auto read = parse_safetensors(std::as_bytes(std::span(file)), "FILE");
  if (!read.ok()) return require_message(read.error()), 0;
  for (const TensorInfo& tensor : *read) {
    const auto values = read_all(tensor);
    require(values.ok() ? values->size() == static_cast<size_t>(tensor.values()) : !values.error().message().empty(),
            "a tensor has as many values as its shape says, or an error why it has none");
  }
  check_layout(file, *read);
  return 0;
}
