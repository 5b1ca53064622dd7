// The command line and the configuration file, as the contract describes them.
#include "arguments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "api/speculative_config.h"

namespace weft {
namespace {

std::variant<Arguments, Leave> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "weft");
  return parse_arguments(static_cast<int>(words.size()), words.data());
}
Arguments good(std::vector<const char*> words) {
  const auto parsed = parse(std::move(words));
  const Leave* leave = std::get_if<Leave>(&parsed);
  EXPECT_EQ(leave, nullptr) << (leave ? leave->error : "");
  return leave ? Arguments() : std::get<Arguments>(parsed);
}

TEST(Arguments, EveryEngineOption) {
  const Arguments a = good({"batch",     "--model",
                            "M",         "--requests",
                            "in",        "--out",
                            "out",       "--dtype",
                            "float32",   "--quantize",
                            "int8",      "--kv-cache-dtype",
                            "bfloat16",  "--load-format",
                            "dummy",     "--device",
                            "cpu",       "--threads",
                            "3",         "--max-batch-size",
                            "5",         "--max-num-tokens",
                            "48",        "--max-seq-len",
                            "100",       "--tokens-per-block",
                            "16",        "--kv-cache-memory",
                            "1.5G",      "--enable-chunked-prefill",
                            "off",       "--enable-block-reuse",
                            "off",       "--overlap-scheduler",
                            "off",       "--cuda-graph",
                            "off",       "--sampler",
                            "reference", "--speculative-config",
                            "ngram",     "--guided-decoding-backend",
                            "x",         "--logits-processor",
                            "a.so",      "--logits-processor",
                            "b.so",      "--max-step-ms",
                            "12.5",      "--chunked-prefill-size",
                            "96",        "--kv-cache-events",
                            "99",        "--tp-size",
                            "2",         "--pp-size",
                            "3",         "--ep-size",
                            "4",         "--enable-attention-dp",
                            "on",        "--strict-schemas",
                            "on",        "--seed",
                            "7",         "--generation-config",
                            "none"});
  EXPECT_EQ(a.command, Command::batch);
  EXPECT_EQ(a.model, "M");
  EXPECT_EQ(a.requests, "in");
  EXPECT_EQ(a.out, "out");
  const EngineOptions& e = a.engine;
  EXPECT_EQ(e.dtype, ComputeType::float32);
  EXPECT_EQ(e.quantize, Quantize::int8);
  EXPECT_EQ(e.max_step_ms, 12.5);
  EXPECT_EQ(e.chunked_prefill_size, 96);
  EXPECT_EQ(e.kv_cache_events, 99);
  EXPECT_EQ(e.kv_cache_dtype, KvCacheType::bfloat16);
  EXPECT_EQ(e.load_format, LoadFormat::dummy);
  EXPECT_EQ(e.threads, 3);
  EXPECT_EQ(e.max_batch_size, 5);
  EXPECT_EQ(e.max_num_tokens, 48);
  EXPECT_EQ(e.max_seq_len, 100);
  EXPECT_EQ(e.tokens_per_block, 16);
  EXPECT_EQ(e.kv_cache_memory, int64_t{3} << 29);
  EXPECT_FALSE(e.enable_chunked_prefill || e.enable_block_reuse || e.overlap_scheduler || e.cuda_graph);
  EXPECT_EQ(e.sampler, SamplerKind::reference);
  EXPECT_EQ(e.speculative_config, "ngram");
  EXPECT_EQ(e.guided_decoding_backend, "x");
  EXPECT_EQ(e.logits_processors, (std::vector<std::string>{"a.so", "b.so"}));
  EXPECT_EQ(e.tp_size, 2);
  EXPECT_EQ(e.pp_size, 3);
  EXPECT_EQ(e.ep_size, 4);
  EXPECT_TRUE(e.enable_attention_dp);
  EXPECT_TRUE(e.strict_schemas);
  EXPECT_EQ(e.seed, 7);
  EXPECT_EQ(e.generation_config, GenerationConfig::none);
}

