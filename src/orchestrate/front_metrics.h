// Counters of the front of a deployment, and the Prometheus text of them; and the texts of its servers as one.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "orchestrate/server_list.h"
#include "server/prometheus.h"

namespace weft {

// Any thread.
class FrontMetrics {
 public:
  FrontMetrics();
  void count_response(const std::string& route, int status);
  void count_retry();
  // A request with a prompt of so many tokens went to a server that has so many of them in its cache.
  void count_routed(int64_t prompt_tokens, int64_t cached_tokens);
  void observe_first_byte(double seconds);
  std::string prometheus(const std::vector<ServerStatus>& servers, int connections) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> responses_;  // routes are a fixed set
  int64_t retries_ = 0, routed_ = 0, prompt_tokens_ = 0, cached_tokens_ = 0;
  Histogram first_byte_;
};

// The servers' metrics as one text: every sample gets the label server="URL", and the samples of a metric lie together.
std::string merge_metrics(const std::vector<std::pair<std::string, std::string>>& text_by_url);

}  // namespace weft
