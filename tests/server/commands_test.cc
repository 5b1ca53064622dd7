// The commands from words to files and exit status, with an engine that has no model.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/files.h"
#include "commands.h"
#include "fake_engine.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

class Commands : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("weft_commands_" + std::to_string(::getpid()));
    fs::create_directories(folder_ / "model");
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ / name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }

  struct Outcome {
    int status = 0;
    std::string out, error;
  };
  Outcome weft(std::vector<std::string> words, FakeOptions fake = {}) const {
    words.insert(words.begin(), "weft");
    std::vector<const char*> raw;
    for (const std::string& word : words) raw.push_back(word.c_str());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    Outcome outcome;
    outcome.status = weft_main(static_cast<int>(raw.size()), raw.data(),
                               [&](const std::string& model, const EngineOptions& options,
                                   const Progress&) -> Result<std::unique_ptr<Engine>> {
                                 if (!is_directory(model)) return fail(Code::not_found, "no model at ", model);
                                 return std::unique_ptr<Engine>(new FakeEngine(fake, options));
                               });
    outcome.out = ::testing::internal::GetCapturedStdout();
    outcome.error = ::testing::internal::GetCapturedStderr();
    return outcome;
  }
  std::vector<Json> lines(const std::string& name) const {
    std::vector<Json> all;
    std::ifstream file(folder_ / name);
    for (std::string line; std::getline(file, line);) all.push_back(parse_json(line).value());
    return all;
  }

  fs::path folder_;
};

// --requests takes pipes, and says what else it was given.
TEST_F(Commands, RequestsMayComeFromAPipe) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::thread writer([&] { write("pipe", "{\"custom_id\":\"a\",\"prompt\":\"hello\",\"max_tokens\":3}\n"); });
  const Outcome outcome =
      weft({"batch", "--model", path("model"), "--requests", path("pipe"), "--out", path("out.jsonl")});
  writer.join();
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  const std::vector<Json> rows = lines("out.jsonl");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].find("choices")->items().at(0).find("text")->as_string(), "hel");
  const std::string none = path("model"), trace = path("trace");
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"batch", "--model", none}, {"score", "--model", none}, {"plan", none, "--trace", trace}}) {
    for (const auto& [given, words] : {std::pair(path("model"), "model is a folder; --requests takes a file or pipe"),
                                       std::pair(path("absent"), "no file")}) {
      std::vector<std::string> all = command;
      all.insert(all.end(), {"--requests", given});
      if (command.front() != "plan") all.insert(all.end(), {"--out", path("out")});
      const Outcome refused = weft(all);
      EXPECT_EQ(refused.status, 1) << command.front();
      EXPECT_NE(refused.error.find(words), std::string::npos) << refused.error;
    }
  }
}

TEST_F(Commands, BatchAnswersInOrder) {
  write("in.jsonl",
        "{\"custom_id\":\"a\",\"prompt\":\"hello\",\"max_tokens\":9,\"logprobs\":1,\"seed\":5}\n"
        "\n"
        "not json\n"
        "{\"custom_id\":\"b\",\"prompt_token_ids\":[104,105],\"max_tokens\":1,\"n\":2,\"prompt_logprobs\":0}\r\n"
        "{\"custom_id\":\"c\",\"prompt\":\"x\",\"temperature\":3}\n"
        "{\"custom_id\":\"d\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":50,\"stop\":\"er\"}");
  const Outcome outcome =
      weft({"batch", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("out.jsonl")});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  const std::vector<Json> rows = lines("out.jsonl");
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(rows[0].find("custom_id")->as_string(), "a");
  const Json& choice = rows[0].find("choices")->items().at(0);
  EXPECT_EQ(choice.find("text")->as_string(), "hellohell");
  EXPECT_EQ(choice.find("token_ids")->dump(), "[104,101,108,108,111,104,101,108,108]");
  EXPECT_EQ(choice.find("logprobs")->items().at(0).dump(),
            R"({"token_id":104,"logprob":-0.25,"top":[{"token_id":104,"logprob":-0.25}]})");
  EXPECT_EQ(choice.find("finish_reason")->as_string(), "length");
  EXPECT_EQ(rows[0].find("usage")->dump(),
            R"({"prompt_tokens":5,"completion_tokens":9,"cached_tokens":0,"draft_tokens":0,"accepted_tokens":0})");
  EXPECT_EQ(rows[0].find("seed")->as_integer(), 5);
  EXPECT_TRUE(rows[0].find("error")->is_null());
  EXPECT_TRUE(rows[1].find("custom_id")->is_null());
  EXPECT_EQ(rows[1].find("error")->find("code")->as_string(), "invalid_argument");
  EXPECT_EQ(rows[2].find("choices")->items().size(), 2u);
  EXPECT_EQ(rows[2].find("prompt_logprobs")->dump(), R"([null,{"token_id":105,"logprob":-0.25,"top":[],"rank":2}])");
  EXPECT_TRUE(rows[2].find("choices")->items()[0].find("logprobs")->is_null());
  EXPECT_NE(rows[3].find("error")->find("message")->as_string().find("temperature"), std::string::npos);
  EXPECT_EQ(rows[4].find("choices")->items().at(0).find("stop_reason")->as_string(), "er");
  EXPECT_FALSE(fs::exists(path("out.jsonl.part")));
}

