// Opening a checkpoint: which files a folder's model consists of, and what its configuration says about how they are
// stored.
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/folder.h"
#include "base/log.h"
#include "checkpoint/builder.h"
#include "checkpoint/names.h"
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
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

void Checkpoint::drop(const TensorInfo& tensor) const {
  if (!tensor.data.empty()) files_->mapped[static_cast<size_t>(tensor.file)].drop(tensor.data);
}

void Checkpoint::drop(const TensorInfo& tensor, int64_t first_row, int64_t rows) const {
  if (tensor.data.empty() || tensor.rows() == 0) return;
  if (tensor.coded && !tensor.coded->codes.rows_lie_together()) return;  // others need the same pages
  const size_t row_bytes = tensor.data.size() / static_cast<size_t>(tensor.rows());
  files_->mapped[static_cast<size_t>(tensor.file)].drop(
      tensor.data.subspan(static_cast<size_t>(first_row) * row_bytes, static_cast<size_t>(rows) * row_bytes));
}

Status Checkpoint::check_unchanged() const {
  for (const MappedFile& file : files_->mapped) WEFT_RETURN_IF_ERROR(file.check());
  return files_->stamps.check();
}

const FileStamps& Checkpoint::stamps() const { return files_->stamps; }

std::shared_ptr<const Checkpoint> Checkpoint::without_files() const {
  std::shared_ptr<Checkpoint> rest(new Checkpoint);
  rest->path_ = path_, rest->file_names_ = file_names_, rest->files_->stamps = files_->stamps;
  rest->config_ = config_, rest->generation_config_ = generation_config_, rest->dummy_ = dummy_, rest->gguf_ = gguf_;
  rest->media_settings_ = media_settings_;
  return rest;
}

Result<Json> CheckpointBuilder::read_json(const std::string& path) {
  checkpoint->files_->stamps.add(path);
  return read_json_file(path);
}

Result<int> CheckpointBuilder::map(const std::string& path) {
  WEFT_TRY(MappedFile file, MappedFile::open(path, mode));
  checkpoint->files_->stamps.add(path, file.stamp());
  checkpoint->files_->mapped.push_back(std::move(file));
  checkpoint->file_names_.push_back(path);
  return static_cast<int>(checkpoint->files_->mapped.size()) - 1;
}

Status CheckpointBuilder::add(TensorInfo tensor) {
  tensor.name.insert(0, prefix);
  std::string& name = tensor.name;
  // Old BERT files call a layer norm's weight and bias by their letters in the paper.
  for (const auto& [old_end, end] :
       {std::pair("LayerNorm.gamma", "LayerNorm.weight"), std::pair("LayerNorm.beta", "LayerNorm.bias")})
    if (name.ends_with(old_end)) name.replace(name.size() - std::strlen(old_end), std::string::npos, end);
  if (!checkpoint->tensors_.try_emplace(name, tensor).second)
    return fail(Code::data_corrupt, "tensor ", name, " is there twice");
  return {};
}

TensorInfo* CheckpointBuilder::find(const std::string& name) {
  const auto found = checkpoint->tensors_.find(prefix + name);
  return found == checkpoint->tensors_.end() ? nullptr : &found->second;
}

namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";

// Tensor name -> shard, as an index has it.
using WeightMap = std::map<std::string, std::string, std::less<>>;

// Of copies in several shards, the one that the index names counts: `named` tells whether those are added now, or what
// the index does not name or looks for elsewhere, where no other file has it.
Status add_file(CheckpointBuilder& builder, int file, const std::string& path, const WeightMap* weight_map,
                const std::string& shard, bool named) {
  const MappedFile& source = builder.file(file);
  const std::span<const std::byte> bytes = source.bytes();
  WEFT_TRY(MappedFile::Pin pin, source.pin(bytes.first(std::min<size_t>(bytes.size(), 64))));
  WEFT_TRY(pin, source.pin(bytes.first(safetensors_header_end(bytes))));
  if (std::string_view(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 64))
          .starts_with("version https://git-lfs"))
    return fail(Code::data_corrupt, path, " is a Git LFS pointer, not the file that it stands for");
  WEFT_TRY(std::vector<TensorInfo> tensors, parse_safetensors(bytes, path));
  for (TensorInfo& tensor : tensors) {
    if (weight_map) {
      const auto entry = weight_map->find(tensor.name);
      if ((entry != weight_map->end() && entry->second == shard) != named) continue;
      if (!named && builder.find(tensor.name)) continue;
    }
    tensor.file = file, tensor.source = &source;
    if (Status added = builder.add(std::move(tensor)); !added.ok()) return Error(added.error()).with(path);
  }
  return {};
}

