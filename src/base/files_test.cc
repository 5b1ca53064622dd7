#include "base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "base/folder.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "weft_files_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string at(const char* name) const { return (folder_ / name).string(); }
  fs::path folder_;
};

TEST_F(Files, NamesInAFolderAreSorted) {
  EXPECT_TRUE(names_in(at("")).empty());
  for (const char* name : {"b", ".hidden", "a.jinja"}) ASSERT_TRUE(write_file(at(name), "").ok());
  ASSERT_TRUE(fs::create_directory(at("c")));
  EXPECT_EQ(names_in(at("")), (std::vector<std::string>{".hidden", "a.jinja", "b", "c"}));
  EXPECT_TRUE(names_in(at("absent")).empty());
  EXPECT_TRUE(names_in(at("b")).empty());
}

TEST_F(Files, AreWrittenWhole) {
  ASSERT_TRUE(write_file(at("a"), "one").ok());
  ASSERT_TRUE(write_file(at("a"), "two").ok());
  EXPECT_EQ(*read_file(at("a")), "two");
  EXPECT_FALSE(fs::exists(at("a.part")));
  EXPECT_FALSE(write_file(at("absent/a"), "one").ok());
}

// Once a rename put an ordinary file in the place of /dev/stdout.
TEST_F(Files, WhatIsNoFileStaysWhatItIs) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  const int reader = ::open(at("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_TRUE(write_file(at("pipe"), "through").ok());
  std::array<char, 16> got{};
  EXPECT_EQ(::read(reader, got.data(), got.size()), 7);
  EXPECT_STREQ(got.data(), "through");
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(at("pipe")));
  EXPECT_FALSE(fs::exists(at("pipe.part")));
}

TEST_F(Files, ALinkStaysOne) {
  ASSERT_TRUE(write_file(at("target"), "old").ok());
  fs::create_symlink(at("target"), at("link"));
  ASSERT_TRUE(write_file(at("link"), "new").ok());
  EXPECT_TRUE(fs::is_symlink(at("link")));
  EXPECT_EQ(*read_file(at("target")), "new");
}

TEST_F(Files, ASecretHasNoWhiteSpaceAtItsEnd) {
  ASSERT_TRUE(write_file(at("secret"), " open sesame \r\n").ok());
  EXPECT_EQ(*read_secret(at("secret")), " open sesame");
  ASSERT_TRUE(write_file(at("secret"), " \n").ok());
  EXPECT_FALSE(read_secret(at("secret")).ok());
  EXPECT_FALSE(read_secret(at("absent")).ok());
}

// None of these is waited for or read to its end.
TEST_F(Files, WhatIsNoFileOfReasonableSizeIsAnErrorAtOnce) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  ASSERT_EQ(::symlink("loop", at("loop").c_str()), 0);
  ASSERT_TRUE(write_file(at("sparse"), "x").ok());
  fs::resize_file(at("sparse"), uintmax_t{10} << 30);
  EXPECT_EQ(read_file(at("pipe")).error().message(), at("pipe") + " is not a regular file");
  EXPECT_EQ(read_file("/dev/zero").error().message(), "/dev/zero is not a regular file");
  EXPECT_EQ(read_file(folder_.string()).error().message(), folder_.string() + " is not a regular file");
  EXPECT_NE(read_file(at("loop")).error().message().find("symbolic links"), std::string::npos);
  EXPECT_EQ(read_file(at("sparse")).error().message(),
            at("sparse") + " has 10737418240 bytes, over the limit of 67108864");
}

}  // namespace
}  // namespace weft
