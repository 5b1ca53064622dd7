// Commands whose output cannot be written, whose reader leaves, or that are interrupted: statuses, messages, and what
// is left. Each runs in a process of its own, since standard output and signals belong to the process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/files.h"
#include "commands.h"
#include "fake_engine.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

class Outputs : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("weft_outputs_" + std::to_string(::getpid()));
    fs::create_directories(folder_ / "model");
    std::string requests;
    for (int i = 0; i < 40; ++i)
      requests +=
          R"({"custom_id": "r)" + std::to_string(i) + R"(", "prompt": "hello there", "max_tokens": 100})" + "\n";
    std::ofstream(folder_ / "in.jsonl") << requests;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ / name; }
  std::string text(const std::string& name) const { return read_file(path(name)).value(); }

  // Starts `weft WORDS` with `prepare` done in its process; stderr goes to the file "err".
  pid_t start(const std::vector<std::string>& words, const std::function<void()>& prepare, milliseconds step) const {
    const pid_t child = ::fork();
    if (child != 0) return child;
    const int error = ::open(path("err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(error, STDERR_FILENO);
    prepare();
    std::vector<const char*> raw{"weft"};
    for (const std::string& word : words) raw.push_back(word.c_str());
    FakeOptions fake;
    fake.step = step, fake.batch = 2;
    const int status =
        weft_main(static_cast<int>(raw.size()), raw.data(),
                  [&](const std::string&, const EngineOptions& options, const Progress&) {
                    return Result<std::unique_ptr<Engine>>(std::unique_ptr<Engine>(new FakeEngine(fake, options)));
                  });
    ::_exit(status);
  }
  static int wait(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int run(const std::vector<std::string>& words, const std::function<void()>& prepare) const {
    return wait(start(words, prepare, milliseconds(0)));
  }
  static std::function<void()> stdout_to(const std::string& file) {
    return [file] { ::dup2(::open(file.c_str(), O_WRONLY), STDOUT_FILENO); };
  }
  std::vector<std::vector<std::string>> commands() const {
    const std::string model = path("model"), in = path("in.jsonl");
    fs::create_directories(folder_ / "real");
    std::ofstream(folder_ / "real" / "config.json")
        << R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
               "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 512,
               "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu"})";
    const std::string real = path("real");
    return {{"run", model, "hey", "--raw", "--max-tokens", "8"},
            {"batch", "--model", model, "--requests", in},
            {"batch", "--model", model, "--requests", in, "--out", "/dev/full"},
            {"models"},
            {"--help"},
            {"run", "--help"},
            {"--version"},
            {"plan", real},
            {"plan", real, "--json"},
            {"inspect", real, "--load-format", "dummy"},
            {"inspect", real, "--load-format", "dummy", "--json"}};
  }

  fs::path folder_;
};

TEST_F(Outputs, AFullDeviceIsStatusOneAndAReason) {
  for (const auto& words : commands()) {
    SCOPED_TRACE(words[0] + " " + words.back());
    EXPECT_EQ(run(words, stdout_to("/dev/full")), 1);
    const std::string target = words.back() == "/dev/full" ? "/dev/full" : "standard output";
    EXPECT_EQ(text("err"), "weft: cannot write to " + target + ": No space left on device\n");
  }
}

