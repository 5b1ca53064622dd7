// See the header.
#include "server/http_limits.h"

#include <array>

namespace weft {

namespace {

constexpr double kMostBytes = 1LL << 40, kMostSeconds = 1e6, kMostThreads = 256, kMost = 1 << 20;

constexpr std::array kLimits = {
    HttpLimit{{"head_bytes", "--max-head-bytes", "bytes", "32K", "request line and headers of a request", "431, 414"},
              &HttpLimits::head_bytes,
              1024,
              16 << 20},
    HttpLimit{{"head_fields", "--max-head-fields", "headers", "128", "headers of a request", "431"},
              &HttpLimits::head_fields,
              1,
              kMost},
    HttpLimit{{"body_bytes", "--max-body-bytes", "bytes", "32M", "body of a request", "413"},
              &HttpLimits::body_bytes,
              1,
              kMostBytes},
    HttpLimit{{"all_body_bytes", "--max-all-body-bytes", "bytes", "128M",
               "bodies of all requests that are being read or answered", "503"},
              &HttpLimits::all_body_bytes,
              1,
              kMostBytes},
    HttpLimit{{"unsent_bytes", "--max-unsent-bytes", "bytes", "1M", "bytes of a stream that its client has not read",
               "the stream ends"},
              &HttpLimits::unsent_bytes,
              1024,
              kMostBytes},
    HttpLimit{{"connections", "--max-connections", "connections", "4096",
               "connections at once; one that idles makes room for another", "503"},
              &HttpLimits::connections,
              1,
              kMost},
    HttpLimit{{"connections_per_address", "--max-connections-per-address", "connections", "1024",
               "connections at once from an IPv4 address or an IPv6 /64 that is not this machine; 0: no limit", "429"},
              &HttpLimits::connections_per_address,
              0,
              kMost},
    HttpLimit{{"handlers", "--handler-threads", "threads", "4",
               "requests that are parsed, tokenized and checked at once", "they wait"},
              &HttpLimits::handlers,
              1,
              kMostThreads},
    HttpLimit{{"handlers_per_client", "--max-handlers-per-client", "threads", "3",
               "of these, requests of one address; 0: no limit of its own", "they wait"},
              &HttpLimits::handlers_per_client,
              0,
              kMostThreads},
    HttpLimit{{"queued", "--max-queued-requests", "requests", "1024", "requests that wait for a handler thread", "503"},
              &HttpLimits::queued,
              1,
              kMost},
    HttpLimit{
        {"answerers", "--answer-threads", "threads", "4", "answers that are written as JSON at once", "they wait"},
        &HttpLimits::answerers,
        1,
        kMostThreads},
    HttpLimit{{"handler", "--handler-timeout", "seconds", "30",
               "to prepare a request until the engine has it, and to wait for a handler thread; 0: no limit", "503"},
              &HttpLimits::handler,
              0,
              kMostSeconds},
    HttpLimit{
        {"idle", "--idle-timeout", "seconds", "75", "between two requests of a connection", "the connection is closed"},
        &HttpLimits::idle,
        0.01,
        kMostSeconds},
    HttpLimit{{"head", "--head-timeout", "seconds", "15", "from a request's first byte to the end of its head", "408"},
              &HttpLimits::head,
              0.01,
              kMostSeconds},
    HttpLimit{
        {"body", "--body-timeout", "seconds", "60", "from the end of a request's head to that of its body", "408"},
        &HttpLimits::body,
        0.01,
        kMostSeconds},
    HttpLimit{{"write", "--write-timeout", "seconds", "30", "without the client taking anything of an answer",
               "the connection is closed"},
              &HttpLimits::write,
              0.01,
              kMostSeconds},
    HttpLimit{{"tick", "--client-check-interval", "seconds", "0.4",
               "between two looks whether the client of a running request is still there", "its work ends"},
              &HttpLimits::tick,
              0.01,
              kMostSeconds},
    HttpLimit{{"stream_head", "--stream-head-delay", "seconds", "5",
               "until the head of a stream goes out before its first event", "the head is sent"},
              &HttpLimits::stream_head,
              0.01,
              kMostSeconds},
    HttpLimit{{"ping", "--ping-interval", "seconds", "15", "of silence in a stream", "a comment is sent"},
              &HttpLimits::ping,
              0.01,
              kMostSeconds},
    HttpLimit{{"drain", "--drain-timeout", "seconds", "20", "for running answers after a signal to end", "503"},
              &HttpLimits::drain,
              0,
              kMostSeconds},
};

constexpr auto kRows = [] {
  std::array<LimitRow, kLimits.size()> rows{};
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = kLimits[i].row;
  return rows;
}();

}  // namespace

std::span<const LimitRow> http_limit_rows() { return kRows; }
std::span<const HttpLimit> http_limits() { return kLimits; }

}  // namespace weft
