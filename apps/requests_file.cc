// See the header.
#include "requests_file.h"

#include <cstdio>
#include <iostream>
#include <iterator>
#include <set>

#include "base/files.h"

namespace weft {

namespace {

constexpr size_t kMaxFile = size_t{8} << 30;

RequestLine read_line(std::string_view text, int number, RequestKind kind, const RequestRules& rules) {
  RequestLine line;
  line.number = number;
  const auto json = parse_json(text);
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
  return line;
}

}  // namespace

Result<std::vector<RequestLine>> read_requests(const std::string& path, RequestKind kind, const RequestRules& rules) {
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    auto read = read_file(path, kMaxFile);
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
      lines.push_back(read_line(line, number, kind, rules));
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
               line.custom_id.value_or("no custom_id").c_str(), error.message().c_str());
}

}  // namespace weft
