// Opening folders: which files hold the weights, and what config.json says about them. Formats are read by safetensors.cc and gguf.cc.
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/checkpoint_builder.h"
#include "checkpoint/quantization.h"
#include "checkpoint/safetensors.h"

namespace weft {

Checkpoint::Checkpoint() : files_(std::make_unique<Files>()) {}
Checkpoint::~Checkpoint() = default;

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<std::string_view> Checkpoint::names() const {
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const auto& entry : tensors_) names.emplace_back(entry.first);
  return names;
}

void Checkpoint::drop(const TensorInfo& tensor) const {
  if (!tensor.data.empty()) files_->maps[static_cast<size_t>(tensor.file)].drop(tensor.data);
}

CheckpointBuilder::CheckpointBuilder(const std::string& path) : made(new Checkpoint) { made->path_ = path; }

Result<int> CheckpointBuilder::map(const std::string& path) {
  WEFT_TRY(MappedFile file, MappedFile::open(path));
  made->files_->maps.push_back(std::move(file));
  made->file_names_.push_back(path);
  return static_cast<int>(made->file_names_.size()) - 1;
}

Status CheckpointBuilder::add(TensorInfo tensor) {
  std::string name = tensor.name;
  const int file = tensor.file;
  const auto [place, is_new] = made->tensors_.try_emplace(std::move(name), std::move(tensor));
  if (is_new) return {};
  return fail(Code::data_corrupt, made->file_names_[static_cast<size_t>(file)], ": tensor ", json_quote(place->first), " is already in ",
              made->file_names_[static_cast<size_t>(place->second.file)]);
}

void CheckpointBuilder::make_dummy() {
  made->tensors_.clear();
  made->dummy_ = true;
}

namespace {

constexpr size_t kMaxDocumentBytes = size_t{256} << 20;
constexpr std::string_view kSafetensors = ".safetensors";
constexpr std::string_view kIndexName = "model.safetensors.index.json";

Result<Json> read_object(const std::string& path) {
  WEFT_TRY(const std::string text, read_file(path, kMaxDocumentBytes));
  auto json = parse_json(text);
  if (!json.ok()) return fail(Code::data_corrupt, path, " is ", json.error().message());
  if (!json->is_object()) return fail(Code::data_corrupt, path, " holds ", json->type_name(), ", not an object");
  return json;
}

Status read_documents(CheckpointBuilder& builder, const std::string& folder) {
  WEFT_TRY(builder.config(), read_object(folder + "/config.json"));
  const std::string generation = folder + "/generation_config.json";
  if (!is_file(generation)) return {};
  // It only holds defaults for generation, so a bad one is no reason to refuse the model.
  auto json = read_object(generation);
  if (json.ok()) builder.generation_config() = std::move(*json);
  else log_warning("ignored: ", json.error().message());
  return {};
}

Result<std::vector<std::string>> list_folder(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error) return fail(Code::internal, "cannot read ", folder, ": ", error.message());
  std::sort(names.begin(), names.end());
  return names;
}

// Maps a file and reads its header; the tensors are not added yet.
Result<std::vector<TensorInfo>> read_shard(CheckpointBuilder& builder, const std::string& path) {
  WEFT_TRY(const int file, builder.map(path));
  const std::span<const std::byte> bytes = builder.bytes(file);
  constexpr std::string_view kPointer = "version https://git-lfs";
  if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()).starts_with(kPointer))
    return fail(Code::data_corrupt, path, ": is a Git LFS pointer, not the file that it stands for");
  WEFT_TRY(std::vector<TensorInfo> tensors, parse_safetensors(bytes, path));
  for (TensorInfo& tensor : tensors) tensor.file = file;
  return tensors;
}

// A shard is a plain file name: nothing outside the folder is ever opened through an index.
Status check_shard_name(const std::string& name) {
  const bool plain = name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos && !name.starts_with('.');
  if (!plain) return fail(Code::data_corrupt, "weight_map names the file ", json_quote(name), ", which is not a plain file name");
  if (!name.ends_with(kSafetensors)) return fail(Code::unsupported, "weight_map names the file ", json_quote(name), ", which is not a .safetensors file");
  return {};
}