// More lines than the engine's queue takes: all are answered all the same.
TEST_F(Commands, BatchWaitsForAFullQueue) {
  std::string text;
  for (int i = 0; i < 50; ++i)
    text += "{\"custom_id\":\"" + std::to_string(i) + "\",\"prompt\":\"ab\",\"max_tokens\":2}\n";
  write("in.jsonl", text);
  FakeOptions fake;
  fake.queue = 3;
  const Outcome outcome = weft({"batch", "--model", path("model"), "--requests", path("in.jsonl")}, fake);
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  std::istringstream out(outcome.out);
  int count = 0;
  for (std::string line; std::getline(out, line); ++count) {
    const Json row = parse_json(line).value();
    EXPECT_EQ(row.find("custom_id")->as_string(), std::to_string(count));
    EXPECT_TRUE(row.find("error")->is_null()) << line;
  }
  EXPECT_EQ(count, 50);
}

TEST_F(Commands, Run) {
  Outcome outcome = weft({"run", path("model"), "hey", "--max-tokens", "6"});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.out, "user: \n");
  outcome = weft({"run", path("model"), "hey", "--max-tokens", "6", "--raw", "--verbose"});
  EXPECT_EQ(outcome.out, "heyhey\n");
  EXPECT_NE(outcome.error.find("6 tokens"), std::string::npos);
}

TEST_F(Commands, Bench) {
  const Outcome outcome =
      weft({"bench", path("model"), "--modes", "prefill,decode,serving", "--prompt-tokens", "20", "--output-tokens",
            "5", "--batch-sizes", "1,3", "--streams", "4", "--shared-prefix", "10", "--limits", "off", "--json"});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  const Json report = parse_json(outcome.out).value();
  EXPECT_GT(report.find("prefill_tokens_per_s")->as_number(), 0);
  EXPECT_EQ(report.find("prefill")->find("tokens")->as_integer(), 20);
  EXPECT_EQ(report.find("decode")->items().at(1).find("batch")->as_integer(), 3);
  const Json& serving = *report.find("serving");
  EXPECT_EQ(serving.find("streams")->as_integer(), 4);
  EXPECT_GT(serving.find("output_tokens_per_s")->as_number(), 0);
  EXPECT_LE(serving.find("first_token_ms_p50")->as_number(), serving.find("first_token_ms_p95")->as_number());
  EXPECT_EQ(report.find("limits")->find("read_gb_per_s")->as_number(), 0) << "not asked for";
}

// Two engines in turn; the one without models drafts nothing, so both are as fast.
TEST_F(Commands, BenchSpeculation) {
  write("texts.txt", "edit this text\n\nand this one\n");
  write("requests.jsonl",
        "{\"prompt\":\"abc\"}\n{\"prompt_token_ids\":[104,105],\"max_tokens\":3}\n{\"prompt\":\"x\"}\n");
  for (const char* file : {"", "texts.txt", "requests.jsonl"}) {
    std::vector<std::string> words = {"bench",
                                      path("model"),
                                      "--speculative-config",
                                      "ngram",
                                      "--batch-sizes",
                                      "1,2",
                                      "--context-tokens",
                                      "9",
                                      "--output-tokens",
                                      "5",
                                      "--repeat",
                                      "2"};
    if (*file) words.insert(words.end(), {"--prompts", path(file)});
    Outcome outcome = weft(words);
    EXPECT_EQ(outcome.status, 0) << outcome.error;
    EXPECT_NE(outcome.out.find("no drafts were checked"), std::string::npos) << outcome.out;
    EXPECT_EQ(outcome.out.find("random prompts") != std::string::npos, !*file) << outcome.out;
    words.push_back("--json");
    outcome = weft(words);
    EXPECT_EQ(outcome.status, 0) << outcome.error;
    const Json report = parse_json(outcome.out).value();
    EXPECT_EQ(report.find("method")->as_string(), "ngram");
    const Json& row = report.find("speculation")->items().at(1);
    EXPECT_EQ(row.find("batch")->as_integer(), 2);
    EXPECT_EQ(row.find("prompts")->as_integer(), std::string(file) == "requests.jsonl" ? 3 : 2);
    EXPECT_EQ(row.find("acceptance")->as_number(), 0);
    EXPECT_TRUE(row.find("acceptance_per_position")->items().empty());
    for (const char* name : {"decode_tokens_per_s", "decode_tokens_per_s_without", "ratio", "output_tokens_per_s",
                             "output_tokens_per_s_without", "output_ratio"})
      EXPECT_GT(row.find(name)->as_number(), 0) << name;
  }
}

