// The command line as plain values. CLI11 is included in arguments.cc alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "api/options.h"
#include "base/json.h"
#include "base/result.h"
#include "core/dtype.h"
#include "server/http_limits.h"

namespace weft {

enum class Command : unsigned char {
  run,
  chat,
  batch,
  score,
  bench,
  inspect,
  models,
  plan,
  quantize,
  convert,
  serve,
  orchestrate,
  limits
};

// weft plan: the steps and the machine that an estimate is made for (plan/cost.h).
struct EstimateArguments {
  int nodes = 1;  // that the ranks are on
  // decode: sequences and the tokens that each sees; prompts: tokens of a chunk
  int batch_size = 8, context_tokens = 2048, prompt_tokens = 512;
  double memory_gbps = 300, tflops = 20;             // of a rank: 1e9 bytes/s, 1e12 FLOP/s
  double network_gbps = 25, network_latency_us = 5;  // between nodes: 1e9 bytes/s, microseconds
  bool summary = false;                              // the estimate without the ops

  // Servers for a stream of requests (plan/deployment.h); 0 and empty: not given.
  bool disaggregated = false;
  double request_rate = 0;                  // a second
  std::string input_tokens, output_tokens;  // "MEAN" or "MEAN,P95"
  std::string arrival_mix;                  // a file, in place of both
  double cached_share = 0;                  // of a prompt's tokens
  double tpot_target_ms = 0, ttft_percentile = 95;
  int context_tp = 0, generation_tp = 0;  // 0: as tp_size
  double memory_gb = 500;                 // of a rank, 1e9 bytes
};

// weft orchestrate: servers of one kind, from the configuration file.
struct ServerGroup {
  std::vector<std::string> urls;
  std::string router;  // a name of RouterKind (orchestrate/router.h); empty: not said
};
struct OrchestrateArguments {
  std::vector<std::string> context, generation, servers;  // addresses; of servers that say their role themselves
  ServerGroup context_servers, generation_servers;        // of the file, where the first two are empty
  std::string context_router, generation_router;          // empty: as the file says, else load_balancing
  std::string cluster;                                    // etcd://HOST:PORT/NAME, whose members are servers too
  std::string server_api_key, transfer_secret_file;
  int max_retries = 1;
  double health_interval_s = 1, connect_timeout_s = 5, first_byte_timeout_s = 0, request_timeout_s = 0;
};

// weft serve, orchestrate: what clients may do.
struct HttpArguments {
  HttpLimits limits;
  std::vector<std::string> allowed_hosts, cors_origins;  // see server/request_origin.h
  bool metrics_without_key = false;
};

struct Arguments {
  Command command = Command::run;
  std::string model;
  EngineOptions engine;

  // run, chat: sampling fields under their names in the HTTP API, ready to be a part of a request.
  Json sampling = Json::object();
  std::optional<std::string> prompt;  // absent: standard input
  std::vector<std::string> images;
  std::string system;
  bool raw = false, verbose = false;

  std::string requests, out;  // batch, score; plan: requests

  // batch with a server in the model's place; api_key below is the key that is sent
  std::string url;  // empty: the engine of `model`
  int concurrency = 64, wait_s = 0, timeout_s = 0;

  // plan
  std::string trace;                      // the file to write; empty: none
  std::vector<std::string> trace_filter;  // what the names of the values may begin with; empty: all
  EstimateArguments estimate;

  // serve
  std::string host = "127.0.0.1", served_model_name, api_key;
  std::string cluster, advertise_url;  // etcd://HOST:PORT/NAME; what others reach this server at; empty: none, by host
  int port = 8000;
  bool chat_template_in_request = false;
  int64_t requests_memory = int64_t{384} << 20;  // bytes; 0: no limit
  double watchdog_s = 300;                       // see ServerOptions
  HttpArguments http;
  AdmissionLimits admission{
      .max_queue = 1024, .max_queue_per_client = 512, .max_client_priority = 35, .request_timeout_s = 0};
  OrchestrateArguments orchestrate;  // beside host, port and api_key

  // bench
  // prefill, decode, serving, or speculation alone; empty: speculation with --speculative-config, else the first two
  std::vector<std::string> bench_modes;
  std::string prompts;      // speculation: a file; empty: random ones
  int prompt_tokens = 0;    // 0: 512 of prefill, 196 of serving
  int context_tokens = -1;  // before the measured ones; -1: none of prefill, 128 of decode
  int output_tokens = 64, repeat = 3;
  std::vector<int> batch_sizes = {1, 8};
  int streams = 32, shared_prefix = 128;  // serving
  bool limits = true;                     // measure the machine's
  bool details = false;
  bool ops = false;

  // quantize
  int bits = 4;
  std::string text_file;  // over whose tokens the divergence is measured; empty: it is not
  int text_tokens = 512;
  std::string calibration_file;  // a text by which errors are weighed; empty: they count alike
  int calibration_tokens = 8192;
  std::string gguf_type;  // Q8_0, Q4_K or Q6_K: a GGUF file in place of a folder; empty: a folder

  // convert: what quantised tensors of a GGUF file become; none: they are refused
  std::optional<DType> widen_to;

  bool formats = false;  // models: those of checkpoints instead

  bool json = false;  // bench, inspect, models, plan
};

// What to print before leaving, and the exit status: help, or a usage error.
struct Leave {
  int status = 0;
  std::string out, error;
};

// Reads argv and the file of --config. Values of the command line win over those of the file.
std::variant<Arguments, Leave> parse_arguments(int count, const char* const* words);

// {"num_instances": N, "urls": [...], "router": {"type": NAME}}, all but urls optional.
Result<ServerGroup> read_server_group(const std::string& json);

// "4G", "512M", "1.5g", "1000": bytes, with K, M, G and T as powers of 1024.
Result<int64_t> parse_size(const std::string& text);

}  // namespace weft