Status add_file(CheckpointBuilder& builder, const std::string& path) {
  WEFT_TRY(const int file, builder.map(path));
  return add_file(builder, file, path, nullptr, "", true);
}

// A shard's name must stay inside the folder.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos && name.find('\\') == std::string::npos && name != "." &&
         name != ".." && name.find('\0') == std::string::npos;
}

Result<WeightMap> read_weight_map(CheckpointBuilder& builder, const std::string& index_path) {
  WEFT_TRY(const Json index, builder.read_json(index_path));
  const Json* entries = index.find("weight_map");
  if (!entries || !entries->is_object()) return fail(Code::data_corrupt, index_path, ": weight_map must be an object");
  WeightMap weight_map;
  for (const auto& [tensor, shard] : entries->members()) {
    if (!shard.is_string() || !is_plain_name(shard.as_string()))
      return fail(Code::data_corrupt, index_path, ": weight_map.", tensor, " is ", shard.dump(),
                  ", but must be a file name in this folder");
    if (!weight_map.emplace(tensor, shard.as_string()).second)
      return fail(Code::data_corrupt, index_path, ": weight_map.", tensor, " is there twice");
  }
  if (weight_map.empty()) return fail(Code::data_corrupt, index_path, ": weight_map is empty");
  return weight_map;
}

// Whether an index is about other files than model.safetensors, or is broken.
bool index_names_others(CheckpointBuilder& builder, const std::string& folder) {
  const auto weight_map = read_weight_map(builder, folder + "/" + kIndexName);
  return !weight_map.ok() || std::any_of(weight_map->begin(), weight_map->end(),
                                         [](const auto& entry) { return entry.second != "model.safetensors"; });
}

Status add_shards(CheckpointBuilder& builder, const std::string& folder) {
  const std::string index_path = folder + "/" + kIndexName;
  WEFT_TRY(const WeightMap weight_map, read_weight_map(builder, index_path));
  std::map<std::string, int> shards;
  for (const auto& [tensor, shard] : weight_map) shards.try_emplace(shard, -1);
  for (auto& [shard, file] : shards) {
    const std::string path = folder + "/" + shard;
    if (!is_file(path))
      return fail(Code::not_found, "shard ", path, " is missing; ", kIndexName, " names ", shards.size(), " shards");
    WEFT_TRY(file, builder.map(path));
  }
  for (const bool named : {true, false})
    for (const auto& [shard, file] : shards)
      WEFT_RETURN_IF_ERROR(add_file(builder, file, folder + "/" + shard, &weight_map, shard, named));
  // Whether they are needed is found out when the recipe asks for them.
  std::vector<std::string> stale;
  for (const auto& [tensor, shard] : weight_map)
    if (!builder.find(tensor)) stale.push_back(tensor + " in " + shard);
  if (!stale.empty())
    log_warning(index_path, " names ", stale.size(), " tensors that are in no file, the first is ", stale[0]);
  return {};
}

std::vector<std::string> files_ending(const std::string& folder, std::string_view ending) {
  std::vector<std::string> names = names_in(folder);
  std::erase_if(names, [&](const std::string& name) { return !name.ends_with(ending); });
  return names;
}

