// Counters and histograms of the server, and the Prometheus text of them and of the engine's numbers.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "api/engine.h"
#include "server/http_server.h"
#include "server/prometheus.h"

namespace weft {

// What one finished request contributes.
struct RequestTimes {
  double total_s = 0, first_token_s = 0;
  Usage usage;
};

// What is seen at the moment.
struct ServerGauges {
  HttpStats http;
  EngineWatch engine;
};

// Any thread.
class ServerMetrics {
 public:
  ServerMetrics();
  void count_response(const std::string& route, int status);
  void count_finished(const RequestTimes& times);
  void count_finish_reason(const std::string& reason);
  std::string prometheus(const ModelInfo& model, const EngineMetrics& engine, const ServerGauges& gauges) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> responses_;  // routes are a fixed set
  std::map<std::string, int64_t> finished_;                   // by finish reason
  Histogram total_, first_token_, per_token_;
};

}  // namespace weft