// Each row of the table of limits is an option of both servers that sets its member.
TEST(Arguments, EveryHttpLimit) {
  for (const HttpLimit& limit : http_limits()) {
    const std::string flag(limit.flag);
    for (const bool front : {false, true}) {
      const auto read = [&](const char* value) {
        return front ? good({"orchestrate", "--server", "a:1", flag.c_str(), value}).http.limits
                     : good({"serve", "M", flag.c_str(), value}).http.limits;
      };
      if (const auto* count = std::get_if<int HttpLimits::*>(&limit.member)) {
        EXPECT_EQ(read("3").**count, 3) << flag;
      } else if (const auto* bytes = std::get_if<size_t HttpLimits::*>(&limit.member)) {
        EXPECT_EQ(read("2M").**bytes, size_t{2} << 20) << flag;
        EXPECT_EQ(read("5000").**bytes, 5000u) << flag;
      } else {
        const auto member = std::get<std::chrono::milliseconds HttpLimits::*>(limit.member);
        EXPECT_EQ((read("1.5").*member).count(), 1500) << flag;
      }
      const auto wrong = front ? parse({"orchestrate", "--server", "a:1", flag.c_str(), "-1"})
                               : parse({"serve", "M", flag.c_str(), "-1"});
      EXPECT_TRUE(std::holds_alternative<Leave>(wrong)) << flag;
    }
  }
}

TEST(Arguments, Commands) {
  Arguments a = good({"run", "M", "hello", "--max-tokens", "5", "--temperature", "0.5", "--stop", "x", "--stop", "y",
                      "--image", "a.png", "--raw"});
  EXPECT_EQ(a.command, Command::run);
  EXPECT_EQ(a.prompt, "hello");
  EXPECT_EQ(a.sampling.dump(), R"({"max_tokens":5,"temperature":0.5,"stop":["x","y"]})");
  EXPECT_EQ(a.images, std::vector<std::string>{"a.png"});
  EXPECT_TRUE(a.raw);
  EXPECT_FALSE(good({"run", "M"}).prompt.has_value());
  a = good({"serve", "M", "--host", "::1", "--port", "9", "--served-model-name", "n", "--api-key", "k", "--max-queue",
            "7", "--max-queue-per-client", "3", "--max-client-priority", "50", "--request-timeout", "1.5"});
  EXPECT_EQ(a.admission.max_queue + a.admission.max_queue_per_client + a.admission.max_client_priority, 60);
  EXPECT_EQ(a.admission.request_timeout_s, 1.5);
  EXPECT_EQ(a.command, Command::serve);
  EXPECT_EQ(a.host + a.served_model_name + a.api_key, "::1nk");
  EXPECT_EQ(a.port, 9);
  EXPECT_EQ(a.watchdog_s, 300);
  a = good({"serve", "M", "--watchdog", "7.5", "--allowed-hosts", "a.b,*.c.d", "--allowed-hosts", "e", "--cors-origins",
            "https://a.b", "--metrics-without-key"});
  EXPECT_EQ(a.watchdog_s, 7.5);
  EXPECT_EQ(a.http.allowed_hosts, (std::vector<std::string>{"a.b", "*.c.d", "e"}));
  EXPECT_EQ(a.http.cors_origins, std::vector<std::string>{"https://a.b"});
  EXPECT_TRUE(a.http.metrics_without_key);
  EXPECT_EQ(good({"bench", "M", "--batch-sizes", "1,4", "--json"}).batch_sizes, (std::vector<int>{1, 4}));
  a = good({"bench", "M", "--modes", "serving,decode", "--streams", "5", "--context-tokens", "0", "--limits", "off",
            "--pin-threads", "on"});
  EXPECT_EQ(a.bench_modes, (std::vector<std::string>{"serving", "decode"}));
  EXPECT_EQ(a.streams, 5);
  EXPECT_EQ(a.context_tokens, 0);
  EXPECT_FALSE(a.limits);
  EXPECT_EQ(a.engine.pin_threads, Pinning::on);
  a = good({"orchestrate",
            "--context",
            "a:1",
            "--context",
            "b:1",
            "--generation",
            "http://c",
            "--server",
            "d",
            "--port",
            "9",
            "--api-key",
            "k",
            "--server-api-key",
            "s",
            "--generation-router",
            "kv_cache_aware",
            "--max-retries",
            "3",
            "--health-interval",
            "0.5",
            "--request-timeout",
            "7",
            "--transfer-secret-file",
            "f"});
  EXPECT_EQ(a.command, Command::orchestrate);
  EXPECT_EQ(a.orchestrate.context, (std::vector<std::string>{"a:1", "b:1"}));
  EXPECT_EQ(a.orchestrate.generation, std::vector<std::string>{"http://c"});
  EXPECT_EQ(a.orchestrate.servers, std::vector<std::string>{"d"});
  EXPECT_EQ(a.api_key + a.orchestrate.server_api_key + a.orchestrate.transfer_secret_file, "ksf");
  EXPECT_EQ(a.orchestrate.generation_router + a.orchestrate.context_router, "kv_cache_aware");
  EXPECT_EQ(a.orchestrate.max_retries + a.orchestrate.health_interval_s + a.orchestrate.request_timeout_s, 3 + 0.5 + 7);
  a = good({"bench", "M", "--speculative-config", "ngram", "--prompts", "texts.jsonl"});
  EXPECT_EQ(a.engine.speculative_config + " " + a.prompts, "ngram texts.jsonl");
  EXPECT_TRUE(a.bench_modes.empty()) << "the command chooses";
  EXPECT_EQ(good({"inspect", "M"}).command, Command::inspect);
  EXPECT_EQ(good({"plan", "M"}).command, Command::plan);
  EXPECT_EQ(good({"chat", "M", "--system", "s"}).system, "s");
  EXPECT_EQ(good({"score", "--model", "M", "--requests", "i", "--out", "o"}).command, Command::score);
}

