// The store of blocks in files: one process, several, and what may be wrong with a folder or a file.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <thread>

#include "base/check.h"
#include "base/count_allocations.h"
#include "base/files.h"
#include "store/file_store.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;

class Folder {
 public:
  Folder() {
    std::string path = (fs::temp_directory_path() / "weft_store_XXXXXX").string();
    WEFT_CHECK(::mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

BlockKey key_of(int number) { return root_key(std::to_string(number)); }

// Differs for every block.
Bytes content_of(int number, size_t bytes) {
  Bytes content(bytes);
  std::mt19937 random(static_cast<uint32_t>(number));
  for (std::byte& byte : content) byte = static_cast<std::byte>(random());
  return content;
}

std::unique_ptr<FileStore> open(const fs::path& folder, int64_t max_bytes = 0, const std::string& identity = "model") {
  auto store = FileStore::open({folder.string(), max_bytes, identity, std::chrono::milliseconds(100)});
  WEFT_CHECK(store.ok()) << store.error().message();
  return std::move(*store);
}

constexpr size_t kBytes = 4096 - kBlockHeaderBytes;  // so that files have 4096

void put(FileStore& store, int number) {
  const Status status = store.write(0, key_of(number), content_of(number, kBytes));
  EXPECT_TRUE(status.ok()) << status.error().message();
}

// Whether the block is there; what is read must be right.
bool get(FileStore& store, int number, size_t bytes = kBytes) {
  Bytes found(bytes);
  if (!store.read(0, key_of(number), found)) return false;
  EXPECT_EQ(found, content_of(number, bytes));
  return true;
}

std::vector<fs::path> files_of(const fs::path& folder) {  // of blocks
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && parse_block_file_name(entry.path().filename().string()))
      files.push_back(entry.path());
  }
  return files;
}

int64_t bytes_of(const fs::path& folder) {
  int64_t bytes = 0;
  for (const fs::path& file : files_of(folder)) bytes += static_cast<int64_t>(fs::file_size(file));
  return bytes;
}

fs::path file_of(const fs::path& folder, int number) {
  for (const fs::path& file : files_of(folder)) {
    if (file.filename().string() == block_file_name({0, key_of(number)})) return file;
  }
  return {};
}

void make_older(const fs::path& file, std::chrono::seconds by) {
  fs::last_write_time(file, fs::file_time_type::clock::now() - by);
}

TEST(BlockFileName, ThereAndBack) {
  const BlockId id{12, key_of(5)};
  const std::string name = block_file_name(id);
  EXPECT_EQ(parse_block_file_name(name), id);
  const std::string key = id.key.hex();
  for (const std::string& wrong : {std::string(), key, key + "-", key + "-x", key + "-1x", key + "-01", key + "+1",
                                   key.substr(1) + "-1", "G" + key.substr(1) + "-1", "-" + key.substr(1) + "-1"}) {
    EXPECT_FALSE(parse_block_file_name(wrong)) << wrong;
  }
}

TEST(FileStore, GivesBackWhatWasWritten) {
  Folder folder;
  auto store = open(folder.path() / "new" / "folder");
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{3} << 20}) {
    const int number = static_cast<int>(bytes);
    const Bytes content = content_of(number, bytes);
    EXPECT_FALSE(store->has(0, key_of(number)));
    EXPECT_FALSE(get(*store, number, bytes));
    ASSERT_TRUE(store->write(0, key_of(number), content).ok());
    ASSERT_TRUE(store->write(0, key_of(number), content).ok());  // is there already
    EXPECT_TRUE(store->has(0, key_of(number)));
    EXPECT_FALSE(store->has(1, key_of(number)));
    EXPECT_TRUE(get(*store, number, bytes));
  }
  const StoreMetrics metrics = store->metrics();
  EXPECT_EQ(metrics.blocks, 4);
  EXPECT_EQ(metrics.writes, 4);
  EXPECT_EQ(metrics.hits, 4);
  EXPECT_EQ(metrics.misses, 4);
  EXPECT_EQ(metrics.bytes, bytes_of(folder.path()));
  EXPECT_EQ(metrics.bytes, metrics.written_bytes + 4 * kBlockHeaderBytes);
  EXPECT_EQ(metrics.read_bytes, metrics.written_bytes);
  EXPECT_EQ(metrics.write_errors + metrics.torn + metrics.evicted + metrics.skipped_writes, 0);
}