TEST_F(Commands, BenchSpeculationIsAskedForRightly) {
  write("two.jsonl", "{\"prompt\":\"abc\",\"n\":2}\n");
  write("empty.txt", "\n");
  const struct {
    std::vector<std::string> words;
    const char* says;
  } wrong[] = {
      {{"--modes", "speculation"}, "--speculative-config"},
      {{"--modes", "speculation,decode", "--speculative-config", "ngram"}, "cannot be combined"},
      {{"--modes", "speculation", "--ops", "--speculative-config", "ngram"}, "cannot be combined"},
      {{"--prompts", path("two.jsonl")}, "--prompts"},
      {{"--prompts", path("absent"), "--speculative-config", "ngram"}, "no file"},
      {{"--prompts", path("empty.txt"), "--speculative-config", "ngram"}, "no prompts"},
      {{"--prompts", path("two.jsonl"), "--speculative-config", "ngram"}, "one answer"},
  };
  for (const auto& [words, says] : wrong) {
    std::vector<std::string> all = {"bench", path("model"), "--limits", "off"};
    all.insert(all.end(), words.begin(), words.end());
    const Outcome outcome = weft(all);
    EXPECT_EQ(outcome.status, 1) << says;
    EXPECT_NE(outcome.error.find(says), std::string::npos) << outcome.error;
  }
  const Outcome usage = weft({"bench", path("model"), "--speculative-config", "{\"method\": \"ngram\", \"k\": 3}"});
  EXPECT_EQ(usage.status, 2);
  EXPECT_NE(usage.error.find("no key \"k\""), std::string::npos) << usage.error;
}

TEST_F(Commands, BenchSaysWhatDoesNotFit) {
  Outcome outcome = weft({"bench", path("model"), "--context-tokens", "1000000", "--limits", "off"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.error.find("--context-tokens"), std::string::npos) << outcome.error;
  outcome = weft({"bench", path("model"), "--modes", "sleep"});
  EXPECT_EQ(outcome.status, 2);
  outcome = weft({"bench", path("model"), "--modes", "ranks"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.error.find("needs more than one rank"), std::string::npos) << outcome.error;
}

TEST_F(Commands, PlanTrace) {
  write("in.jsonl", "{\"custom_id\":\"a\",\"prompt_token_ids\":[1,2,3]}\n{\"prompt\":\"hi\"}\n");
  const auto plan = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"plan", path("model")});
    return weft(more);
  };
  const Outcome traced = plan({"--trace", path("out.safetensors"), "--requests", path("in.jsonl")});
  EXPECT_EQ(traced.status, 0) << traced.error;
  EXPECT_EQ(traced.out, "") << "no plan as text";
  EXPECT_NE(traced.error.find("line 2 (no custom_id): custom_id is missing"), std::string::npos) << traced.error;
  EXPECT_NE(read_file(path("out.safetensors")).value().find("\"a/input_ids\""), std::string::npos);

  // Wrong use: status, and what the message must say.
  const std::string none = path("none.safetensors");
  const struct {
    std::vector<std::string> words;
    int status;
    const char* says;
  } wrong[] = {
      {{"--trace", none}, 2, "--requests"},
      {{"--requests", path("in.jsonl")}, 2, "--trace"},
      {{"--trace-filter", "model"}, 2, "--trace"},
      {{"--trace", none, "--requests", path("absent.jsonl")}, 1, "no file"},
      {{"--trace", none, "--requests", path("in.jsonl"), "--trace-filter", "x"}, 1, "--trace-filter x: no value"},
  };
  for (const auto& [words, status, says] : wrong) {
    const Outcome outcome = plan(words);
    EXPECT_EQ(outcome.status, status) << says;
    EXPECT_NE(outcome.error.find(says), std::string::npos) << outcome.error;
  }
  write("in.jsonl", "{}\n");
  EXPECT_EQ(plan({"--trace", none, "--requests", path("in.jsonl")}).status, 1);
  EXPECT_FALSE(fs::exists(none));
}

