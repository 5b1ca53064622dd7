// The output of `weft batch`: what became of a request, its line (docs/contract.md), and the file of lines. Answers of
// an engine in this process and of a server meet here, so that the lines are the same.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/engine.h"
#include "base/files.h"
#include "requests_file.h"

namespace weft {

struct BatchChoice {
  std::string text, finish_reason;
  std::vector<TokenInfo> tokens;
  std::vector<float> logits;
  Json stop_reason;
};

struct BatchOutcome {
  std::vector<BatchChoice> choices;
  std::shared_ptr<const std::vector<TokenInfo>> prompt;
  std::shared_ptr<const std::vector<float>> prompt_logits;
  size_t vocab = 0;  // values in a row of logits
  Usage usage;
  uint64_t seed = 0;
  std::vector<std::string> warnings;
  std::optional<Error> error;
};

// With the line's end.
std::string output_line(const RequestLine& line, const BatchOutcome& outcome);

// Lines go to OUT.part as they are ready, in order; the file gets its name when all are there. "-" or nothing: standard
// output. Ended early, OUT.part stays with the lines so far, or goes if there are none.
class BatchOutput {
 public:
  static Result<BatchOutput> open(const std::string& path);
  BatchOutput(BatchOutput&& other) noexcept
      : path_(std::move(other.path_)), place_(std::move(other.place_)), file_(std::exchange(other.file_, nullptr)),
        lines_(other.lines_) {}
  ~BatchOutput();
  Status write(const std::string& line);
  Status finish();
  // The error that ended a command, with what there is of the output, which would have had `all` lines.
  Error ended_by(Error error, size_t all) const;

 private:
  BatchOutput() = default;
  std::string path_;
  OutputPlace place_;
  std::FILE* file_ = nullptr;
  size_t lines_ = 0;
};

}  // namespace weft
