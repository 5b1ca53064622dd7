#include "support/reference_case.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"

namespace weft::testing {
namespace {

Result<std::vector<int32_t>> read_ids(const TensorInfo& tensor) {
  if (tensor.type != StorageType::i64)
    return fail(Code::data_corrupt, tensor.name, " is ", name(tensor.type), ", not int64");
  std::vector<int64_t> wide(static_cast<size_t>(tensor.values()));
  std::memcpy(wide.data(), tensor.data.data(), wide.size() * sizeof(int64_t));
  return std::vector<int32_t>(wide.begin(), wide.end());
}

Status read_tensor(const TensorInfo& tensor, const std::string& what, ReferencePrompt& prompt) {
  if (what == "input_ids") {
    WEFT_TRY(prompt.input_ids, read_ids(tensor));
  } else if (what == "token_type_ids") {
    WEFT_TRY(prompt.token_type_ids, read_ids(tensor));
  } else if (what == "greedy") {
    WEFT_TRY(prompt.greedy, read_ids(tensor));
  } else if (what == "rows") {
    WEFT_TRY(prompt.rows, read_ids(tensor));
  } else if (what == "gap") {
    WEFT_TRY(prompt.gap, read_all(tensor));
  } else if (what == "logits" || what == "reward" || what == "step_probs" || what == "image_features") {
    ReferenceTensor& output = prompt.outputs[what];
    output.shape = tensor.shape;
    WEFT_TRY(output.values, read_all(tensor));
  }
  return {};
}

// The metadata of the header: "P.text" and "P.text_pair".
Result<Json> read_metadata(std::span<const std::byte> file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  WEFT_TRY(const Json header, parse_json({reinterpret_cast<const char*>(file.data()) + sizeof length, length}));
  const Json* metadata = header.find("__metadata__");
  return metadata ? *metadata : Json::object();
}

// An entry of prompts.json: the text with its placeholders, and the files that stand for them.
void read_images(const Json& entry, const std::string& folder, ReferencePrompt& prompt) {
  for (const Json& file : entry.find("images")->items()) prompt.images.push_back(folder + "/" + file.as_string());
  for (const Json& video : entry.find("videos")->items()) {
    std::vector<std::string>& frames = prompt.videos.emplace_back();
    for (const Json& file : video.items()) frames.push_back(folder + "/" + file.as_string());
  }
  if (prompt.has_images()) prompt.text = entry.find("text")->as_string();
}

}  // namespace

double deviation(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float value : values) sum += value;
  const double mean = sum / static_cast<double>(values.size());
  for (const float value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

std::string as_test_name(std::string text) {
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return text;
}

std::string test_data(const std::string& name) { return std::string(WEFT_TEST_DATA) + "/" + name; }

std::vector<std::string> reference_case_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(test_data("golden")))
    if (is_file(entry.path() / "expected.safetensors")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::vector<ReferencePrompt>> read_reference_values(const std::string& path) {
  WEFT_TRY(const MappedFile file, MappedFile::open(path));
  WEFT_TRY(const std::vector<TensorInfo> tensors, parse_safetensors(file.bytes(), path));
  WEFT_TRY(const Json texts, read_metadata(file.bytes()));
  std::map<std::string, ReferencePrompt> prompts;
  for (const TensorInfo& tensor : tensors) {
    const size_t dot = tensor.name.rfind('.');
    ReferencePrompt& prompt = prompts[tensor.name.substr(0, dot)];
    WEFT_RETURN_IF_ERROR(read_tensor(tensor, tensor.name.substr(dot + 1), prompt));
  }
  std::vector<ReferencePrompt> list;
  for (auto& [name, prompt] : prompts) {
    prompt.name = name;
    if (const Json* text = texts.find(name + ".text")) prompt.text = text->as_string();
    if (const Json* pair = texts.find(name + ".text_pair")) prompt.text_pair = pair->as_string();
    list.push_back(std::move(prompt));
  }
  return list;
}

Result<ReferenceCase> read_reference_case(const std::string& name) {
  ReferenceCase c{.name = name, .folder = test_data("golden/" + name), .prompts = {}};
  WEFT_TRY(c.prompts, read_reference_values(c.folder + "/expected.safetensors"));
  Json images = Json::object();
  if (const std::string list = c.folder + "/prompts.json"; is_file(list)) {
    WEFT_TRY(images, read_json_file(list));
  }
  for (ReferencePrompt& prompt : c.prompts)
    if (const Json* entry = images.find(prompt.name)) read_images(*entry, c.folder, prompt);
  return c;
}

}  // namespace weft::testing