// A Llama of two layers, without weights. In bfloat16, by hand: a table and a head of 320 x 64, 40960 bytes each; of a
// layer 192 x 64 (q, k, v), 64 x 64, 256 x 64 (gate, up) and 64 x 128, 81920 bytes; five norms of 64 floats.
constexpr const char* kSmallLlama = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
  "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
  "head_dim": 32, "vocab_size": 320, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
  "torch_dtype": "bfloat16", "tie_word_embeddings": false})";

TEST_F(Commands, PlanFromAConfigurationAlone) {
  write("model/config.json", kSmallLlama);
  for (const std::string& model : {path("model"), path("model/config.json")}) {
    const Outcome whole = weft({"plan", model});
    EXPECT_EQ(whole.status, 0) << whole.error;
    EXPECT_NE(whole.out.find("model.layers.1.mlp.down_proj.weight\n"), std::string::npos) << whole.out;
    EXPECT_EQ(whole.out.find("all_reduce"), std::string::npos) << whole.out;
    EXPECT_NE(whole.out.find("decode of 8 sequences that see 2048 tokens: estimated "), std::string::npos);
  }
  const Outcome share = weft({"plan", "--model", path("model"), "--tp-size", "2", "--batch-size", "3"});
  EXPECT_TRUE(share.out.starts_with("rank 0 of 2: stage 1 of 1 (layers 0 to 1), share 1 of 2\n")) << share.out;
  EXPECT_NE(share.out.find(" all_reduce "), std::string::npos) << share.out;
  EXPECT_NE(share.out.find("decode of 3 sequences"), std::string::npos) << share.out;
  const Outcome stage = weft({"plan", path("model"), "--tp-size", "2", "--pp-size", "2"});
  EXPECT_TRUE(stage.out.starts_with("rank 0 of 4: stage 1 of 2 (layers 0 to 0), share 1 of 2\n")) << stage.out;
  EXPECT_NE(stage.out.find(" send "), std::string::npos) << stage.out;
  EXPECT_EQ(stage.out.find("model.layers.1.mlp"), std::string::npos) << stage.out;
  const Outcome summary = weft({"plan", path("model"), "--summary"});
  EXPECT_TRUE(summary.out.starts_with("Estimate; ")) << summary.out;
}

TEST_F(Commands, PlanCountsWhatRanksHoldAndSend) {
  write("model/config.json", kSmallLlama);
  const auto report = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"plan", path("model"), "--json"});
    const Outcome outcome = weft(more);
    EXPECT_EQ(outcome.status, 0) << outcome.error;
    return parse_json(outcome.out).value();
  };
  const auto integer = [](const Json* json, const char* key) { return json->find(key)->as_integer(); };
  const Json one = report({});
  const Json* rank = &one.find("ranks")->items().at(0);
  EXPECT_EQ(integer(rank, "weight_bytes"), 2 * 40960 + 2 * 81920 + 5 * 256);
  EXPECT_EQ(integer(rank->find("weight_bytes_by_form"), "float32"), 5 * 256);
  EXPECT_EQ(integer(rank, "kv_bytes_per_token"), 2 * 2 * (32 + 32) * 2);
  EXPECT_EQ(integer(one.find("decode")->find("sent"), "messages"), 0);

  // Two ranks have the whole table, half of the layers and half of the head. Of 8 rows a step sends the parts of four
  // sums of 64 floats, and rank 1 its best candidate, 8 bytes, to rank 0.
  const Json two = report({"--tp-size", "2", "--nodes", "2"});
  rank = &two.find("ranks")->items().at(1);
  EXPECT_EQ(integer(rank, "weight_bytes"), 40960 + 81920 + 20480 + 5 * 256);
  EXPECT_EQ(integer(rank, "kv_bytes_per_token"), 256);
  EXPECT_EQ(integer(rank, "node"), 1);
  const Json* slowest = &two.find("decode")->find("slowest_ranks")->items().at(0);
  EXPECT_EQ(integer(slowest->find("traffic")->find("all_reduce"), "messages"), 4);
  EXPECT_EQ(integer(slowest->find("traffic")->find("all_reduce"), "network_bytes"), 4 * 8 * 64 * 4);
  EXPECT_EQ(integer(slowest, "rank"), 1);
  EXPECT_EQ(integer(slowest->find("traffic")->find("outputs"), "bytes"), 8 * 8);
  EXPECT_EQ(integer(two.find("decode")->find("sent"), "messages"), 2 * 4 + 1);

  // The first stage has the table and a layer with its two norms.
  const Json stages = report({"--pp-size", "2", "--dtype", "float32"});
  rank = &stages.find("ranks")->items().at(0);
  EXPECT_EQ(integer(rank, "weight_bytes"), 2 * (40960 + 81920) + 2 * 256);
  EXPECT_EQ(integer(rank, "layers"), 1);
  EXPECT_EQ(integer(&stages.find("ranks")->items().at(1), "first_layer"), 1);
  slowest = &stages.find("decode")->find("slowest_ranks")->items().at(0);
  EXPECT_EQ(integer(slowest->find("traffic")->find("send"), "bytes"), 8 * 64 * 4);
}