TEST(Arguments, ABatchNeedsAModelOrAServer) {
  const Arguments a = good({"batch", "--url", "http://h:1", "--requests", "in", "--concurrency", "7", "--wait", "5",
                            "--timeout", "9", "--api-key", "k"});
  EXPECT_EQ(a.url + a.model + a.api_key, "http://h:1k");
  EXPECT_EQ((std::vector{a.concurrency, a.wait_s, a.timeout_s}), (std::vector{7, 5, 9}));
  for (const auto& [words, message] : std::vector<std::pair<std::vector<const char*>, std::string>>{
           {{}, "--model or --url is required"},
           {{"--url", "u", "--model", "m"}, "--model and --url exclude each other"},
           {{"--url", "u", "--max-batch-size", "4"}, "--max-batch-size is an option of the engine"},
           {{"--url", "u", "--logits-processor", "p.so"}, "--logits-processor is an option of the engine"},
           {{"--model", "m", "--wait", "4"}, "--wait requires --url"}}) {
    std::vector<const char*> all = {"batch", "--requests", "in"};
    all.insert(all.end(), words.begin(), words.end());
    const auto parsed = parse(all);
    const Leave* leave = std::get_if<Leave>(&parsed);
    ASSERT_NE(leave, nullptr) << message;
    EXPECT_EQ(leave->status, 2);
    EXPECT_NE(leave->error.find(message), std::string::npos) << leave->error;
  }
}