TEST(FileStore, GroupsAreApart) {
  Folder folder;
  auto store = open(folder.path());
  for (int group = 0; group < 3; ++group) ASSERT_TRUE(store->write(group, key_of(1), content_of(group, 100)).ok());
  for (int group = 0; group < 3; ++group) {
    Bytes found(100);
    ASSERT_TRUE(store->read(group, key_of(1), found));
    EXPECT_EQ(found, content_of(group, 100));
  }
}

TEST(FileStore, OutlivesItsProcessAndIsItsOwnersAlone) {
  Folder folder;
  const fs::path path = folder.path() / "store";
  for (int i = 0; i < 20; ++i) put(*open(path, 0, "a model\nisa avx2"), i);
  auto store = open(path, 0, "a model\nisa avx2");
  EXPECT_EQ(store->metrics().blocks, 20);
  EXPECT_EQ(store->metrics().bytes, 20 * 4096);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(store->has(0, key_of(i)) && get(*store, i)) << i;
  bool described = false;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    EXPECT_EQ(entry.status().permissions(),
              entry.is_directory() ? fs::perms::owner_all : fs::perms::owner_read | fs::perms::owner_write)
        << entry.path();
    if (entry.path().filename() != kDescriptionName) continue;
    described = true;
    EXPECT_NE(read_file(entry.path().string())->find("a model\nisa avx2\n"), std::string::npos);
  }
  EXPECT_TRUE(described);
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_all);
  EXPECT_TRUE(fs::is_empty(path / "tmp"));
}

// Every byte of a small file, then some of the ways in which files end too soon or too late.
TEST(FileStore, DamagedFilesAreNeverUsed) {
  Folder folder;
  auto store = open(folder.path());
  constexpr size_t kSmall = 50;
  int64_t torn = 0;
  const auto expect_torn = [&](const std::function<void(std::string&)>& damage) {
    ASSERT_TRUE(store->write(0, key_of(1), content_of(1, kSmall)).ok());
    ASSERT_TRUE(get(*store, 1, kSmall));
    const fs::path file = file_of(folder.path(), 1);
    std::string bytes = *read_file(file.string());
    damage(bytes);
    std::ofstream(file, std::ios::binary) << bytes;
    EXPECT_FALSE(get(*store, 1, kSmall));
    EXPECT_FALSE(store->has(0, key_of(1)));
    EXPECT_FALSE(fs::exists(file));
    EXPECT_EQ(store->metrics().torn, ++torn);
  };
  for (size_t at = 0; at < kSmall + kBlockHeaderBytes; ++at) expect_torn([&](std::string& bytes) { bytes[at] ^= 4; });
  for (const size_t size : {size_t{0}, size_t{1}, size_t{127}, size_t{128}, kSmall + 127, kSmall + 129})
    expect_torn([&](std::string& bytes) { bytes.resize(size); });
  expect_torn([](std::string& bytes) { std::fill(bytes.begin(), bytes.end(), '\0'); });  // after a loss of power
}

TEST(FileStore, FilesOfOtherBlocksAreNeverUsed) {
  Folder folder;
  auto store = open(folder.path()), other = open(folder.path(), 0, "other model");
  put(*other, 1);
  EXPECT_FALSE(store->has(0, key_of(1)));
  EXPECT_FALSE(get(*store, 1));
  put(*store, 2), put(*store, 3);
  EXPECT_EQ(store->metrics().bytes, 3 * 4096);
  const fs::path foreign = file_of(folder.path(), 1), two = file_of(folder.path(), 2),
                 three = file_of(folder.path(), 3);
  fs::copy_file(three, two, fs::copy_options::overwrite_existing);  // another key
  EXPECT_FALSE(get(*store, 2));
  const fs::path mine = three.parent_path().parent_path() / foreign.parent_path().filename() / foreign.filename();
  fs::create_directories(mine.parent_path());
  fs::copy_file(foreign, mine);  // the right key, another model
  EXPECT_TRUE(store->has(0, key_of(1)));
  EXPECT_FALSE(get(*store, 1));
  EXPECT_EQ(store->metrics().torn, 2);
  EXPECT_TRUE(get(*other, 1));
  Bytes larger(kBytes + 1);
  EXPECT_FALSE(store->read(0, key_of(3), larger));  // the wrong size
  EXPECT_EQ(store->metrics().torn, 3);
  EXPECT_FALSE(get(*store, 3));
}

TEST(FileStore, SeesWhatOthersWriteAndEvict) {
  Folder folder;
  auto one = open(folder.path()), two = open(folder.path());
  put(*one, 1);
  EXPECT_TRUE(two->has(0, key_of(1)));
  EXPECT_TRUE(get(*two, 1));
  put(*two, 1);
  EXPECT_EQ(two->metrics().writes, 0);
  fs::remove(file_of(folder.path(), 1));
  EXPECT_FALSE(get(*one, 1));
  EXPECT_FALSE(one->has(0, key_of(1)));
  put(*two, 1);
  EXPECT_EQ(two->metrics().writes, 1);
  EXPECT_TRUE(get(*one, 1));
}

