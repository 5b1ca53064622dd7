// The whole way of a request: the bytes of a body through the server and an engine with a tiny model to the answer.
// Whatever is asked for, the status is none of the server's faults, the body is JSON or events of JSON, the engine is
// idle with empty books afterwards, and another client gets the same answer as ever, bit for bit.
//
// The first byte says which model and route, the second what the client does: waits for the answer, sends the body
// twice at once, leaves at once, or leaves after the first bytes of the answer.
#include <chrono>
#include <set>
#include <thread>

#include "api/engine.h"
#include "client.h"
#include "server/api_server.h"
#include "server/base64.h"
#include "target.h"

using namespace weft;

namespace {

constexpr const char* kRoutes[] = {"/v1/completions", "/v1/chat/completions", "/tokenize",
                                   "/detokenize",     "/block_keys",          "/kv_cache_events"};
constexpr const char* kModels[] = {"llama-3.1", "qwen2-vl"};
constexpr const char* kGood =
    R"({"prompt":[5,6,7,8],"max_tokens":4,"temperature":0,"seed":1,"logprobs":1,"ignore_eos":true})";

// A model behind a server.
class Server {
 public:
  explicit Server(const std::string& model) {
    EngineOptions options;
    options.dtype = ComputeType::float32, options.threads = 1, options.pin_threads = Pinning::off;
    options.kv_cache_memory = int64_t{4} << 20, options.max_seq_len = 96, options.max_batch_size = 8;
    options.max_num_tokens = 64, options.tokens_per_block = 8, options.kv_cache_events = 64;
    options.speculation.method = model == "llama-3.1" ? DraftMethod::ngram : DraftMethod::none;
    auto engine = Engine::load(std::string(WEFT_TEST_DATA) + "/golden/" + model, options);
    if (!engine.ok()) std::fprintf(stderr, "%s\n", engine.error().to_string().c_str());
    require(engine.ok(), "the model of the tests loads");
    engine_ = std::move(engine).value();
    ServerOptions server;
    server.port = 0, server.chat_template_in_request = true;
    auto made = ApiServer::listen(server);
    require(made.ok(), "the server listens");
    server_ = std::move(made).value();
    server_->attach(*engine_);
    thread_ = std::thread([this] { server_->run(); });
    answer_ = good_answer();
  }
  ~Server() {
    server_->stop();
    thread_.join();
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const { return server_->port(); }
  void check_good_client() const {
    const std::string answer = good_answer();
    if (answer != answer_) std::fprintf(stderr, "%s\ninstead of\n%s\n", answer.c_str(), answer_.c_str());
    require(answer == answer_, "another client gets the same answer as ever");
  }

  // Steps in flight are committed a moment after the last event.
  void check_idle() const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (true) {
      const EngineMetrics metrics = engine_->metrics();
      const auto& s = metrics.core.scheduler;
      const auto& r = metrics.requests;
      if (s.running + s.waiting + s.in_flight_steps == 0 && metrics.core.blocks().used == 0 &&
          r.entered == r.finished + r.failed + r.cancelled)
        return;
      require(std::chrono::steady_clock::now() < end, "the engine is idle with empty books");
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

 private:
  // The choices alone: ids and times differ.
  std::string good_answer() const {
    const FuzzClient client(port());
    client.send(post_once("/v1/completions", kGood));
    const PlainReply reply = split_reply(client.read_all());
    const auto json = parse_json(reply.body);
    require(reply.status == 200 && json.ok() && json->find("choices"), "a good request is answered");
    return json->find("choices")->dump();
  }

  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ApiServer> server_;
  std::thread thread_;
  std::string answer_;
};

const Server& server(unsigned model) {
  static const Server text(kModels[0]);
  if (model == 0) return text;
  static const Server images(kModels[1]);
  return images;
}

// "data: JSON" and comments, with an empty line behind each; the last is [DONE].
void check_events(std::string_view body) {
  bool done = false;
  while (!body.empty()) {
    const size_t end = body.find("\n\n");
    require(end != std::string_view::npos, "the last event is whole");
    const std::string_view event = body.substr(0, end);
    body.remove_prefix(end + 2);
    if (event.starts_with(":")) continue;
    require(event.starts_with("data: ") && !done, "an event is data, and none follows the end");
    done = event == "data: [DONE]";
    require(done || parse_json(event.substr(6)).ok(), "an event is JSON");
  }
  require(done, "a stream ends with [DONE]");
}

void check_reply(const std::string& bytes) {
  static const std::set<int> kExpected = {200, 400, 404, 408, 413, 415, 429, 503};
  const PlainReply reply = split_reply(bytes);
  if (!kExpected.contains(reply.status)) std::fprintf(stderr, "status %d: %s\n", reply.status, reply.body.c_str());
  require(kExpected.contains(reply.status), "the status is none of the server's faults");
  require(reply.body.size() < 32u << 20, "an answer has a bound");
  if (reply.head.find("text/event-stream") != std::string::npos) return check_events(reply.body);
  const auto json = parse_json(reply.body);
  require(json.ok() && json->is_object(), "an answer is a JSON object");
  if (reply.status == 200) return;
  const Json* error = json->find("error");
  const Json* message = error ? error->find("message") : nullptr;
  require(message && message->is_string() && !message->as_string().empty(), "an error says what is wrong");
}

void send_and_behave(unsigned how, const Server& to, const std::string& request) {
  FuzzClient first(to.port());
  first.send(request);
  switch (how) {
    case 0: return first.close();
    case 1: return (void)first.read_some();
    case 2: {
      const FuzzClient second(to.port());
      second.send(request);
      check_reply(first.read_all());
      return check_reply(second.read_all());
    }
    default: check_reply(first.read_all());
  }
}

std::string seed(unsigned model, unsigned route, unsigned how, const std::string& body) {
  return std::string{static_cast<char>(model + 2 * route), static_cast<char>(how)} + body;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::string picture = encode_base64(seed_file("images/alpha.png"));
  const std::string ask = R"("max_tokens":5,"ignore_eos":true)";
  std::vector<std::string> seeds;
  const auto add = [&](unsigned model, unsigned route, const std::string& body) {
    for (const unsigned how : {3u, static_cast<unsigned>(seeds.size() % 4)})
      seeds.push_back(seed(model, route, how, body));
  };
  add(0, 0,
      R"({"prompt":"ab ab ab ab","n":2,"best_of":3,"logprobs":2,"echo":true,"seed":1,"stop":["x","yz"],)" + ask + "}");
  add(0, 0,
      R"({"prompt":["a",[5,6,7]],"stream":true,"stream_options":{"include_usage":true},"top_k":5,"top_p":0.5,)" + ask +
          "}");
  add(0, 0, R"({"prompt":"q","use_beam_search":true,"beam_width":3,"n":2,"length_penalty":0.5,)" + ask + "}");
  add(0, 0, R"({"prompt":"q","guided_json":{"type":"object","properties":{"a":{"type":"integer"}}},"max_tokens":20})");
  add(0, 0, R"({"prompt":"q","guided_regex":"[ab]{2,5}","max_tokens":8,"bad_words":["a"],"logit_bias":{"5":2}})");
  add(0, 0,
      R"({"prompt":"q","guided_choice":["yes","no"],"repetition_penalty":1.2,"presence_penalty":0.5,"min_tokens":1})");
  add(0, 0,
      R"({"prompt":"a b c","prompt_logprobs":2,"return_context_logits":true,"cache_salt":"s","priority":9,)" + ask +
          "}");
  add(0, 0,
      R"({"prompt":"abababab","no_repeat_ngram_size":2,"temperature":0,"return_token_ids":true,"min_p":0.1,)" + ask +
          "}");
  add(0, 1,
      R"({"messages":[{"role":"system","content":"S"},{"role":"user","content":"Hi"}],"tools":[{"type":"function",)"
      R"("function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}],)"
      R"("tool_choice":"required","max_tokens":24,"stream":true})");
  add(0, 1,
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]},{"role":"assistant","content":"So"}],)"
      R"("continue_final_message":true,"add_generation_prompt":false,"logprobs":true,"top_logprobs":3,"max_tokens":4})");
  add(0, 1,
      R"({"messages":[{"role":"user","content":"x"}],"chat_template":"{% for m in messages %}{{ m.content }}{% endfor %}",)"
      R"("response_format":{"type":"json_object"},"max_tokens":12})");
  add(0, 2, R"({"prompt":"Hello","add_special_tokens":false})");
  add(0, 3, R"({"tokens":[1,2,300]})");
  add(0, 4, R"({"prompt":"abcdefghij","cache_salt":"s"})");
  add(0, 5, R"({"after":3,"limit":5})");
  add(1, 1,
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,)" +
          picture + R"("}},{"type":"text","text":"What?"}]}],"max_tokens":3})");
  add(1, 0, R"({"prompt":[5,6,7],"n":2,"stream":true,)" + ask + "}");
  return seeds;
}
std::vector<std::string> fuzz_words() {
  return {"\"n\":8",
          "\"best_of\":4",
          "\"stop\":[\"a\"]",
          "\"stream\":true",
          "\"max_tokens\":1",
          "\"max_tokens\":0",
          "\"echo\":true",
          "\"prompt\":\"\"",
          "\"prompt\":[]",
          "\"guided_regex\":\"a*\"",
          "\"guided_grammar\":\"root ::= \\\"a\\\"\"",
          "\"structural_tag\"",
          "\"temperature\":2",
          "\"logit_bias\":{}",
          "\"stop_token_ids\":[5]",
          "\"ignore_eos\":false",
          "\"top_k\":1",
          "\"frequency_penalty\":2",
          "\"return_generation_logits\":true",
          "\"model\":\"x\"",
          "null",
          "[",
          "]",
          "{",
          "}",
          ",",
          "\"allowed_token_ids\":[5,6]",
          "\"include_stop_str_in_output\":true",
          "\"skip_special_tokens\":false",
          "\"truncate_prompt_tokens\":2",
          "\"min_tokens\":3",
          "-1",
          "1e9",
          "\"\""};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static uint64_t inputs = 0;
  std::string body = copy_of(data, size);
  const unsigned where = take_choice(body, 2 * std::size(kRoutes)), how = take_choice(body, 4);
  const Server& to = server(where % 2);
  send_and_behave(how, to, post_once(kRoutes[where / 2], body));
  to.check_idle();
  if (++inputs % 16 == 0) to.check_good_client();
  return 0;
}