TEST(Arguments, RolesAreForServe) {
  EXPECT_EQ(good({"serve", "M", "--role", "generation"}).engine.role, ServerRole::generation);
  for (const std::vector<const char*>& words :
       {std::vector<const char*>{"run", "M", "--role", "context"}, {"bench", "M", "--kv-transfer", "127.0.0.1:0"}}) {
    const auto parsed = parse(words);
    const Leave* leave = std::get_if<Leave>(&parsed);
    ASSERT_NE(leave, nullptr);
    EXPECT_EQ(leave->status, 2);
    EXPECT_NE(leave->error.find("are for weft serve"), std::string::npos) << leave->error;
  }
}

TEST(Arguments, AServerOfADeployment) {
  const Arguments a =
      good({"serve", "M", "--cluster", "etcd://h/prod", "--advertise-url", "http://10.0.0.7:80", "--host", "0.0.0.0"});
  EXPECT_EQ(a.cluster + " " + a.advertise_url, "etcd://h/prod http://10.0.0.7:80");
  EXPECT_EQ(good({"serve", "M", "--host", "::1", "--cluster", "etcd://h/n"}).host, "::1");
  EXPECT_EQ(good({"serve", "M", "--host", "0.0.0.0"}).cluster, "");
  for (const auto& [words, message] : std::vector<std::pair<std::vector<const char*>, std::string>>{
           {{"--cluster", "http://h/n"}, "does not begin with etcd://"},
           {{"--cluster", "etcd://h"}, "has no name behind its host"},
           {{"--advertise-url", "http://h"}, "--advertise-url requires --cluster"},
           {{"--cluster", "etcd://h/n", "--advertise-url", "h:80"}, "does not begin with http://"},
           {{"--cluster", "etcd://h/n", "--host", "0.0.0.0"}, "--cluster needs --advertise-url"},
           {{"--cluster", "etcd://h/n", "--host", "::"}, "with --host ::, which is no address that others reach"},
           {{"--cluster", "etcd://h/n", "--host", "0:0:0:0:0:0:0:0"}, "--cluster needs --advertise-url"}}) {
    std::vector<const char*> all = {"serve", "M"};
    all.insert(all.end(), words.begin(), words.end());
    const auto parsed = parse(all);
    const Leave* leave = std::get_if<Leave>(&parsed);
    ASSERT_NE(leave, nullptr) << message;
    EXPECT_EQ(leave->status, 2);
    EXPECT_NE(leave->error.find(message), std::string::npos) << leave->error;
  }
}

// Every number of sampling that has an option, under its name in requests.
TEST(Arguments, SamplingNumbers) {
  std::vector<std::string> words = {"weft", "run", "M", "--max-tokens", "7"};
  std::vector<Json::Member> want = {{"max_tokens", 7}};
  for (const SamplingOption& number : sampling_options()) {
    std::string option = "--" + std::string(number.name);
    std::replace(option.begin(), option.end(), '_', '-');
    words.insert(words.end(), {option, number.whole ? "3" : "0.25"});
    want.emplace_back(number.name, number.whole ? Json(3) : Json(0.25));
    EXPECT_EQ(std::holds_alternative<Leave>(parse({"run", "M", option.c_str(), "1.5"})), number.whole) << option;
  }
  EXPECT_GE(want.size(), 8u);
  EXPECT_TRUE(std::holds_alternative<Leave>(parse({"run", "M", "--top-p-decay", "1"})));  // for requests alone
  std::vector<const char*> raw;
  for (const std::string& word : words) raw.push_back(word.c_str());
  const auto parsed = parse_arguments(static_cast<int>(raw.size()), raw.data());
  ASSERT_TRUE(std::holds_alternative<Arguments>(parsed));
  const Json& sampling = std::get<Arguments>(parsed).sampling;
  EXPECT_EQ(sampling.members().size(), want.size());
  for (const auto& [name, value] : want) {
    ASSERT_NE(sampling.find(name), nullptr) << name;
    EXPECT_EQ(sampling.find(name)->dump(), value.dump()) << name;
  }
}