TEST(FileStore, EvictsTheLeastRecentlyUsed) {
  Folder folder;
  auto store = open(folder.path(), 32 * 4096);
  for (int i = 0; i < 32; ++i) put(*store, i);
  EXPECT_EQ(store->metrics().evicted, 0);
  for (int i = 0; i < 32; ++i) make_older(file_of(folder.path(), i), std::chrono::seconds(1000 - i));
  EXPECT_TRUE(get(*store, 0));  // used again
  put(*store, 1);               // and so
  put(*store, 100);             // needs one block; two (a sixteenth) are left free
  EXPECT_EQ(store->metrics().evicted, 3);
  for (int i : {2, 3, 4}) EXPECT_FALSE(store->has(0, key_of(i)) || get(*store, i)) << i;
  for (int i : {0, 1, 5, 31, 100}) EXPECT_TRUE(get(*store, i)) << i;
  EXPECT_EQ(store->metrics().bytes, 30 * 4096);
  EXPECT_EQ(bytes_of(folder.path()), 30 * 4096);
  EXPECT_EQ(store->metrics().blocks, 30);
}

TEST(FileStore, AUseIsNotedOnceAMinute) {
  Folder folder;
  auto store = open(folder.path());
  put(*store, 1);
  const fs::path file = file_of(folder.path(), 1);
  make_older(file, std::chrono::seconds(30));
  const auto before = fs::last_write_time(file);
  EXPECT_TRUE(get(*store, 1));
  EXPECT_EQ(fs::last_write_time(file), before);
  for (const int age : {100, -100}) {  // also one from the future
    make_older(file, std::chrono::seconds(age));
    EXPECT_TRUE(get(*store, 1));
    EXPECT_LT(std::chrono::abs(fs::file_time_type::clock::now() - fs::last_write_time(file)), std::chrono::seconds(20));
  }
}

TEST(FileStore, TheLimitIsForAllIdentities) {
  Folder folder;
  auto old = open(folder.path(), 0, "old model");
  for (int i = 0; i < 20; ++i) put(*old, i);
  for (const fs::path& file : files_of(folder.path())) make_older(file, std::chrono::seconds(500));
  auto store = open(folder.path(), 16 * 4096);
  for (int i = 0; i < 40; ++i) {
    put(*store, i);
    EXPECT_LE(bytes_of(folder.path()), 16 * 4096);
  }
  EXPECT_TRUE(get(*store, 39));
  // Nothing is left of the old model, and yet its next write succeeds.
  const auto identities = [&] {
    std::set<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(folder.path()))
      if (entry.path().filename().string().size() == 32) folders.insert(entry.path());
    return folders;
  };
  EXPECT_EQ(identities().size(), 1u);
  put(*old, 7);
  EXPECT_EQ(identities().size(), 2u);
  for (const fs::path& path : identities()) EXPECT_TRUE(fs::exists(path / kDescriptionName));
  EXPECT_TRUE(get(*old, 7));
  EXPECT_EQ(store->metrics().bytes, bytes_of(folder.path()));
}

TEST(FileStore, WhatIsLargerThanTheLimitIsRefused) {
  Folder folder;
  auto store = open(folder.path(), 4095);
  const Status status = store->write(0, key_of(1), content_of(1, kBytes));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), Code::resource_exhausted);
  EXPECT_NE(status.error().message().find(folder.path().string()), std::string::npos);
  EXPECT_EQ(store->metrics().bytes, 0);
  EXPECT_TRUE(fs::is_empty(folder.path() / "tmp"));
}