Status add_tensors(CheckpointBuilder& builder, const std::string& folder) {
  const bool has_index = is_file(folder + "/" + kIndexName);
  if (is_file(folder + "/model.safetensors")) {  // as in the reference, it counts before an index
    if (has_index && index_names_others(builder, folder))
      log_warning(folder, "/", kIndexName, " is ignored: the folder has model.safetensors");
    return add_file(builder, folder + "/model.safetensors");
  }
  if (has_index) return add_shards(builder, folder);
  const std::vector<std::string> others = files_ending(folder, ".safetensors");
  if (others.size() == 1) return add_file(builder, folder + "/" + others[0]);
  if (others.size() > 1)
    return fail(Code::not_found, folder, " has ", others.size(), " .safetensors files but no ", kIndexName);
  for (const char* ending : {".bin", ".pt", ".pth"})
    if (!files_ending(folder, ending).empty())
      return fail(Code::unsupported, folder, " holds weights as a pickle (", files_ending(folder, ending)[0],
                  "), which is not read; convert it to safetensors");
  return fail(Code::not_found, folder, " has no weights: neither model.safetensors nor ", kIndexName,
              " nor a .gguf file");
}

Status read_generation_config(CheckpointBuilder& builder, const std::string& folder) {
  const std::string path = folder + "/generation_config.json";
  if (!is_file(path)) return {};
  auto generation = builder.read_json(path);
  if (generation.ok() && generation->is_object()) builder.set_generation_config(std::move(generation).value());
  else log_warning(path, " is ignored: ", generation.ok() ? "it must be a JSON object" : generation.error().message());
  return {};
}

// VILA keeps its parts in sub-folders, each a checkpoint of its own: NAME_cfg in config.json has the part's path, of
// which the last component counts. Tensors get NAME in front, and the part's own config.json replaces NAME_cfg.
Status read_parts(CheckpointBuilder& builder, const std::string& folder, Json& config, bool config_only) {
  for (const std::string& part : {std::string("llm"), std::string("vision_tower"), std::string("mm_projector")}) {
    const std::string key = part + "_cfg";
    const Json* stated = config.find(key);
    const Json* path = stated && stated->is_object() ? stated->find("_name_or_path") : nullptr;
    std::string name = path && path->is_string() ? path->as_string() : part;
    while (name.ends_with('/')) name.pop_back();
    name = name.substr(name.find_last_of('/') + 1);
    if (!is_plain_name(name))
      return fail(Code::data_corrupt, folder, "/config.json: ", key, "._name_or_path names no sub-folder");
    const std::string own = folder + "/" + name;
    if (!is_directory(own))
      return fail(Code::not_found, folder, " has no sub-folder ", name, ", where ", key, " has its part of the model");
    if (is_file(own + "/config.json")) {
      WEFT_TRY(Json own_config, builder.read_json(own + "/config.json"));
      config.set(key, std::move(own_config));
    }
    if (part == "llm") WEFT_RETURN_IF_ERROR(read_generation_config(builder, own));
    if (const Json* own_config = config.find(key); own_config && own_config->find("quantization_config"))
      return fail(Code::unsupported, own, "/config.json: quantization_config is not supported in a part of a model");
    if (config_only) continue;
    builder.prefix = part + ".";
    WEFT_RETURN_IF_ERROR(add_tensors(builder, own));
    builder.prefix.clear();
  }
  return {};
}