// The names of each kind, and the same values from a file.
TEST(Arguments, Choices) {
  EXPECT_EQ(good({"run", "M", "--pack-weights", "off"}).engine.pack_weights, PackWeights::off);
  EXPECT_EQ(good({"run", "M", "--device", "cuda"}).engine.device, Device::cuda);
  EXPECT_EQ(good({"run", "M", "--reasoning-parser", "think"}).engine.reasoning_parser, ReasoningParser::think);
  EXPECT_EQ(good({"run", "M", "--kv-cache-dtype", "fp8"}).engine.kv_cache_dtype, KvCacheType::fp8);
  EXPECT_EQ(good({"run", "M", "--dtype", "float32", "--dtype", "auto"}).engine.dtype, ComputeType::automatic);
  const auto refused = parse({"run", "M", "--quantize", "int2"});
  EXPECT_EQ(std::get<Leave>(refused).error, "--quantize: int2 not in {none,int8,int4}; see weft run --help");
}

TEST(Arguments, Refusals) {
  for (const std::vector<const char*>& words :
       std::vector<std::vector<const char*>>{{},
                                             {"fly"},
                                             {"run"},
                                             {"batch", "--model", "M"},
                                             {"run", "M", "--dtype", "float8"},
                                             {"run", "M", "--pin-threads", "maybe"},
                                             {"bench", "M", "--modes", "prefill,sleep"},
                                             {"run", "M", "--threads", "-1"},
                                             {"run", "M", "--tokens-per-block", "24"},
                                             {"run", "M", "--kv-cache-memory", "lots"},
                                             {"run", "M", "--cuda-graph", "maybe"},
                                             {"run", "M", "--no-such-option"},
                                             {"run", "M", "--top-k", "1.5"},
                                             {"run", "M", "--top-k", "1e30"},
                                             {"run", "M", "--temperature", "1e400"},
                                             {"run", "M", "--temperature", "nan"},
                                             {"run", "M", "--top-p", "-inf"},
                                             {"run", "M", "--max-tokens", "many"},
                                             {"serve", "M", "--port", "70000"},
                                             {"orchestrate", "--server", "a", "--generation-router", "random"},
                                             {"orchestrate", "--server", "a", "--health-interval", "0"},
                                             {"orchestrate", "--server", "a", "--dtype", "float32"},
                                             {"run", "M", "--config", "/nonexistent.yaml"}}) {
    const auto parsed = parse(words);
    const Leave* leave = std::get_if<Leave>(&parsed);
    ASSERT_NE(leave, nullptr) << words.size() << words.back();
    EXPECT_EQ(leave->status, 2);
    EXPECT_FALSE(leave->error.empty());
  }
  const auto help = parse({"serve", "--help"});
  EXPECT_EQ(std::get<Leave>(help).status, 0);
  EXPECT_NE(std::get<Leave>(help).out.find("--max-batch-size"), std::string::npos);
  EXPECT_EQ(std::get<Leave>(parse({"--version"})).status, 0);
}

// What is wrong is named in the order in which it was given, and the nearest right word is proposed.
TEST(Arguments, Suggestions) {
  const auto error = [](std::vector<const char*> words) { return std::get<Leave>(parse(std::move(words))).error; };
  EXPECT_EQ(error({"rnu", "M"}), "there is no command rnu; did you mean run?; see weft --help");
  EXPECT_EQ(error({"server"}), "there is no command server; did you mean serve?; see weft --help");
  EXPECT_EQ(error({"xylophone"}), "there is no command xylophone; see weft --help");
  EXPECT_EQ(error({"run", "M", "--max-seqlen=5"}),
            "The following arguments were not expected: --max-seqlen=5; did you mean --max-seq-len?; see weft run "
            "--help");
  EXPECT_EQ(error({"run", "M", "P", "--bbbbbbbb", "x", "--aaaaaaaa"}),
            "The following arguments were not expected: --bbbbbbbb x --aaaaaaaa; see weft run --help");
  EXPECT_EQ(error({"run", "M", "P", "one", "two"}),
            "The following arguments were not expected: one two; see weft run --help");
  EXPECT_EQ(error({}), "A subcommand is required; see weft --help");
}