TEST_F(Commands, PlanRefusesWhatCannotBeShared) {
  write("model/config.json", kSmallLlama);
  const struct {
    std::vector<std::string> words;
    int status;
    const char* says;
  } wrong[] = {
      {{"--tp-size", "4"}, 1, "the 2 attention heads of model.layers.1.self_attn.o_proj.weight cannot be shared by 4"},
      {{"--tp-size", "2", "--nodes", "3"}, 1, "--nodes 3 does not divide the 2 ranks"},
      {{"--pp-size", "3"}, 1, "the model's 2 layers cannot be cut into 3 stages"},
      {{"--memory-bandwidth", "0"}, 2, "--memory-bandwidth"},
      {{"--speculative-config", R"({"method": "ngram"})", "--json"}, 1, "leave out --json"},
      {{"--nods", "2"}, 2, "did you mean --nodes?"},
  };
  for (const auto& [words, status, says] : wrong) {
    std::vector<std::string> all = words;
    all.insert(all.begin(), {"plan", path("model")});
    const Outcome outcome = weft(all);
    EXPECT_EQ(outcome.status, status) << says;
    EXPECT_NE(outcome.error.find(says), std::string::npos) << outcome.error;
  }
  EXPECT_NE(weft({"plan", path("absent")}).error.find("there is no model at "), std::string::npos);
  write("model/config.json", "[]");
  EXPECT_NE(weft({"plan", path("model/config.json")}).error.find("must be a JSON object"), std::string::npos);
}

TEST_F(Commands, Score) {
  write("in.jsonl",
        "{\"custom_id\":\"a\",\"prompt\":\"hi\"}\n{\"custom_id\":\"a\",\"prompt\":\"hi\"}\n{\"prompt\":\"hi\"}\n{"
        "\"custom_id\":"
        "\"b\",\"prompt_token_ids\":[1,2,3]}\n");
  const Outcome outcome =
      weft({"score", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("out.safetensors")});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_NE(outcome.error.find("line 2 (a): custom_id occurs twice"), std::string::npos) << outcome.error;
  EXPECT_NE(outcome.error.find("line 3 (no custom_id)"), std::string::npos) << outcome.error;
  const std::string file = read_file(path("out.safetensors")).value();
  for (const char* name : {"\"a.input_ids\"", "\"a.logits\"", "\"b.input_ids\"", "\"b.logits\""})
    EXPECT_NE(file.find(name), std::string::npos) << name;
  write("in.jsonl", "{}\n");
  EXPECT_EQ(weft({"score", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("none.safetensors")})
                .status,
            1);
  EXPECT_FALSE(fs::exists(path("none.safetensors")));
}

TEST_F(Commands, ErrorsAreOneLineAndAStatus) {
  write("in.jsonl", "{}\n");
  struct Row {
    std::vector<std::string> words;
    int status;
    const char* says;
  };
  for (const Row& row : std::initializer_list<Row>{
           {{"run", path("absent"), "hi"}, 1, "no model at"},
           {{"batch", "--model", path("model"), "--requests", path("absent.jsonl")}, 1, "--requests takes a file"},
           {{"batch", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("no/such/folder")},
            1,
            "does its folder exist"},
           {{"run", path("model"), "hi", "--temperature", "9"}, 1, "temperature must be"},
           {{"run", path("model"), "hi", "--image", "x.png"}, 1, "takes no images"},
           {{"run", path("model"), std::string(1000, 'x')}, 1, "maximum context length"},
           {{"serve", path("model"), "--host", "999.1.1.1"}, 1, "host"},
           {{"run", path("model"), "--no-such-option"}, 2, "--help"}}) {
    const Outcome outcome = weft(row.words);
    EXPECT_EQ(outcome.status, row.status) << outcome.error;
    EXPECT_TRUE(outcome.error.starts_with("weft: ")) << outcome.error;
    EXPECT_NE(outcome.error.find(row.says), std::string::npos) << outcome.error;
    EXPECT_EQ(std::count(outcome.error.begin(), outcome.error.end(), '\n'), 1) << outcome.error;
  }
}

}  // namespace
}  // namespace weft
