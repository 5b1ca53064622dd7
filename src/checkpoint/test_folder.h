// For this folder's tests: temporary folders, and safetensors files made by hand.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/files.h"
#include "checkpoint/checkpoint.h"

namespace weft {

// A folder that is removed at the end.
class TestFolder {
 public:
  TestFolder() {
    path_ = (std::filesystem::temp_directory_path() / "weft_checkpoint_XXXXXX").string();
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& content) const {
    ASSERT_TRUE(write_file(path_ + "/" + name, content).ok());
  }
  void remove(const std::string& name) const { std::filesystem::remove(path_ + "/" + name); }
  // "ok", or why Checkpoint::open() refuses the folder.
  std::string problem() const {
    const auto opened = Checkpoint::open(path_);
    return opened.ok() ? "ok" : opened.error().to_string();
  }

 private:
  std::string path_;
};

// A file with this header and this many bytes of data (each its own place modulo 251).
inline std::string safetensors_bytes(const std::string& header, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i % 251);
  return file;
}

inline std::string checkpoint_data(const std::string& name) {
  return std::string(WEFT_TEST_DATA) + "/checkpoint/" + name;
}

}  // namespace weft
