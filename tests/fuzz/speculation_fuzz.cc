// The value of --speculative-config: what is taken is within the ranges, and every key of it was known.
#include "api/speculative_config.h"
#include "target.h"

using namespace weft;

std::vector<std::string> fuzz_seeds() {
  return {R"({"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":5,"prompt_lookup_min":2})",
          R"({"method":"eagle3","model":"a/b","num_tokens":3,"one_model":false,"dtype":"float32","threads":2})",
          R"({"decoding_type":"Eagle","max_draft_len":3,"speculative_model":"x","eagle3_one_model":true})",
          R"({"decoding_type":"MTP","num_nextn_predict_layers":2})",
          R"({"method":"draft_model","model":"m","max_tokens":8,"layers":[1,2]})",
          "ngram",
          "none",
          "{}",
          "null",
          "auto",
          R"({"decoding_type":"NGram","max_matching_ngram_size":4,"is_public_pool":true})"};
}
std::vector<std::string> fuzz_words() {
  return {"\"method\":",
          "\"num_tokens\":",
          "\"model\":",
          "\"layers\":[",
          "\"mtp\"",
          "\"ngram\"",
          "\"ngram_min\":",
          "\"ngram_max\":",
          "\"ngram_shared\":",
          "17",
          "-1",
          "0",
          "1e9",
          "null",
          "true",
          "[]",
          "\"decoding_type\":"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto read = read_speculation(copy_of(data, size));
  if (!read.ok()) return require_message(read.error()), 0;
  require(check_speculation(*read).ok(), "what is read is within the ranges");
  require(read->most() >= 0 && read->most() <= kMostDrafts, "drafts of a step are bounded");
  require(read->ngram_min >= 1 && read->ngram_min <= read->ngram_max, "runs of tokens have a length");
  return 0;
}
