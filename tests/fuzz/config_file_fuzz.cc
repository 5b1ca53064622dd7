// Configuration files (YAML), files of arrival mixes (YAML and CSV), and lengths on the command line. The first byte
// says which.
#include <cmath>

#include "arrival_mix.h"
#include "config_file.h"
#include "target.h"

using namespace weft;

namespace {

const FuzzFolder& folder() {
  static const FuzzFolder made;
  return made;
}

void config(const std::string& text) {
  const auto entries = read_config_file(folder().put("c.yaml", text));
  if (entries.ok()) {
    for (const ConfigEntry& entry : *entries) {
      require(!entry.option.empty() && entry.option.find('_') == std::string::npos, "an option has dashes");
      require(entry.line > 0, "an entry has a line");
    }
  } else {
    require_message(entries.error());
  }
  const auto whole = read_yaml_file(folder().file("c.yaml"));
  if (!whole.ok()) return require_message(whole.error());
  const auto again = parse_json(whole->dump(), {.max_depth = 100'000});
  require(again.ok() && *again == *whole, "what a YAML file holds is JSON");
}

void check_mix(const Result<std::vector<RequestClass>>& mix) {
  if (!mix.ok()) return require_message(mix.error());
  require(!mix->empty(), "a mix has classes");
  double sum = 0;
  for (const RequestClass& one : *mix) {
    require(std::isfinite(one.share) && one.share >= 0, "a share is a number");
    require(one.input_tokens > 0 && one.output_tokens > 0, "prompts and answers have tokens");
    sum += one.share;
  }
  require(std::abs(sum - 1) < 1e-6, "shares make a whole");
}

void lengths(const std::string& text) {
  const auto read = parse_lengths(text);
  if (!read.ok()) return require_message(read.error());
  require(read->mean > 0 && std::isfinite(read->mean) && std::isfinite(read->p95), "lengths are numbers");
  require(read->p95 == 0 || read->p95 >= read->mean, "most are no shorter than the mean");
  check_mix(classes_of(*read, *read));
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {std::string("\0", 1) +
              "host: 0.0.0.0\nport: 8000\nmax_batch_size: 8  # text\nlogits_processors: [a.so, b.so]\n"
              "speculative_config:\n  method: ngram\n  num_tokens: 4\n",
          std::string("\0", 1) + "a: &x {b: [1, 2.5, true, ~, 'q', \"\\u00e9\"]}\nc: *x\nd: |\n  text\n  more\n",
          std::string("\0", 1) + "---\n? k\n: v\n...\n---\nz: !!str 1\n",
          std::string("\0", 1) + "a: \xbc\n",
          std::string("\0a: b\0\0\0\0", 9),
          std::string("\0", 1) + "\"\": x\n",
          "\1- {share: 1, input: 100, output: 20}\n- {share: 3, input: 10.5, output: 7}\n",
          "\2share,input,output\n0.5,100,20\n1.5,1000,200\n",
          "\3"
          "1000,3000",
          "\3"
          "512"};
}
std::vector<std::string> fuzz_words() {
  return {": ",     "- ",           "\n  ",  "{",          "}",   "[",  "]", "&a ",   "*a",
          "<<: *a", "!!int ",       "|\n",   ">\n",        "\"",  "'",  "#", "---\n", "share",
          "input",  "output",       "1e400", "nan",        "inf", "-1", "0", "\t",    "? ",
          "~",      "\xef\xbb\xbf", ",",     "%YAML 1.2\n"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text = copy_of(data, size);
  switch (take_choice(text, 4)) {
    case 0: config(text); break;
    case 1: check_mix(read_arrival_mix(folder().put("m.yaml", text))); break;
    case 2: check_mix(read_arrival_mix(folder().put("m.csv", text))); break;
    default: lengths(text);
  }
  return 0;
}
