// See the header.
#include "server/http_limits.h"

#include <array>

namespace weft {

namespace {

constexpr double kMostBytes = 1LL << 40, kMostSeconds = 1e6, kMostThreads = 256, kMost = 1 << 20;

constexpr std::array kLimits = {
    HttpLimit{"--max-head-bytes", "request line and headers of a request", "431, 414", &HttpLimits::head_bytes, 1024,
              16 << 20},
    HttpLimit{"--max-head-fields", "headers of a request", "431", &HttpLimits::head_fields, 1, kMost},
    HttpLimit{"--max-body-bytes", "body of a request", "413", &HttpLimits::body_bytes, 1, kMostBytes},
    HttpLimit{"--max-all-body-bytes", "bodies of all requests that are being read or answered", "503",
              &HttpLimits::all_body_bytes, 1, kMostBytes},
    HttpLimit{"--max-unsent-bytes", "bytes of a stream that its client has not read", "the stream ends",
              &HttpLimits::unsent_bytes, 1024, kMostBytes},
    HttpLimit{"--max-connections", "connections at once; one that idles makes room for another", "503",
              &HttpLimits::connections, 1, kMost},
    HttpLimit{"--max-connections-per-address",
              "connections at once from an IPv4 address or an IPv6 /64 that is not this machine; 0: no limit", "429",
              &HttpLimits::connections_per_address, 0, kMost},
    HttpLimit{"--handler-threads", "requests that are parsed, tokenized and checked at once", "they wait",
              &HttpLimits::handlers, 1, kMostThreads},
    HttpLimit{"--max-handlers-per-client", "of these, requests of one address; 0: no limit of its own", "they wait",
              &HttpLimits::handlers_per_client, 0, kMostThreads},
    HttpLimit{"--max-queued-requests", "requests that wait for a handler thread", "503", &HttpLimits::queued, 1, kMost},
    HttpLimit{"--answer-threads", "answers that are written as JSON at once", "they wait", &HttpLimits::answerers, 1,
              kMostThreads},
    HttpLimit{"--handler-timeout",
              "to prepare a request until the engine has it, and to wait for a handler thread; 0: no limit", "503",
              &HttpLimits::handler, 0, kMostSeconds},
    HttpLimit{"--idle-timeout", "between two requests of a connection", "the connection is closed", &HttpLimits::idle,
              0.01, kMostSeconds},
    HttpLimit{"--head-timeout", "from a request's first byte to the end of its head", "408", &HttpLimits::head, 0.01,
              kMostSeconds},
    HttpLimit{"--body-timeout", "from the end of a request's head to that of its body", "408", &HttpLimits::body, 0.01,
              kMostSeconds},
    HttpLimit{"--min-body-rate",
              "bytes of a body that must come in a second, on average behind the first 10 s; 0: as few as it likes",
              "fewer: 408", &HttpLimits::body_rate, 0, kMostBytes},
    HttpLimit{"--write-timeout", "without the client taking anything of an answer", "the connection is closed",
              &HttpLimits::write, 0.01, kMostSeconds},
    HttpLimit{"--client-check-interval", "between two looks whether the client of a running request is still there",
              "its work ends", &HttpLimits::tick, 0.01, kMostSeconds},
    HttpLimit{"--stream-head-delay", "until the head of a stream goes out before its first event", "the head is sent",
              &HttpLimits::stream_head, 0.01, kMostSeconds},
    HttpLimit{"--ping-interval", "of silence in a stream", "a comment is sent", &HttpLimits::ping, 0.01, kMostSeconds},
    HttpLimit{"--drain-timeout", "for running answers after a signal to end", "503", &HttpLimits::drain, 0,
              kMostSeconds},
};

}  // namespace

std::span<const HttpLimit> http_limits() { return kLimits; }

}  // namespace weft