Status read_folder(CheckpointBuilder& builder, const std::string& folder, bool config_only) {
  const std::string config_path = folder + "/config.json";
  if (!is_file(config_path)) {
    std::vector<std::string> gguf = files_ending(folder, ".gguf");
    std::vector<std::string> encoders = gguf;
    std::erase_if(encoders, [](const std::string& name) { return !name.starts_with("mmproj"); });
    if (encoders.size() > 1 && builder.mmproj.empty())
      return fail(Code::invalid_argument, folder, " holds ", encoders.size(), " encoders of images, ", encoders[0],
                  " and others; name one of them with --mmproj")
          .about("mmproj");
    if (encoders.size() == 1 && builder.mmproj.empty()) builder.mmproj = folder + "/" + encoders[0];
    // The first part of a split file stands for all; an encoder of images is no model.
    std::erase_if(gguf, [](const std::string& name) {
      const size_t of = name.rfind("-of-");
      return name.starts_with("mmproj") ||
             (of != std::string::npos && of >= 6 && name.compare(of - 6, 6, "-00001") != 0);
    });
    if (gguf.size() == 1) return read_gguf(builder, folder + "/" + gguf[0], config_only);
    if (gguf.size() > 1)
      return fail(Code::invalid_argument, folder, " holds ", gguf.size(), " .gguf files; name one of them");
    return fail(Code::not_found, folder, " is not a model folder: there is no config.json and no .gguf file in it");
  }
  WEFT_TRY(Json config, builder.read_json(config_path));
  if (!config.is_object())
    return fail(Code::invalid_argument, config_path, " must be a JSON object, not ", config.type_name());
  WEFT_RETURN_IF_ERROR(read_generation_config(builder, folder));
  if (config.find("llm_cfg")) {
    WEFT_RETURN_IF_ERROR(read_parts(builder, folder, config, config_only));
  } else if (!config_only) {
    WEFT_RETURN_IF_ERROR(add_tensors(builder, folder));
    WEFT_RETURN_IF_ERROR(apply_names(builder, config));
    WEFT_RETURN_IF_ERROR(apply_quantization(builder, config, folder));
  }
  builder.set_config(std::move(config));
  return {};
}

// config.json alone, where it is named itself.
Status read_config(CheckpointBuilder& builder, const std::string& path) {
  WEFT_TRY(Json config, builder.read_json(path));
  if (!config.is_object())
    return fail(Code::invalid_argument, path, " must be a JSON object, not ", config.type_name());
  builder.set_config(std::move(config));
  return {};
}

Status read_path(CheckpointBuilder& builder, std::string path, bool config_only) {
  builder.set_path(path);
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  if (config_only) builder.set_dummy();
  if (is_directory(path)) return read_folder(builder, path, config_only);
  if (!is_file(path))
    return fail(Code::not_found, "there is no model at ", path,
                "; give a folder with config.json and *.safetensors, or a .gguf file");
  if (config_only && path.ends_with(".json")) return read_config(builder, path);
  if (path.ends_with(".gguf")) return read_gguf(builder, path, config_only);
  return fail(Code::invalid_argument, path, " is neither a model folder nor a .gguf file");
}

Result<std::shared_ptr<const Checkpoint>> open_path(const std::string& path, bool config_only, LoadMode mode,
                                                    const std::string& mmproj) {
  CheckpointBuilder builder;
  builder.mode = mode, builder.mmproj = mmproj;
  const Status read = read_path(builder, path, config_only);
  // What was read from a file that changed meanwhile is not to be complained about.
  WEFT_RETURN_IF_ERROR(builder.checkpoint->check_unchanged());
  if (!read.ok()) return read.error();
  if (!mmproj.empty() && !builder.checkpoint->is_gguf())
    return fail(Code::invalid_argument, path, " is no GGUF model, so ", mmproj, " cannot belong to it").about("mmproj");
  return std::shared_ptr<const Checkpoint>(std::move(builder.checkpoint));
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& path, LoadMode mode) {
  return open_path(path, false, mode, "");
}
Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& path, LoadMode mode,
                                                           const std::string& mmproj) {
  return open_path(path, false, mode, mmproj);
}
Result<std::shared_ptr<const Checkpoint>> Checkpoint::open_dummy(const std::string& path) {
  return open_path(path, true, LoadMode::mmap, "");
}
Result<std::shared_ptr<const Checkpoint>> Checkpoint::open_dummy(const std::string& path, const std::string& mmproj) {
  return open_path(path, true, LoadMode::mmap, mmproj);
}

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open_described(const std::string& path,
                                                                     std::span<const MatrixShape> matrices) {
  CheckpointBuilder builder;
  WEFT_RETURN_IF_ERROR(read_path(builder, path, true));
  const std::string folder = is_directory(path) ? path : std::filesystem::path(path).parent_path().string();
  WEFT_RETURN_IF_ERROR(describe_quantized(builder, folder, matrices));
  return std::shared_ptr<const Checkpoint>(std::move(builder.checkpoint));
}

}  // namespace weft
