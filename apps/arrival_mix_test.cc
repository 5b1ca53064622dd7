#include "arrival_mix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace weft {
namespace {

TEST(ArrivalMix, Lengths) {
  const auto plain = parse_lengths("300");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->mean, 300);
  EXPECT_EQ(plain->p95, 0);
  const auto spread = parse_lengths("300, 1000.5");
  ASSERT_TRUE(spread.ok());
  EXPECT_EQ(spread->p95, 1000.5);
  for (const char* text : {"", "x", "0", "3x", "300,", "300,300", "300,200", "300,1200", "300,400,500", "nan", "-5"})
    EXPECT_FALSE(parse_lengths(text).ok()) << text;
}

TEST(ArrivalMix, OneClassOfEqualLengths) {
  const auto classes = classes_of({.mean = 300}, {.mean = 20.4});
  ASSERT_EQ(classes.size(), 1u);
  EXPECT_EQ(classes[0].share, 1);
  EXPECT_EQ(classes[0].input_tokens, 300);
  EXPECT_EQ(classes[0].output_tokens, 20);
}

// mu = 6 and sigma = 0.8: mean exp(6.32) = 555.573, 95th percentile exp(6 + 1.644854 x 0.8) = 1503.964. Before they
// are scaled to the mean, the classes are exp(6 + 0.8 z) with z the normal quantiles of 0.05, 0.15, ... (-1.644854,
// -1.036433, -0.674490, -0.385320, -0.125661 and their opposites): 108.22, 176.07, 235.19, 296.41, 364.84, 446.10,
// 549.09, 691.98, 924.35, 1503.96; mean 529.62, so that each is scaled by 1.04900.
TEST(ArrivalMix, SpreadLengthsAreLogNormal) {
  const auto classes = classes_of({.mean = 555.573, .p95 = 1503.964}, {.mean = 7});
  ASSERT_EQ(classes.size(), 10u);
  const std::vector<int64_t> want = {114, 185, 247, 311, 383, 468, 576, 726, 970, 1578};
  double sum = 0;
  for (size_t i = 0; i < classes.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(classes[i].input_tokens), static_cast<double>(want[i]), 1) << i;
    EXPECT_EQ(classes[i].output_tokens, 7);
    sum += classes[i].share * static_cast<double>(classes[i].input_tokens);
  }
  EXPECT_NEAR(sum, 555.573, 0.5);
  EXPECT_EQ(classes_of({.mean = 100, .p95 = 200}, {.mean = 100, .p95 = 380}).size(), 100u);
}

std::string file_with(const std::string& name, const std::string& text) {
  const auto path = std::filesystem::path(::testing::TempDir()) / name;
  std::ofstream(path) << text;
  return path;
}

TEST(ArrivalMix, FilesOfBothKinds) {
  const std::string csv = file_with("mix.csv", "share,input,output\n3, 1000 ,200\r\n\n1,50,7\n");
  const std::string yaml =
      file_with("mix.yaml", "- {share: 3, input: 1000, output: 200}\n# chat\n- share: 1\n  input: 50\n  output: 7\n");
  for (const std::string& path : {csv, yaml}) {
    const auto classes = read_arrival_mix(path);
    ASSERT_TRUE(classes.ok()) << classes.error().message();
    ASSERT_EQ(classes->size(), 2u);
    EXPECT_DOUBLE_EQ((*classes)[0].share, 0.75);
    EXPECT_EQ((*classes)[0].input_tokens, 1000);
    EXPECT_EQ((*classes)[1].output_tokens, 7);
  }
}

TEST(ArrivalMix, FaultsNameTheFileAndTheEntry) {
  const auto message = [](const std::string& name, const std::string& text) {
    const auto read = read_arrival_mix(file_with(name, text));
    return read.ok() ? "" : read.error().message();
  };
  const auto holds = [&](const std::string& name, const std::string& text, const std::string& part) {
    EXPECT_NE(message(name, text).find(part), std::string::npos) << message(name, text);
  };
  holds("a.csv", "1,2\n", "a.csv line 1 must be SHARE,INPUT,OUTPUT, three numbers, got 1,2");
  holds("a.csv", "1,2,3\n1,2,3,4\n", "a.csv line 2");
  holds("a.csv", "1,two,3\n", "a.csv line 1");
  holds("a.csv", "0,2,3\n", "a.csv line 1: the share must be more than 0, got 0");
  holds("a.csv", "1,2.5,3\n", "a.csv line 1: input must be a whole number of tokens of at least 1, got 2.5");
  holds("a.csv", "1,2,0\n", "output must be");
  holds("a.csv", "\n", "holds no requests");
  holds("a.yaml", "share: 1\n", "must hold a list");
  holds("a.yaml", "- {share: 1, input: 2}\n", "a.yaml entry 1 must have share, input and output");
  holds("a.yaml", "- {share: 1, input: 2, outputs: 2}\n", "a.yaml entry 1: output must be a number");
  holds("a.yaml", "- {share: 1, input: 2, output: many}\n", "a.yaml entry 1: output must be a number");
  holds("a.yaml", "- [", "is not valid YAML");
  holds("a.txt", "1,2,3\n", "must be a .csv or a .yaml file");
  EXPECT_FALSE(read_arrival_mix("/nonexistent.csv").ok());
}

}  // namespace
}  // namespace weft