// weight_map of an index: tensor name -> shard.
Result<std::map<std::string, std::string, std::less<>>> read_weight_map(const std::string& path) {
  WEFT_TRY(const Json index, read_object(path));
  const Json* entries = index.find("weight_map");
  if (!entries || !entries->is_object())
    return fail(Code::data_corrupt, path, ": weight_map is ", entries ? entries->type_name() : "absent", ", not an object");
  std::map<std::string, std::string, std::less<>> shards;
  for (const Json::Member& member : entries->members()) {
    if (!member.second.is_string())
      return fail(Code::data_corrupt, path, ": weight_map entry ", json_quote(member.first), " is ", member.second.type_name(), ", not a string");
    if (const Status status = check_shard_name(member.second.as_string()); !status.ok())
      return fail(status.error().code(), path, ": ", status.error().message());
    if (!shards.emplace(member.first, member.second.as_string()).second)
      return fail(Code::data_corrupt, path, ": weight_map has ", json_quote(member.first), " twice");
  }
  if (shards.empty()) return fail(Code::data_corrupt, path, ": weight_map is empty");
  return shards;
}

// Tensors that the index names are taken from the shard it names, others from where they are found.
Status read_indexed(CheckpointBuilder& builder, const std::string& folder) {
  const std::string path = folder + "/" + std::string(kIndexName);
  WEFT_TRY(const auto weight_map, read_weight_map(path));
  std::set<std::string> shards;
  for (const auto& entry : weight_map) shards.insert(entry.second);
  for (const std::string& shard : shards)
    if (!is_file(folder + "/" + shard)) return fail(Code::not_found, path, ": the shard ", shard, " is missing");
  size_t found = 0;
  for (const std::string& shard : shards) {
    WEFT_TRY(std::vector<TensorInfo> tensors, read_shard(builder, folder + "/" + shard));
    for (TensorInfo& tensor : tensors) {
      const auto entry = weight_map.find(tensor.name);
      if (entry != weight_map.end() && entry->second != shard) continue;
      found += entry != weight_map.end();
      WEFT_RETURN_IF_ERROR(builder.add(std::move(tensor)));
    }
  }
  if (found == weight_map.size()) return {};
  for (const auto& [name, shard] : weight_map)
    if (!builder.tensors().contains(name)) return fail(Code::data_corrupt, path, ": tensor ", json_quote(name), " is not in ", shard);
  return {};
}

// The weight files of a folder without an index.
Result<std::vector<std::string>> choose_weights(const std::string& folder, const std::vector<std::string>& names) {
  std::vector<std::string> all, model;
  for (const std::string& name : names) {
    if (!name.ends_with(kSafetensors)) continue;
    all.push_back(name);
    if (name.starts_with("model-")) model.push_back(name);
  }
  if (std::find(all.begin(), all.end(), "model.safetensors") != all.end()) return std::vector<std::string>{"model.safetensors"};
  if (!model.empty()) return model;
  if (all.size() == 1) return all;
  if (all.size() > 1) return fail(Code::invalid_argument, folder, " has ", all.size(), " .safetensors files, but neither ", kIndexName, " nor model.safetensors");
  for (const std::string& name : names)
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") || name.ends_with(".ckpt"))
      return fail(Code::unsupported, folder, "/", name, ": pickle checkpoints are not read, since they can run code; convert it to safetensors");
  return fail(Code::not_found, folder, " has no weight file (*.safetensors or one .gguf)");
}

Status read_safetensors_folder(CheckpointBuilder& builder, const std::string& folder, const std::vector<std::string>& names) {
  const auto has = [&](std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  WEFT_RETURN_IF_ERROR(read_documents(builder, folder));
  // As transformers: a single file goes before an index.
  if (has(kIndexName) && !has("model.safetensors")) {
    WEFT_RETURN_IF_ERROR(read_indexed(builder, folder));
  } else {
    WEFT_TRY(const std::vector<std::string> files, choose_weights(folder, names));
    for (const std::string& file : files) {
      WEFT_TRY(std::vector<TensorInfo> tensors, read_shard(builder, folder + "/" + file));
      for (TensorInfo& tensor : tensors) WEFT_RETURN_IF_ERROR(builder.add(std::move(tensor)));
    }
  }
  return apply_quantization(builder, folder);
}

// The folder without slashes at its end, for joining and for messages.
std::string trimmed(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& path) {
  CheckpointBuilder builder(path);
  const std::string place = trimmed(path);
  if (!is_directory(place)) return fail(Code::not_found, "no checkpoint at ", path);
  WEFT_TRY(const std::vector<std::string> names, list_folder(place));
  WEFT_RETURN_IF_ERROR(read_safetensors_folder(builder, place, names));
  return builder.finish();
}

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open_dummy(const std::string& path) {
  CheckpointBuilder builder(path);
  WEFT_RETURN_IF_ERROR(read_documents(builder, trimmed(path)));
  builder.make_dummy();
  return builder.finish();
}

}  // namespace weft