// A limit of the process on the size of files stands for a full disk.
TEST(FileStore, AFullDiskPausesWrites) {
  Folder folder;
  auto store = open(folder.path());
  put(*store, 1);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{2048, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status first = store->write(0, key_of(2), content_of(2, kBytes));
  const Status second = store->write(0, key_of(2), content_of(2, kBytes));
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  const Status third = store->write(0, key_of(2), content_of(2, kBytes));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(first.ok());
  EXPECT_EQ(first.error().code(), Code::resource_exhausted);
  EXPECT_NE(first.error().message().find(folder.path().string()), std::string::npos) << first.error().message();
  EXPECT_TRUE(second.ok());
  EXPECT_FALSE(third.ok());
  EXPECT_TRUE(get(*store, 1));  // reads go on
  EXPECT_FALSE(store->has(0, key_of(2)));
  EXPECT_EQ(store->metrics().write_errors, 2);
  EXPECT_EQ(store->metrics().skipped_writes, 1);
  EXPECT_EQ(store->metrics().bytes, 4096);
  EXPECT_TRUE(fs::is_empty(folder.path() / "tmp"));
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  put(*store, 2);
  EXPECT_TRUE(get(*store, 2));
}

// Wherever memory runs out in a write: what is accounted for is what is there.
TEST(FileStore, AWriteWithoutMemoryLeavesNothingAccountedFor) {
  constexpr int kHeld = 8;
  for (const int64_t limit : {int64_t{0}, int64_t{kHeld} * 4096}) {  // with a limit every write evicts
    Folder folder;
    auto store = open(folder.path(), limit);
    for (int i = 0; i < kHeld; ++i) put(*store, i);
    uint64_t n = 0;
    for (bool failed = true; failed;) {
      ++n;
      const BlockKey key = key_of(100 + static_cast<int>(n));
      const Bytes content = content_of(static_cast<int>(n), kBytes);
      try {
        const FailingAllocations failing(n);
        EXPECT_TRUE(store->write(0, key, content).ok());
        failed = false;
      } catch (const std::bad_alloc&) {
      }
      EXPECT_EQ(store->metrics().bytes, bytes_of(folder.path())) << "allocation " << n << ", limit " << limit;
      EXPECT_TRUE(fs::is_empty(folder.path() / "tmp"));
    }
    EXPECT_GT(n, limit > 0 ? 20u : 5u) << "allocations of a write";
    EXPECT_TRUE(store->has(0, key_of(100 + static_cast<int>(n))));
  }
}

TEST(FileStore, WithoutDescriptorsBlocksAreMissedAndStay) {
  Folder folder;
  auto store = open(folder.path());
  put(*store, 1);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool found = get(*store, 1);
  const Status written = store->write(0, key_of(2), content_of(2, kBytes));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(found);
  ASSERT_FALSE(written.ok());
  EXPECT_NE(written.error().message().find("Too many open files"), std::string::npos) << written.error().message();
  EXPECT_TRUE(get(*store, 1));
}

TEST(FileStore, FoldersThatCannotBeUsed) {
  Folder folder;
  const auto error_of = [](const std::string& path, int64_t max_bytes = 0) {
    auto store = FileStore::open({path, max_bytes, "model"});
    return store.ok() ? std::string() : store.error().message();
  };
  std::ofstream(folder.path() / "file") << "x";
  for (const char* name : {"file", "file/below"}) {
    const std::string path = (folder.path() / name).string(), error = error_of(path);
    EXPECT_NE(error.find((folder.path() / "file").string()), std::string::npos) << error;
  }
  EXPECT_NE(error_of(""), "");
  EXPECT_NE(error_of((folder.path() / "x").string(), -1), "");
  EXPECT_NE(error_of("/proc/weft/store").find("/proc/weft"), std::string::npos);
}

TEST(FileStore, ReadOnlyFolder) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  Folder folder;
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
  auto store = FileStore::open({folder.path().string(), 0, "model"});
  fs::permissions(folder.path(), fs::perms::owner_all);
  ASSERT_FALSE(store.ok());
  EXPECT_NE(store.error().message().find(folder.path().string()), std::string::npos);
  EXPECT_NE(store.error().message().find("Permission denied"), std::string::npos) << store.error().message();
}

// Somebody else may have put blocks of their own making there.
TEST(FileStore, OtherUsersFoldersAreNotUsed) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files to others";
  Folder folder;
  put(*open(folder.path()), 1);
  fs::permissions(folder.path(), fs::perms::all);
  EXPECT_TRUE(get(*open(folder.path()), 1));
  const std::string identity = file_of(folder.path(), 1).parent_path().parent_path().string();
  ASSERT_EQ(::chown(identity.c_str(), 12345, 12345), 0);
  auto store = FileStore::open({folder.path().string(), 0, "model"});
  ASSERT_FALSE(store.ok());
  EXPECT_NE(store.error().message().find(identity), std::string::npos);
}

