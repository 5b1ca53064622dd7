// What a client can make the HTTP transport do, bounded: the limits, and the one table of their names, options and
// effects, from which the command line and docs/limits.md are made.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace weft {

struct HttpLimits {
  size_t head_bytes = size_t{32} << 10;  // request line and headers
  int head_fields = 128;
  size_t body_bytes = size_t{32} << 20;       // of one request
  size_t all_body_bytes = size_t{128} << 20;  // of all requests that are being read or worked on
  size_t body_rate = size_t{1} << 10;         // bytes of a body a second, on average behind body_grace; 0: no limit
  size_t unsent_bytes = size_t{1} << 20;      // of a stream whose client does not read
  int connections = 4096;                     // open at once
  int connections_per_address = 1024;         // of one IPv4 address or IPv6 /64 that is not this machine; 0: no limit
  int handlers = 4;                           // threads that run the handler
  int handlers_per_client = 3;                // of these, one address; 0: all
  int queued = 1024;                          // requests that wait for one
  int answerers = 4;                          // threads that run what handlers post
  std::chrono::milliseconds handler{30'000};  // of a handler, and of a request's wait for one; 0: no limit
  std::chrono::milliseconds idle{75'000};     // between requests of a connection
  std::chrono::milliseconds head{15'000};     // from a request's first byte to the end of its head
  std::chrono::milliseconds body{60'000};     // from the end of the head to that of the body
  std::chrono::milliseconds body_grace{10'000};  // no option: so long a body may come as slowly as it likes
  std::chrono::milliseconds write{30'000};       // without the client taking anything
  std::chrono::milliseconds tick{400};           // how often a waiting request looks whether its client is still there
  std::chrono::milliseconds stream_head{5'000};  // Exchange::expect_events()
  std::chrono::milliseconds ping{15'000};        // a comment after this much silence in a stream
  std::chrono::milliseconds drain{20'000};       // after stop(): time for running answers
};

// A limit and its option. Times are options in seconds.
struct HttpLimit {
  std::string_view flag;    // "--max-body-bytes"
  std::string_view bounds;  // what may not be more
  std::string_view status;  // what happens then: "413", "the connection is closed"
  std::variant<int HttpLimits::*, size_t HttpLimits::*, std::chrono::milliseconds HttpLimits::*> member;
  double low, high;  // of the option
};
std::span<const HttpLimit> http_limits();

}  // namespace weft
