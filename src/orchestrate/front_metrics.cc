// See the header.
#include "orchestrate/front_metrics.h"

#include <cctype>

namespace weft {

using namespace prometheus;

FrontMetrics::FrontMetrics()
    : first_byte_({0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320}) {}

void FrontMetrics::count_response(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[{route, status}];
}

void FrontMetrics::count_retry() {
  const std::lock_guard lock(mutex_);
  ++retries_;
}

void FrontMetrics::count_routed(int64_t prompt_tokens, int64_t cached_tokens) {
  const std::lock_guard lock(mutex_);
  ++routed_, prompt_tokens_ += prompt_tokens, cached_tokens_ += cached_tokens;
}

void FrontMetrics::observe_first_byte(double seconds) {
  const std::lock_guard lock(mutex_);
  first_byte_.observe(seconds);
}

std::string FrontMetrics::prometheus(const std::vector<ServerStatus>& servers, int connections) const {
  std::string out;
  const auto each = [&](const char* name, const char* type, const char* help, auto value) {
    describe(out, name, type, help);
    for (const ServerStatus& server : servers)
      out += std::string(name) + "{server=\"" + label(server.url) + "\",role=\"" + name_of(server.role) + "\"} " +
             number(static_cast<double>(value(server))) + "\n";
  };
  each("weft_front_server_up", kGauge, "Whether the server gets requests.",
       [](const ServerStatus& s) { return s.state == ServerState::up; });
  each("weft_front_server_in_flight", kGauge, "Requests of this front that the server has.",
       [](const ServerStatus& s) { return s.in_flight; });
  each("weft_front_server_load_tokens", kGauge, "Tokens that the server has still to compute, about.",
       [](const ServerStatus& s) { return s.load; });
  each("weft_front_server_requests_total", kCounter, "Requests that went to the server.",
       [](const ServerStatus& s) { return s.requests; });
  each("weft_front_server_failures_total", kCounter, "Of these, those that it did not answer.",
       [](const ServerStatus& s) { return s.failures; });
  each("weft_front_server_cached_blocks", kGauge, "Blocks that are known to be in the server's cache.",
       [](const ServerStatus& s) { return s.cached_blocks; });
  each("weft_front_server_lost_events_total", kCounter, "Events of the server's cache that came too late.",
       [](const ServerStatus& s) { return s.lost_events; });
  print(out, "http_connections", kGauge, "Open connections.", connections);
  const std::lock_guard lock(mutex_);
  print(out, "front_retries_total", kCounter, "Times that a request went to another server.",
        static_cast<double>(retries_));
  print(out, "front_routed_prompts_total", kCounter, "Prompts that a server was chosen for by their blocks.",
        static_cast<double>(routed_));
  print(out, "front_routed_prompt_tokens_total", kCounter, "Tokens of these.", static_cast<double>(prompt_tokens_));
  print(out, "front_routed_cached_tokens_total", kCounter,
        "Tokens of these that the chosen servers had in their caches.", static_cast<double>(cached_tokens_));
  describe(out, "weft_http_requests_total", kCounter, "Responses by route and status.");
  for (const auto& [key, count] : responses_)
    out += "weft_http_requests_total{path=\"" + label(key.first) + "\",status=\"" + std::to_string(key.second) +
           "\"} " + std::to_string(count) + "\n";
  first_byte_.print("weft_front_first_byte_seconds", "Time from a request to the first byte of its answer.", out);
  return out;
}

namespace {

// "name{a="b"} 1" with one label more.
std::string with_server(std::string_view sample, const std::string& label_text) {
  size_t end = 0;
  while (end < sample.size() &&
         (std::isalnum(static_cast<unsigned char>(sample[end])) || sample[end] == '_' || sample[end] == ':'))
    ++end;
  std::string text(sample.substr(0, end));
  if (end < sample.size() && sample[end] == '{') {
    const bool others = end + 1 < sample.size() && sample[end + 1] != '}';
    return text + "{" + label_text + (others ? "," : "") + std::string(sample.substr(end + 1));
  }
  return text + "{" + label_text + "}" + std::string(sample.substr(end));
}

struct Family {
  std::string comments, samples;
};

}  // namespace

std::string merge_metrics(const std::vector<std::pair<std::string, std::string>>& text_by_url) {
  std::vector<std::pair<std::string, Family>> families;  // by name, in the order in which they came
  const auto family_named = [&](const std::string& name) -> Family& {
    for (auto& [known, family] : families)
      if (known == name) return family;
    return families.emplace_back(name, Family()).second;
  };
  for (const auto& [url, text] : text_by_url) {
    const std::string server = "server=\"" + label(url) + "\"";
    std::string name;    // of the family whose lines these are
    bool first = false;  // the first server that has it
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const std::string line = text.substr(begin, end - begin);
      begin = end + 1;
      if (line.starts_with("# HELP ")) {
        name = line.substr(7, line.find(' ', 7) - 7);
        first = family_named(name).comments.empty();
      }
      if (line.empty()) continue;
      Family& family = family_named(name);
      if (line[0] != '#') family.samples += with_server(line, server) + "\n";
      else if (first) family.comments += line + "\n";
    }
  }
  std::string out;
  for (const auto& [name, family] : families) out += family.comments + family.samples;
  return out;
}

}  // namespace weft
