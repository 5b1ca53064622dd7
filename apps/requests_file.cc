// See the header.
#include "requests_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/log.h"

namespace weft {

namespace {

constexpr size_t kMaxFile = FileLimit::requests;
constexpr size_t kMaxLine = size_t{256} << 20;

RequestLine read_line(std::string_view text, int number, RequestKind kind, const RequestRules& rules, bool keep_json) {
  RequestLine line;
  line.number = number;
  auto json = parse_json(text);
  if (!json.ok()) {
    line.error = json.error();
    return line;
  }
  if (const Json* id = json->find("custom_id"); id && id->is_string()) line.custom_id = id->as_string();
  auto parsed = parse_request(*json, kind, rules);
  if (!parsed.ok()) {
    line.error = parsed.error();
    return line;
  }
  line.request = std::move(parsed->requests.front());
  line.request->id = line.custom_id.value_or("line " + std::to_string(number));
  line.logprobs = parsed->logprobs;
  line.prompt_logprobs = parsed->prompt_logprobs;
  if (keep_json) line.json = std::move(json).value();
  return line;
}

// A pipe has no size; it is read to its end. A line without one (/dev/zero) is not.
Result<std::string> read_stream(int fd, const std::string& path) {
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  size_t line = 0;  // where the last one begins
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(Code::internal, "cannot read ", path, ": ", std::strerror(errno));
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
    const std::string_view last(text.data() + text.size() - got, static_cast<size_t>(got));
    if (const size_t end = last.rfind('\n'); end != std::string_view::npos) line = text.size() - last.size() + end + 1;
    if (text.size() - line > kMaxLine)
      return fail(Code::invalid_argument, path, " has a line of more than ", kMaxLine, " bytes, the limit");
    if (text.size() > kMaxFile)
      return fail(Code::invalid_argument, path, " has more than ", kMaxFile, " bytes, the limit");
  }
}

Result<std::string> read_pipe(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(Code::invalid_argument, "cannot read ", path, ": ", std::strerror(errno));
  auto text = read_stream(fd, path);
  ::close(fd);
  return text;
}

}  // namespace

Status check_requests_path(const std::string& path) {
  constexpr const char* kWanted =
      "; --requests takes a file or pipe with one JSON object a line, or - for standard input";
  std::error_code error;
  if (path == "-") return {};
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::status_known(status)) return fail(Code::invalid_argument, path, ": ", error.message(), kWanted);
  if (!std::filesystem::exists(status)) return fail(Code::not_found, "no file ", path, kWanted);
  if (std::filesystem::is_directory(status)) return fail(Code::invalid_argument, path, " is a folder", kWanted);
  return {};
}

Result<std::vector<RequestLine>> read_requests(const std::string& path, RequestKind kind, const RequestRules& rules,
                                               bool keep_json) {
  std::string text;
  if (path == "-") {
    WEFT_TRY(text, read_stream(STDIN_FILENO, "standard input"));
  } else {
    auto read = is_file(path) ? read_file(path, kMaxFile) : read_pipe(path);
    if (!read.ok()) return std::move(read).error().with("the file of --requests");
    text = std::move(read).value();
  }
  std::vector<RequestLine> lines;
  int number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos)
      lines.push_back(read_line(line, number, kind, rules, keep_json));
  }
  return lines;
}

void require_names(std::vector<RequestLine>& lines) {
  std::set<std::string> names;
  for (RequestLine& line : lines) {
    if (line.error) continue;
    if (!line.custom_id)
      line.error = fail(Code::invalid_argument, "custom_id is missing; it names the tensors").about("custom_id");
    else if (!names.insert(*line.custom_id).second)
      line.error = fail(Code::invalid_argument, "custom_id occurs twice").about("custom_id");
  }
}

void print_line_error(const std::string& path, const RequestLine& line, const Error& error) {
  std::fprintf(stderr, "weft: %s line %d (%s): %s\n", path.c_str(), line.number,
               log_text(line.custom_id.value_or("no custom_id"), 200).c_str(), log_text(error.message(), 4000).c_str());
}

}  // namespace weft
