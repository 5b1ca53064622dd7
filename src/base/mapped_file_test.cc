#include "base/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/files.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

// As many pages as pieces have, and some more; the byte at i is i's.
constexpr size_t kBytes = (size_t{1} << 20) + 12345;

std::byte byte_at(size_t i) { return static_cast<std::byte>(i * 2654435761u >> 24); }

class MappedFiles : public ::testing::TestWithParam<LoadMode> {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "weft_mapped_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    content_.resize(kBytes);
    for (size_t i = 0; i < kBytes; ++i) content_[i] = static_cast<char>(byte_at(i));
    ASSERT_TRUE(write_file(at("file"), content_).ok());
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string at(const char* name) const { return (folder_ / name).string(); }
  MappedFile open() const { return MappedFile::open(at("file"), GetParam()).value(); }
  fs::path folder_;
  std::string content_;
};

INSTANTIATE_TEST_SUITE_P(Modes, MappedFiles, ::testing::Values(LoadMode::mmap, LoadMode::read),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(MappedFiles, HasTheBytesOfTheFile) {
  const MappedFile file = open();
  ASSERT_EQ(file.bytes().size(), kBytes);
  for (const auto& [first, count] : {std::pair<size_t, size_t>{0, 1}, {131071, 2}, {kBytes - 1, 1}, {5, kBytes - 5}}) {
    const auto part = file.bytes().subspan(first, count);
    const auto pin = file.pin(part);
    ASSERT_TRUE(pin.ok());
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(part[i], byte_at(first + i)) << first + i;
  }
  EXPECT_TRUE(file.check().ok());
}

TEST_P(MappedFiles, WhatWasDroppedIsReadAgain) {
  const MappedFile file = open();
  for (int round = 0; round < 3; ++round) {
    const auto pin = file.pin(file.bytes());
    ASSERT_TRUE(pin.ok());
    file.drop(file.bytes());  // pinned: the bytes stay
    for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(file.bytes()[i], byte_at(i));
  }
}

// Pieces that one thread drops while others pin them.
TEST_P(MappedFiles, FromManyThreads) {
  const MappedFile file = open();
  std::atomic<size_t> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t round = 0; round < 200; ++round) {
        const size_t first = (round * 7919 + t * 104729) % (kBytes - 70000);
        const auto part = file.bytes().subspan(first, 70000);
        const auto pin = file.pin(part);
        for (size_t i = 0; i < part.size(); i += 997) wrong += part[i] != byte_at(first + i);
        file.drop(part);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
}

TEST_P(MappedFiles, ShortenedWhileInUseIsAnError) {
  const MappedFile file = open();
  fs::resize_file(at("file"), 8192);
  const auto pin = file.pin(file.bytes());
  if (GetParam() == LoadMode::mmap) {
    ASSERT_TRUE(pin.ok());
    EXPECT_EQ(file.bytes()[8191], byte_at(8191));
    EXPECT_EQ(file.bytes()[8192], std::byte{0});  // no SIGBUS
    EXPECT_EQ(file.bytes()[kBytes - 1], std::byte{0});
  } else {
    ASSERT_FALSE(pin.ok());
    EXPECT_NE(pin.error().message().find("has become shorter than the 1060921 bytes"), std::string::npos)
        << pin.error().message();
  }
  const Status status = file.check();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), Code::data_corrupt);
  EXPECT_EQ(status.error().message(), at("file") +
                                          " changed while it was in use: it was written to: 1060921 bytes "
                                          "when it was opened, 8192 now");
}

// The size stays; the time of the change tells, which file systems keep to some milliseconds.
TEST_P(MappedFiles, RewrittenInPlaceIsAnError) {
  const MappedFile file = open();
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  std::fstream(at("file"), std::ios::in | std::ios::out | std::ios::binary).seekp(4096).put('x');
  EXPECT_NE(file.check().error().message().find("was written to: 1060921 bytes when it was opened, 1060921 now"),
            std::string::npos);
}

TEST_P(MappedFiles, ReplacedOrRemovedIsAnErrorButWhatIsReadIsTheOldFile) {
  const MappedFile file = open();
  ASSERT_TRUE(write_file(at("file"), std::string(kBytes, 'n')).ok());  // a new file that is renamed
  {
    const auto pin = file.pin(file.bytes());
    ASSERT_TRUE(pin.ok());
    for (size_t i = 0; i < kBytes; i += 4099) ASSERT_EQ(file.bytes()[i], byte_at(i));
  }
  EXPECT_NE(file.check().error().message().find("was replaced by another file"), std::string::npos);
  fs::remove(at("file"));
  EXPECT_NE(file.check().error().message().find("is gone"), std::string::npos);
}

TEST_P(MappedFiles, TakesRegularFilesOnlyAndWaitsForNone) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  ASSERT_EQ(::symlink("loop", at("loop").c_str()), 0);
  for (const std::string& path : {at("pipe"), folder_.string(), std::string("/dev/zero")}) {
    const auto file = MappedFile::open(path, GetParam());
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.error().message(), path + " is not a regular file");
  }
  EXPECT_NE(MappedFile::open(at("loop"), GetParam()).error().message().find("Too many levels of symbolic links"),
            std::string::npos);
  EXPECT_EQ(MappedFile::open(at("absent"), GetParam()).error().code(), Code::not_found);
}

TEST_P(MappedFiles, WithoutDescriptorsIsAnError) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto file = MappedFile::open(at("file"), GetParam());
  const auto whole = read_file(at("file"));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().message(), "cannot read " + at("file") + ": Too many open files");
  EXPECT_EQ(whole.error().message(), "cannot open " + at("file") + ": Too many open files");
}

TEST_P(MappedFiles, AnEmptyFileHasNoBytes) {
  ASSERT_TRUE(write_file(at("empty"), "").ok());
  const auto file = MappedFile::open(at("empty"), GetParam());
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->bytes().empty());
  EXPECT_TRUE(file->check().ok());
}

// A fault that is none of ours ends the process as before.
TEST(MappedFileDeathTest, OtherFaultsKeepTheirSignal) {
  EXPECT_EXIT(
      {
        const auto mine = MappedFile::open("/proc/self/exe");
        ::raise(SIGBUS);
        ::_exit(mine.ok() ? 0 : 1);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

TEST(FileStamps, NameTheFirstFileThatIsAnotherOne) {
  const std::string folder = ::testing::TempDir() + "weft_stamps_" + std::to_string(::getpid());
  fs::create_directories(folder);
  ASSERT_TRUE(write_file(folder + "/a", "one").ok());
  FileStamps stamps;
  stamps.add(folder + "/a");
  stamps.add(folder + "/b");  // not there
  EXPECT_TRUE(stamps.check().ok());
  ASSERT_TRUE(write_file(folder + "/b", "four").ok());
  EXPECT_NE(stamps.check().error().message().find("/b changed while it was in use: it has appeared, with 4 bytes"),
            std::string::npos);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace weft
