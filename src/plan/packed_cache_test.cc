#include "plan/packed_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace weft {
namespace {

namespace fs = std::filesystem;

class PackedCacheTest : public testing::Test {
 protected:
  PackedCacheTest() : folder_(fs::path(testing::TempDir()) / ("packed-" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
    std::mt19937 random(7);
    // Less than a chunk, several, none at all, an odd number of bytes.
    for (const size_t bytes : {size_t{100}, size_t{1'000'003}, size_t{0}, size_t{262'144}, size_t{1}}) {
      std::vector<std::byte> part(bytes);
      for (std::byte& byte : part) byte = static_cast<std::byte>(random());
      contents_.push_back(std::move(part));
    }
  }
  ~PackedCacheTest() override { fs::remove_all(folder_); }

  std::shared_ptr<PackedCache> open(int64_t max_bytes = 0, LoadMode mode = LoadMode::mmap) {
    auto cache = PackedCache::open(folder_.string(), max_bytes, mode);
    EXPECT_TRUE(cache.ok()) << (cache.ok() ? "" : cache.error().to_string());
    return cache.ok() ? *cache : nullptr;
  }
  void write(const PackedCache& cache, const PackedIdentity& identity) {
    std::vector<PackedPart> parts;
    for (size_t i = 0; i < contents_.size(); ++i) parts.push_back({i * 10, contents_[i]});
    cache.write(identity, parts).reset();  // waits
  }
  bool finds(const PackedCache& cache, const PackedIdentity& identity) {
    const auto found = cache.find(identity, team_, 0, 0);
    if (!found) return false;
    EXPECT_EQ(found->parts.size(), contents_.size());
    for (size_t i = 0; i < contents_.size(); ++i) {
      EXPECT_EQ(found->parts[i].tag, i * 10);
      EXPECT_TRUE(std::ranges::equal(found->parts[i].bytes, contents_[i])) << i;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(found->parts[i].bytes.data()) % 64, 0u);
      const std::byte* const end = found->file->bytes().data() + found->file->bytes().size();
      EXPECT_GE(end - (found->parts[i].bytes.data() + found->parts[i].bytes.size()),
                static_cast<std::ptrdiff_t>(kernels::kReadAhead));
    }
    return true;
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().string());
    return names;
  }

  const fs::path folder_;
  std::vector<std::vector<std::byte>> contents_;
  const PackedIdentity model_{"a model", "as it is"};
  ThreadTeam team_{3};
};

TEST_F(PackedCacheTest, GivesBackWhatWasWritten) {
  for (const LoadMode mode : {LoadMode::mmap, LoadMode::read}) {
    const auto cache = open(0, mode);
    fs::remove_all(folder_), fs::create_directory(folder_);
    EXPECT_FALSE(finds(*cache, model_));
    write(*cache, model_);
    EXPECT_TRUE(finds(*cache, model_));
    EXPECT_TRUE(finds(*open(0, mode), model_));
    struct stat info {};
    ASSERT_EQ(files().size(), 1u);
    ASSERT_EQ(::stat(files()[0].c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
  }
}

TEST_F(PackedCacheTest, IsForOneIdentityAlone) {
  const auto cache = open();
  write(*cache, model_);
  EXPECT_FALSE(finds(*cache, {"another model", "as it is"}));
  const PackedIdentity changed{"a model", "after a change"};
  EXPECT_FALSE(finds(*cache, changed));
  write(*cache, changed);  // takes the place of the other
  write(*cache, changed);
  EXPECT_TRUE(finds(*cache, changed));
  EXPECT_FALSE(finds(*cache, model_));
  EXPECT_EQ(files().size(), 1u);
}

// Any byte that is not what was written, and any other length, is noticed.
TEST_F(PackedCacheTest, DamagedFilesAreNotUsed) {
  const auto cache = open();
  write(*cache, model_);
  ASSERT_EQ(files().size(), 1u);
  const std::string path = files()[0];
  std::ifstream in(path, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  const auto put = [&](const std::string& bytes) {
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
    fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  };
  std::vector<size_t> places;
  for (size_t at = 0; at < 400; at += 3) places.push_back(at);  // the header, records, checksums
  size_t first = 4096;                                          // parts; between and behind them are zeros
  for (const auto& content : contents_) {
    if (!content.empty()) places.push_back(first), places.push_back(first + content.size() - 1);
    first = (first + content.size() + 63) / 64 * 64;
  }
  const size_t used = 88 + contents_.size() * 24 + 7 * 8;  // header, records, checksums of 1 + 4 + 0 + 1 + 1 chunks
  for (const size_t at : places) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    put(bad);
    const bool padding = at >= used && at < 4096;
    EXPECT_EQ(finds(*cache, model_), padding) << at;
  }
  for (const size_t length : {size_t{0}, size_t{50}, size_t{88}, size_t{4096}, good.size() / 2, good.size() - 1}) {
    put(good.substr(0, length));
    EXPECT_FALSE(finds(*cache, model_)) << length;
  }
  put(good + "x");
  EXPECT_FALSE(finds(*cache, model_));
  put(good);
  EXPECT_TRUE(finds(*cache, model_));
  put(good);
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write | fs::perms::others_write);
  EXPECT_FALSE(finds(*cache, model_)) << "others can have written it";
}

TEST_F(PackedCacheTest, ACutFileIsToldFromZeros) {
  const auto cache = open();
  write(*cache, model_);
  auto cut = MappedFile::open(files()[0]);  // which nobody moves into memory
  ASSERT_TRUE(cut.ok());
  ASSERT_EQ(::truncate(files()[0].c_str(), 4096), 0);
  EXPECT_EQ(cut->bytes()[500'000], std::byte{0});
  EXPECT_FALSE(cut->move_into_memory(0));
  const Status damaged = cut->check_pages();
  ASSERT_FALSE(damaged.ok());
  EXPECT_NE(damaged.error().message().find(files()[0]), std::string::npos);
}

std::string maps() {
  std::ifstream file("/proc/self/maps");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Whoever reads meanwhile sees nothing of it, and in the end nothing of the file is mapped.
TEST_F(PackedCacheTest, MovesIntoLargePagesUnderItsReaders) {
  std::vector<std::byte> large(size_t{9'000'001});
  std::mt19937 random(8);
  for (std::byte& byte : large) byte = static_cast<std::byte>(random());
  contents_.push_back(std::move(large));
  const auto cache = open();
  write(*cache, model_);
  const auto found = cache->find(model_, team_, 0, 0);
  ASSERT_TRUE(found);
  if (!found->mover) GTEST_SKIP() << "no large pages";
  std::atomic<bool> right{true};
  team_.run([&](int) {
    for (int i = 0; i < 2000 && maps().find(folder_.string()) != std::string::npos; ++i)
      for (size_t p = 0; p < contents_.size(); ++p)
        if (!std::ranges::equal(found->parts[p].bytes, contents_[p])) right = false;
  });
  EXPECT_TRUE(right);
  EXPECT_EQ(maps().find(folder_.string()), std::string::npos);
  ASSERT_EQ(::truncate(files()[0].c_str(), 0), 0);
  for (size_t p = 0; p < contents_.size(); ++p) EXPECT_TRUE(std::ranges::equal(found->parts[p].bytes, contents_[p]));
  EXPECT_TRUE(found->file->check_pages().ok());
}

TEST_F(PackedCacheTest, TheLeastRecentlyUsedGoes) {
  int64_t each = 0;
  {
    const auto cache = open();
    write(*cache, model_);
    each = static_cast<int64_t>(fs::file_size(files()[0]));
  }
  const auto cache = open(each * 2 + each / 2);
  const PackedIdentity second{"second", ""}, third{"third", ""};
  write(*cache, second);
  const auto age = [&](const std::string& path, int minutes) {
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::minutes(minutes));
  };
  for (const std::string& path : files()) age(path, 10);
  EXPECT_TRUE(finds(*cache, model_));  // used now
  write(*cache, third);
  EXPECT_TRUE(finds(*cache, model_));
  EXPECT_FALSE(finds(*cache, second));
  EXPECT_TRUE(finds(*cache, third));
  const auto small = open(each - 1);
  write(*small, {"fourth", ""});
  EXPECT_FALSE(finds(*small, {"fourth", ""}));
  EXPECT_TRUE(finds(*small, third)) << "what does not fit removes nothing";
}

// What a killed writer leaves is written over or removed; what another process writes is left alone.
TEST_F(PackedCacheTest, OneWritesAtATime) {
  const auto cache = open();
  write(*cache, model_);
  std::string writing = files()[0];
  writing.replace(writing.rfind('.'), std::string::npos, ".writing");
  fs::remove(files()[0]);
  const auto make = [](const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT_EQ(::write(fd, "half", 4), 4);
    return fd;
  };
  const int fd = make(writing);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  write(*cache, model_);
  EXPECT_FALSE(finds(*cache, model_)) << "another process is at it";
  EXPECT_EQ(fs::file_size(writing), 4u);
  ::close(fd);
  const std::string left = (folder_ / "0123.writing").string();
  ::close(make(left));
  write(*cache, model_);
  EXPECT_TRUE(finds(*cache, model_));
  EXPECT_FALSE(fs::exists(writing));
  EXPECT_FALSE(fs::exists(left));
}

TEST_F(PackedCacheTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_.string()) << "a file";
  const auto cache = PackedCache::open(folder_.string(), 0, LoadMode::mmap);
  ASSERT_FALSE(cache.ok());
  EXPECT_NE(cache.error().message().find(folder_.string()), std::string::npos);
}

}  // namespace
}  // namespace weft
