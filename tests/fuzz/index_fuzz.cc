// model.safetensors.index.json beside two shards: what opens has its
// tensors in files of the folder, and all of them can be read.
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "target.h"

using namespace weft;

namespace {

std::string shard(const std::string& first, const std::string& second) {
  const std::string header = "{\"" + first + "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"" + second +
                             "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}";
  std::string file(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(file.data(), &size, sizeof size);
  return file + header + std::string(12, '\1');
}

const FuzzFolder& folder() {
  static const FuzzFolder made;
  static const bool filled = [] {
    made.put("config.json", R"({"architectures":["LlamaForCausalLM"],"model_type":"llama"})");
    made.put("model-00001-of-00002.safetensors", shard("a", "b"));
    made.put("model-00002-of-00002.safetensors", shard("c", "d.weight"));
    return true;
  }();
  return (void)filled, made;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"metadata":{"total_size":24},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
      R"("b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors",)"
      R"("d.weight":"model-00002-of-00002.safetensors"}})",
      R"({"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}})",
      R"({"weight_map":{"a":"../model-00001-of-00002.safetensors","b":"/etc/passwd"}})",
      R"({"metadata":{},"weight_map":{}})",
  };
}
std::vector<std::string> fuzz_words() {
  return {"\"weight_map\"",
          "\"metadata\"",
          "model-00002-of-00002.safetensors",
          "../",
          "/",
          "config.json",
          "\"a\"",
          "null",
          "\\u0000",
          "."};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  folder().put("model.safetensors.index.json", copy_of(data, size));
  const auto opened = Checkpoint::open(folder().path());
  if (!opened.ok()) return require_message(opened.error()), 0;
  const auto index = read_json_file(folder().file("model.safetensors.index.json"));
  require(index.ok(), "what opened has an index of JSON");
  const Json* map = index->find("weight_map");
  require(map && map->is_object(), "what opened has a weight_map");
  for (const auto& [name, file] : map->members()) {
    require(file.is_string() && file.as_string().find('/') == std::string::npos, "shards lie in the folder");
  }
  for (const auto& [name, tensor] : (*opened)->tensors()) {
    const auto values = read_all(tensor);
    require(values.ok(), "every tensor that is there can be read");
  }
  return 0;
}
