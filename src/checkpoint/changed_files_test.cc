// Checkpoints whose files change while they are read, and the two ways of reading them.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "checkpoint/test_folder.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

// A model in a folder of its own: GGUF, or safetensors in two shards.
class ChangedFiles : public testing::TestWithParam<std::tuple<LoadMode, bool>> {
 protected:
  void SetUp() override {
    if (is_gguf()) {
      folder_.write("model.gguf", read_file(checkpoint_data("llama.gguf")).value());
      return;
    }
    const std::string data(size_t{1} << 20, 'w');
    const std::string header = R"({"T": {"dtype": "F32", "shape": [1024, 256], "data_offsets": [0, 1048576]}})";
    for (const std::string name : {"a", "b"}) {
      std::string own = header;
      own.replace(own.find('T'), 1, name);
      folder_.write(name + ".safetensors", safetensors_bytes(own, 0) + data);
    }
    folder_.write("config.json", R"({"architectures": ["X"]})");
    folder_.write("model.safetensors.index.json", R"({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})");
  }

  static bool is_gguf() { return std::get<1>(GetParam()); }
  std::shared_ptr<const Checkpoint> open() const {
    return Checkpoint::open(folder_.path(), std::get<0>(GetParam())).value();
  }
  std::string last_file() const { return folder_.path() + (is_gguf() ? "/model.gguf" : "/b.safetensors"); }
  // Reads all values; the first error of reading or of looking whether files changed.
  static Status read(const Checkpoint& checkpoint) {
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      const auto values = read_all(tensor);
      if (!values.ok()) return values.error();
    }
    return checkpoint.check_unchanged();
  }
  static void expect_change(const Status& status, const std::string& part) {
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), Code::data_corrupt);
    EXPECT_NE(status.error().message().find(part), std::string::npos) << status.error().message();
  }

  TestFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Modes, ChangedFiles,
                         testing::Combine(testing::Values(LoadMode::mmap, LoadMode::read), testing::Bool()),
                         [](const auto& info) {
                           return std::string(name_of(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "_gguf" : "_safetensors");
                         });

TEST_P(ChangedFiles, BothModesReadTheSameValues) {
  const auto checkpoint = open(), mapped = Checkpoint::open(folder_.path()).value();
  EXPECT_EQ(checkpoint->config().dump(), mapped->config().dump());
  ASSERT_FALSE(checkpoint->tensors().empty());
  for (int round = 0; round < 2; ++round)  // what was dropped can be read again
    for (const auto& [name, tensor] : checkpoint->tensors()) {
      const auto values = read_all(tensor), expected = read_all(*mapped->find(name));
      ASSERT_TRUE(values.ok() && expected.ok()) << name;
      EXPECT_EQ(*values, *expected) << name;
      checkpoint->drop(tensor);
    }
  EXPECT_TRUE(checkpoint->check_unchanged().ok());
  if (!is_gguf()) return;
  const auto &a = *checkpoint->gguf_tokenizer(), &b = *mapped->gguf_tokenizer();
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.merges, b.merges);
}

TEST_P(ChangedFiles, ShortenedBetweenOpeningAndReading) {
  const auto checkpoint = open();
  const auto bytes = fs::file_size(last_file());
  fs::resize_file(last_file(), bytes / 2);
  const Status status = read(*checkpoint);
  expect_change(status, last_file() + " changed while it was in use: it ");
  expect_change(status, std::to_string(bytes) + " bytes when it was opened");
}

TEST_P(ChangedFiles, RewrittenInPlace) {
  const auto checkpoint = open();
  ASSERT_TRUE(read(*checkpoint).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));  // file systems keep times to some milliseconds
  std::fstream(last_file(), std::ios::in | std::ios::out | std::ios::binary).seekp(-1, std::ios::end).put('x');
  expect_change(read(*checkpoint), "it was written to");
}

TEST_P(ChangedFiles, Replaced) {
  const auto checkpoint = open();
  const std::string same = read_file(last_file()).value();
  ASSERT_TRUE(write_file(last_file(), same).ok());  // a new file under the old name
  expect_change(read(*checkpoint), "it was replaced by another file");
}

TEST_P(ChangedFiles, Removed) {
  const auto checkpoint = open();
  fs::remove(last_file());
  expect_change(read(*checkpoint), "it is gone");
}

TEST_P(ChangedFiles, SettingsCountAsWell) {
  if (is_gguf()) return;  // they are in the one file
  const auto checkpoint = open();
  folder_.write("config.json", R"({"architectures": ["Y"]})");
  expect_change(read(*checkpoint), "/config.json changed while it was in use");
}

TEST_P(ChangedFiles, WithoutFilesNothingIsHeld) {
  const auto rest = open()->without_files();
  EXPECT_TRUE(rest->tensors().empty());
  EXPECT_EQ(rest->is_gguf(), is_gguf());
  EXPECT_FALSE(rest->config().is_null());
  const std::string maps = [] {
    std::ifstream file("/proc/self/maps");
    return std::string(std::istreambuf_iterator<char>(file), {});
  }();
  EXPECT_EQ(maps.find(folder_.path()), std::string::npos);
}

}  // namespace
}  // namespace weft