class ConfigFile : public ::testing::Test {
 protected:
  std::string write(const std::string& text) {
    const auto path = std::filesystem::temp_directory_path() / ("weft_config_" + std::to_string(::getpid()) + ".yaml");
    std::ofstream(path) << text;
    return path;
  }
};

TEST_F(ConfigFile, CommandLineWins) {
  const std::string path = write(
      "# comment\ndtype: float32\nmax_batch_size: 7\nenable_block_reuse: off\nkv_cache_memory: 2G\nport: 1234\n"
      "speculative_config: {method: ngram, num_tokens: 4, ngram_shared: true}\nlogits_processor: [a.so, "
      "b.so]\napi_key:\n");
  const Arguments a = good({"serve", "M", "--config", path.c_str(), "--max-batch-size", "9"});
  EXPECT_EQ(a.engine.dtype, ComputeType::float32);
  EXPECT_EQ(a.engine.max_batch_size, 9);
  EXPECT_FALSE(a.engine.enable_block_reuse);
  EXPECT_EQ(a.engine.kv_cache_memory, int64_t{2} << 30);
  EXPECT_EQ(a.port, 1234);
  EXPECT_EQ(a.engine.speculative_config, R"({"method":"ngram","num_tokens":4,"ngram_shared":true})");
  EXPECT_EQ(a.engine.logits_processors, (std::vector<std::string>{"a.so", "b.so"}));
}

// The YAML of the reference system, sets and all, as far as the engine's options.
TEST_F(ConfigFile, SpeculativeConfig) {
  const auto read = [&](const std::string& text) {
    const std::string path = write("speculative_config:" + text + "\n");
    return read_speculation(good({"serve", "M", "--config", path.c_str()}).engine.speculative_config);
  };
  auto options = read(
      "\n  decoding_type: Eagle\n  max_draft_len: 3\n  speculative_model: /m/head\n"
      "  eagle3_one_model: False\n  eagle3_layers_to_capture: {14, 1, 27}\n  use_dynamic_tree: false");
  ASSERT_TRUE(options.ok()) << options.error().message();
  EXPECT_EQ(options->method, DraftMethod::eagle3);
  EXPECT_EQ(options->num_tokens, 3);
  EXPECT_EQ(options->model, "/m/head");
  EXPECT_FALSE(options->one_model);
  EXPECT_EQ(options->layers, (std::vector<int>{2, 15, 28}));
  options = read("\n  decoding_type: MTP\n  num_nextn_predict_layers: 2\n  relaxed_delta: 0.0");
  ASSERT_TRUE(options.ok()) << options.error().message();
  EXPECT_EQ(options->num_tokens, 2);
  for (const char* none : {"", " null", " {}", " none", " false"})
    EXPECT_EQ(read(none).value().method, DraftMethod::none) << none;
  EXPECT_EQ(read(" auto").value().method, DraftMethod::automatic);
}