TEST(FileStore, OldTemporaryFilesAreRemovedAndOtherFilesLeftAlone) {
  Folder folder;
  put(*open(folder.path()), 1);
  const fs::path old = folder.path() / "tmp" / "1-1", young = folder.path() / "tmp" / "1-2";
  const fs::path note = folder.path() / "note", inner = file_of(folder.path(), 1).parent_path() / "note";
  for (const fs::path& file : {old, young, note, inner}) std::ofstream(file) << std::string(500, 'x');
  for (const fs::path& file : {old, note, inner}) make_older(file, std::chrono::hours(10));
  auto store = open(folder.path(), 4 * 4096);
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(young));  // may be in the making
  EXPECT_EQ(store->metrics().bytes, 4096 + 500);
  for (int i = 0; i < 20; ++i) put(*store, i);
  EXPECT_GT(store->metrics().evicted, 10);
  EXPECT_TRUE(fs::exists(note) && fs::exists(inner));
}

TEST(FileStore, AFolderThatIsRemovedIsMadeAgain) {
  Folder folder;
  auto store = open(folder.path() / "store");
  put(*store, 1);
  for (const auto& entry : fs::directory_iterator(folder.path() / "store")) fs::remove_all(entry.path());
  EXPECT_FALSE(get(*store, 1));
  EXPECT_FALSE(store->write(0, key_of(2), content_of(2, kBytes)).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  put(*store, 2);
  EXPECT_TRUE(get(*store, 2));
}

// What a process of the next test does for a while. Returns how often it found blocks, or -1 if one was wrong.
int work(const fs::path& folder, int seed, int64_t max_bytes, std::chrono::milliseconds time) {
  auto store = open(folder, max_bytes);
  std::atomic<int> found = 0, faults = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 2; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(static_cast<uint32_t>(seed * 2 + thread));
      const auto end = std::chrono::steady_clock::now() + time;
      while (std::chrono::steady_clock::now() < end) {
        const int number = static_cast<int>(random() % 100);
        const size_t bytes = static_cast<size_t>(10000 + number * 100);
        Bytes content(bytes);
        if (random() % 2 == 0) {
          if (!store->write(0, key_of(number), content_of(number, bytes)).ok()) ++faults;
        } else if (store->read(0, key_of(number), content)) {
          ++found;
          if (content != content_of(number, bytes)) ++faults;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (store->metrics().torn > 0 || store->metrics().evicted == 0) ++faults;
  return faults > 0 ? -1 : found.load();
}

TEST(FileStore, ProcessesShareAFolder) {
  Folder folder;
  constexpr int64_t kLimit = 60 * 15000;
  std::vector<pid_t> processes;
  for (int i = 0; i < 3; ++i) {
    const pid_t process = ::fork();
    ASSERT_GE(process, 0);
    if (process == 0) ::_exit(work(folder.path(), i, kLimit, std::chrono::milliseconds(1000)) > 20 ? 0 : 1);
    processes.push_back(process);
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(900);
  while (std::chrono::steady_clock::now() < end) {  // nobody evicts while stock is taken, and yet the limit is kept
    Stock stock;
    auto shared = SharedFolder::open(folder.path().string(), kLimit, stock);
    ASSERT_TRUE(shared.ok()) << shared.error().message();
    int64_t bytes = 0;
    for (const StoredBlock& block : stock.blocks) bytes += block.bytes;
    EXPECT_LE(bytes, kLimit);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (const pid_t process : processes) {
    int status = 0;
    ASSERT_EQ(::waitpid(process, &status, 0), process);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_LE(bytes_of(folder.path()), kLimit);
  EXPECT_TRUE(fs::is_empty(folder.path() / "tmp"));
  int64_t counted = 0;
  std::ifstream(folder.path() / "usage", std::ios::binary).read(reinterpret_cast<char*>(&counted), sizeof counted);
  EXPECT_GE(counted, bytes_of(folder.path()));
  auto store = open(folder.path(), kLimit);
  EXPECT_EQ(store->metrics().bytes, bytes_of(folder.path()));
  EXPECT_GT(store->metrics().blocks, 10);
}

TEST(FileStore, AKilledProcessLeavesNoHalfBlock) {
  Folder folder;
  for (int round = 0; round < 5; ++round) {
    const pid_t process = ::fork();
    ASSERT_GE(process, 0);
    if (process == 0) {
      auto store = open(folder.path(), 20 << 20);
      for (int i = 0;; ++i) static_cast<void>(store->write(0, key_of(i % 100), content_of(i % 100, 500000)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 17 * round));
    ::kill(process, SIGKILL);
    ASSERT_EQ(::waitpid(process, nullptr, 0), process);
  }
  auto store = open(folder.path(), 20 << 20);
  int found = 0;
  for (int i = 0; i < 100; ++i) found += get(*store, i, 500000);
  EXPECT_EQ(store->metrics().torn, 0);
  EXPECT_EQ(found, store->metrics().blocks);
}

}  // namespace
}  // namespace weft