// The first file that is opened must not get its number.
TEST_F(Outputs, AClosedStandardOutputIsAnErrorToo) {
  for (const auto& words : commands()) {
    if (words.back() == "/dev/full") continue;
    SCOPED_TRACE(words[0] + " " + words.back());
    EXPECT_EQ(run(words, [] { ::close(STDOUT_FILENO); }), 1);
    EXPECT_EQ(text("err"), "weft: cannot write to standard output: Bad file descriptor\n");
  }
  const std::vector<std::string> to_file = {"batch",          "--model", path("model"),    "--requests",
                                            path("in.jsonl"), "--out",   path("out.jsonl")};
  EXPECT_EQ(run(to_file, [] { ::close(STDOUT_FILENO), ::close(STDIN_FILENO), ::close(STDERR_FILENO); }), 0);
  const std::string lines = text("out.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 40);
}

TEST_F(Outputs, AFileThatMayNotGrowIsAnErrorAndSaysWhatThereIs) {
  const std::function<void()> limited = [] {
    const rlimit small{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &small);
  };
  EXPECT_EQ(
      run({"batch", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("out.jsonl")}, limited), 1);
  const std::string part = text("out.jsonl.part");
  const auto lines = std::count(part.begin(), part.end(), '\n');
  ASSERT_GT(lines, 1);
  EXPECT_EQ(text("err"), "weft: cannot write to " + path("out.jsonl") + ": File too large (" + path("out.jsonl.part") +
                             " has the first " + std::to_string(lines) + " of 40 lines)\n");
  EXPECT_FALSE(fs::exists(path("out.jsonl")));
  EXPECT_EQ(run({"score", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("out.safetensors")},
                limited),
            1);
  EXPECT_EQ(text("err"), "weft: cannot write " + path("out.safetensors") + ": File too large\n");
  EXPECT_FALSE(fs::exists(path("out.safetensors.part")));
}

// `| head -1`: an answer of 200 tokens at 20 ms each would take 4 s.
TEST_F(Outputs, AReaderThatLeavesEndsTheAnswerSoonAndQuietly) {
  for (const auto& words :
       std::vector<std::vector<std::string>>{{"run", path("model"), "hey", "--raw", "--max-tokens", "200"},
                                             {"batch", "--model", path("model"), "--requests", path("in.jsonl")}}) {
    SCOPED_TRACE(words[0]);
    int pipe[2] = {};
    ASSERT_EQ(::pipe(pipe), 0);
    const auto begin = std::chrono::steady_clock::now();
    const pid_t child = start(words, [&] { ::dup2(pipe[1], STDOUT_FILENO), ::close(pipe[0]); }, milliseconds(20));
    ::close(pipe[1]);
    char first = 0;
    EXPECT_EQ(::read(pipe[0], &first, 1), 1);
    ::close(pipe[0]);
    EXPECT_EQ(wait(child), 1);
    EXPECT_EQ(text("err"), "");
    // The lines of a batch take 2 s each; the second one finds that nobody reads.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(words[0] == "run" ? 3 : 20));
  }
}

TEST_F(Outputs, ASignalEndsABatchWithWhatItHas) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const pid_t child = start(
        {"batch", "--model", path("model"), "--requests", path("in.jsonl"), "--out", path("out.jsonl")}, [] {},
        milliseconds(2));
    for (int i = 0; i < 1000 && (!fs::exists(path("out.jsonl.part")) || fs::file_size(path("out.jsonl.part")) == 0);
         ++i)
      std::this_thread::sleep_for(milliseconds(10));
    ::kill(child, signal);
    EXPECT_EQ(wait(child), 128 + signal);
    const std::string part = text("out.jsonl.part");
    const auto lines = std::count(part.begin(), part.end(), '\n');
    EXPECT_TRUE(part.ends_with("\n"));
    EXPECT_EQ(text("err"), std::string("weft: ended by ") + (signal == SIGINT ? "SIGINT" : "SIGTERM") + " (" +
                               path("out.jsonl.part") + " has the first " + std::to_string(lines) + " of 40 lines)\n");
    fs::remove(path("out.jsonl.part"));
  }
}

TEST_F(Outputs, ASignalEndsAnAnswer) {
  int pipe[2] = {};
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = start(
      {"run", path("model"), "hey", "--raw", "--max-tokens", "200"}, [&] { ::dup2(pipe[1], STDOUT_FILENO); },
      milliseconds(20));
  ::close(pipe[1]);
  char first = 0;
  EXPECT_EQ(::read(pipe[0], &first, 1), 1);
  ::kill(child, SIGINT);
  EXPECT_EQ(wait(child), 130);
  ::close(pipe[0]);
  EXPECT_EQ(text("err"), "weft: ended by SIGINT (the answer is not complete)\n");
}

// Files that never end, wait for somebody, or are far too large.
TEST_F(Outputs, InputsThatAreNoneAreRefusedAtOnce) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  ASSERT_EQ(::symlink("loop", path("loop").c_str()), 0);
  std::ofstream(path("sparse")).put('x');
  fs::resize_file(path("sparse"), uintmax_t{10} << 30);
  for (const char* name : {"pipe", "loop", "sparse", "model"}) {
    SCOPED_TRACE(name);
    EXPECT_NE(run({"run", path("model"), "hey", "--config", path(name)}, [] {}), 0);
    EXPECT_NE(text("err").find(path(name)), std::string::npos) << text("err");
    for (const char* file : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
      SCOPED_TRACE(file);
      fs::remove_all(path("odd"));
      fs::create_directories(path("odd"));
      std::ofstream(path("odd/config.json")) << R"({"architectures": ["LlamaForCausalLM"]})";
      fs::remove(path("odd/") + file);
      ASSERT_EQ(::symlink(path(name).c_str(), path(std::string("odd/") + file).c_str()), 0);
      EXPECT_EQ(run({"inspect", path("odd")}, [] {}), 1);
      EXPECT_NE(text("err").find(path("odd")), std::string::npos) << text("err");
    }
  }
  EXPECT_EQ(run({"batch", "--model", path("model"), "--requests", "/dev/zero"}, [] {}), 1);
  EXPECT_NE(text("err").find("/dev/zero has a line of more than"), std::string::npos) << text("err");
  EXPECT_NE(run({"inspect", "/dev/zero"}, [] {}), 0);
}

}  // namespace
}  // namespace weft