// The file of a disaggregated deployment, in the reference system's form.
TEST_F(ConfigFile, Orchestrate) {
  const std::string path = write(
      "hostname: 0.0.0.0\nport: 8123\nmax_retries: 2\ncontext_servers:\n  num_instances: 2\n  urls:\n"
      "    - \"localhost:8001\"\n    - http://localhost:8002\n  router:\n    type: kv_cache_aware\n"
      "generation_servers: {num_instances: 1, urls: [\"localhost:8003\"]}\nservers: [\"a:1\", \"b:2\"]\n"
      "transfer_secret_file: secret\nhealth_interval: 0.25\n");
  Arguments a = good({"orchestrate", "--config", path.c_str(), "--port", "9"});
  const OrchestrateArguments& o = a.orchestrate;
  EXPECT_EQ(a.host, "0.0.0.0");
  EXPECT_EQ(a.port, 9);
  EXPECT_EQ(o.context_servers.urls, (std::vector<std::string>{"localhost:8001", "http://localhost:8002"}));
  EXPECT_EQ(o.context_servers.router + "," + o.generation_servers.router, "kv_cache_aware,");
  EXPECT_EQ(o.generation_servers.urls, std::vector<std::string>{"localhost:8003"});
  EXPECT_EQ(o.servers, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(o.transfer_secret_file, "secret");
  EXPECT_EQ(o.health_interval_s + o.max_retries, 2.25);
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"port: 1\ncontext_servers:\n  num_instances: 3\n  urls: [\"a:1\"]\n",
            "line 2: num_instances is 3, but urls names 1 servers"},
           {"generation_servers: {url: [a]}\n", "line 1: a group of servers has num_instances"},
           {"generation_servers: {urls: [\"a:1\"], router: {type: random}}\n",
            "line 1: router must be type: round_robin"},
           {"generation_servers: {urls: [\"a:1\"], router: {typ: round_robin}}\n", "got typ: \"round_robin\""},
           {"generation_servers: {urls: [5]}\n", "urls holds 5"},
           {"generation_servers: [\"a:1\"]\n", "line 1: a group of servers must have"},
           {"\nbackend: pytorch\n", "line 2: weft orchestrate has no option --backend"}}) {
    const auto parsed = parse({"orchestrate", "--config", write(text).c_str()});
    ASSERT_TRUE(std::holds_alternative<Leave>(parsed)) << text;
    EXPECT_NE(std::get<Leave>(parsed).error.find(message), std::string::npos) << std::get<Leave>(parsed).error;
  }
}

TEST_F(ConfigFile, ErrorsNameTheLine) {
  std::string path = write("dtype: float32\nno_such_option: 1\n");
  const auto unknown = parse({"run", "M", "--config", path.c_str()});
  EXPECT_NE(std::get<Leave>(unknown).error.find("line 2"), std::string::npos) << std::get<Leave>(unknown).error;
  path = write("a: [1\nb: 2\n");
  const auto broken = parse({"run", "M", "--config", path.c_str()});
  EXPECT_NE(std::get<Leave>(broken).error.find("YAML"), std::string::npos) << std::get<Leave>(broken).error;
  path = write("dtype: float9\n");
  const auto bad = parse({"run", "M", "--config", path.c_str()});
  EXPECT_NE(std::get<Leave>(bad).error.find("dtype"), std::string::npos) << std::get<Leave>(bad).error;
}

TEST(Size, Units) {
  EXPECT_EQ(parse_size("1000").value(), 1000);
  EXPECT_EQ(parse_size("4k").value(), 4096);
  EXPECT_EQ(parse_size("512M").value(), int64_t{512} << 20);
  EXPECT_EQ(parse_size("4G").value(), int64_t{4} << 30);
  EXPECT_EQ(parse_size("4GB").value(), int64_t{4} << 30);
  EXPECT_EQ(parse_size("4GiB").value(), int64_t{4} << 30);
  EXPECT_EQ(parse_size("1T").value(), int64_t{1} << 40);
  for (const char* text : {"", "G", "-1", "4X", "4 G G", "nan", "1e300"}) EXPECT_FALSE(parse_size(text).ok()) << text;
}

// What cuts prompts needs them to be cut.
TEST(Arguments, PiecesOfPromptsNeedChunkedPrefill) {
  EngineOptions options;
  options.enable_chunked_prefill = false;
  EXPECT_TRUE(check_options(options).ok());
  options.chunked_prefill_size = 64;
  const Status refused = check_options(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().to_string().find("--chunked-prefill-size"), std::string::npos)
      << refused.error().to_string();
  options.enable_chunked_prefill = true;
  EXPECT_TRUE(check_options(options).ok());
}

}  // namespace
}  // namespace weft
