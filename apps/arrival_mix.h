// Which requests a deployment is planned for: lengths from the command line, or from a file.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "plan/deployment.h"

namespace weft {

// Tokens of prompts or answers: all alike, or spread so that 95 % have no more than p95.
struct TokenLengths {
  double mean = 0, p95 = 0;  // p95 0: all have `mean`
};

// "MEAN" or "MEAN,P95". P95 is between MEAN and 3.8 times as much, which is as far as a log-normal distribution goes.
Result<TokenLengths> parse_lengths(const std::string& text);

// Ten classes alike likely for every one that is spread (a log-normal distribution with this mean and 95th percentile,
// each class at the middle of its tenth, scaled so that the mean holds); prompts and answers do not depend on each
// other.
std::vector<RequestClass> classes_of(const TokenLengths& input, const TokenLengths& output);

// A file of classes. FILE.csv: lines "SHARE,INPUT,OUTPUT", after a first line that may say "share,input,output";
// FILE.yaml: a list of {share: S, input: TOKENS, output: TOKENS}. Shares count relative to their sum. Errors name the
// file and the entry.
Result<std::vector<RequestClass>> read_arrival_mix(const std::string& path);

}  // namespace weft
