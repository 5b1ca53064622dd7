// What a fuzz target is: inputs that it takes as they are, from which others are made, and one function that reads any
// bytes. Each target is one file; driver.cc runs it with every compiler, libfuzzer.cc under clang's libFuzzer.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/result.h"

// Inputs of a few hundred bytes that reach the parser's parts.
std::vector<std::string> fuzz_seeds();
// Words of the language, which are put into inputs; may be empty.
std::vector<std::string> fuzz_words();
// Puts right what stands in front of the parser, a checksum above all, so that changed inputs reach it.
void mend(std::string& input);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace weft {

// What must hold for every input. The input that breaks it is kept by the driver, or by libFuzzer.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// An error is something that can be shown to whoever sent the input: it says something, and is no book.
inline void require_message(const Error& error) {
  require(!error.message().empty(), "an error says what is wrong");
  require(error.message().size() < 64 * 1024, "an error's text is bounded");
}

// A copy of just these bytes, so that the sanitizers see reading behind them.
inline std::string copy_of(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// Takes the first byte of the input as a choice of `count`; 0 for an empty one.
inline unsigned take_choice(std::string& input, unsigned count) {
  if (input.empty()) return 0;
  const unsigned choice = static_cast<uint8_t>(input.front()) % count;
  input.erase(0, 1);
  return choice;
}

// A file of tests/data; a target without its seeds is a mistake of the build.
inline std::string seed_file(const std::string& name, size_t most = SIZE_MAX) {
  auto read = read_file(std::string(WEFT_TEST_DATA) + "/" + name);
  if (!read.ok()) {
    std::fprintf(stderr, "%s\n", read.error().to_string().c_str());
    std::exit(2);
  }
  if (read->size() > most) read->resize(most);
  return *std::move(read);
}

// A folder for parsers that take files; in memory where the machine has that, and removed at the end.
class FuzzFolder {
 public:
  FuzzFolder() {
    const bool memory = std::filesystem::is_directory("/dev/shm");
    path_ = ((memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path()) /
             ("weft-fuzz-" + std::to_string(::getpid())))
                .string();
    std::filesystem::create_directories(path_);
  }
  ~FuzzFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  FuzzFolder(const FuzzFolder&) = delete;
  FuzzFolder& operator=(const FuzzFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Written in place: a rename for each of a million inputs takes longer than reading them.
  std::string put(const std::string& name, std::string_view content) const {
    FILE* to = std::fopen(file(name).c_str(), "wb");
    require(to && std::fwrite(content.data(), 1, content.size(), to) == content.size(), "the folder can be written");
    std::fclose(to);
    return file(name);
  }

 private:
  std::string path_;
};

}  // namespace weft
