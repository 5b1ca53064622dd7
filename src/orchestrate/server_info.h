// What a server says about itself (GET /server_info).
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"
#include "core/option_kinds.h"

namespace weft {

struct ServerInfo {
  std::string version;
  std::string instance;  // another one after each start
  ServerRole role = ServerRole::both;
  std::string model;     // its name in requests
  std::string identity;  // of the model and how it is computed
  std::string transfer;  // where blocks of its cache are had; empty: nowhere
  bool generative = true;
  int tokens_per_block = 0;
  int64_t kv_cache_events = 0;  // that it keeps; 0: it has none to tell
  // sequences, and blocks of the cache
  int64_t running = 0, waiting = 0, kv_used = 0, kv_total = 0;
};

// An address that others reach: where a server listens at all of its addresses ("0.0.0.0:9100", "[::]:9100"), that of
// the host that it is known by.
std::string reachable_address(const std::string& transfer, const std::string& host);
// Errors name the member that is absent or wrong.
Result<ServerInfo> read_server_info(const Json& answer);

}  // namespace weft
