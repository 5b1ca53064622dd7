// The safetensors header reader against files that contradict themselves, by design and by chance.
#include "checkpoint/safetensors.h"

#include <random>

#include "checkpoint/test_folder.h"

namespace weft {
namespace {

std::string problem_of(const std::string& file) {
  const auto parsed = parse_safetensors(std::as_bytes(std::span(file)), "some.file");
  return parsed.ok() ? "ok" : parsed.error().message();
}

std::string problem(const std::string& header, size_t data_bytes = 8) {
  return problem_of(safetensors_bytes(header, data_bytes));
}

TEST(Safetensors, GoodFilesAreRead) {
  const std::string file = safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("none":{"dtype":"I64","shape":[3,0],"data_offsets":[8,8]},"one":{"shape":[],"data_offsets":[12,13],"dtype":"U8"}}     )",
      13);
  const auto parsed = parse_safetensors(std::as_bytes(std::span(file)), "f");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  ASSERT_EQ(parsed->size(), 4u);
  for (const TensorInfo& tensor : *parsed) {
    const int64_t at = reinterpret_cast<const char*>(tensor.data.data()) - (file.data() + file.size() - 13);
    if (tensor.name == "a") {
      EXPECT_TRUE(at == 0 && tensor.type == StorageType::f32 && tensor.shape == std::vector<int64_t>{2});
    } else if (tensor.name == "b") {
      EXPECT_TRUE(at == 8 && tensor.data.size() == 4 && tensor.type == StorageType::bf16);
    } else if (tensor.name == "none") {
      EXPECT_TRUE(tensor.data.empty() && tensor.values() == 0);
    } else {
      EXPECT_TRUE(tensor.name == "one" && at == 12 && tensor.shape.empty() && tensor.values() == 1);
    }
  }
}

TEST(Safetensors, ContradictionsAreRefusedByName) {
  const auto one = [](const char* dtype, const char* shape, const char* offsets) {
    return "{\"a\":{\"dtype\":" + std::string(dtype) + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  EXPECT_EQ(problem(one("\"F32\"", "[2]", "[0,8]")), "ok");
  struct Case {
    std::string header;
    const char* part;
  };
  const Case cases[] = {
      {"", "header"},
      {"{", "header"},
      {"[]", "header"},
      {"{} x", "header"},
      {"\xef\xbb\xbf{}", "header"},
      {"{\"\xff\":1}", "header"},
      {std::string("{}\0", 3), "NUL"},
      {R"({"a":[[[[[[[[]]]]]]]]})", "header"},
      {"{}", "cover"},
      {R"({"a":5})", "\"a\""},
      {R"({"__metadata__":{"x":1}})", "__metadata__"},
      {R"({"__metadata__":[]})", "__metadata__"},
      {one("\"F32\"", "[2]", "[8,0]"), "backwards"},
      {one("\"F32\"", "[4]", "[0,16]"), "end at 16"},
      {one("\"F32\"", "[1]", "[0,4]"), "cover 4"},
      {one("\"F32\"", "[1]", "[4,8]"), "begin at 4"},
      {one("\"F32\"", "[2]", "[-8,8]"), "data_offsets"},
      {one("\"F32\"", "[2]", "[0.0,8]"), "data_offsets"},
      {one("\"F32\"", "[2]", "[0]"), "data_offsets has 1"},
      {one("\"F32\"", "[2]", "{}"), "data_offsets is"},
      {one("\"F32\"", "[2]", "[0,18446744073709551615]"), "data_offsets"},
      {one("\"F32\"", "[3]", "[0,8]"), "needs 12"},
      {one("\"F32\"", "[-2]", "[0,8]"), "shape"},
      {one("\"F32\"", "[2.0]", "[0,8]"), "shape"},
      {one("\"F32\"", "8", "[0,8]"), "shape"},
      {one("\"F32\"", "[4611686018427387904,4]", "[0,8]"), "overflows"},
      {one("\"F32\"", "[4611686018427387904,4,0]", "[0,8]"), "overflows"},
      {one("\"I1000\"", "[9223372036854775807,7]", "[0,8]"), "overflows"},
      {one("3", "[2]", "[0,8]"), "dtype"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "no dtype"},
      {R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", "shape twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       "\"b\""},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       "\"a\" twice"},
  };
  for (const Case& c : cases) {
    const std::string message = problem(c.header);
    EXPECT_NE(message.find(c.part), std::string::npos) << c.header << "\n" << message;
    EXPECT_TRUE(message.starts_with("some.file: ")) << message;
  }
  const std::string good = safetensors_bytes(one("\"F32\"", "[2]", "[0,8]"), 8);
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_NE(problem_of(good.substr(0, size)), "ok") << "cut at " << size;
  EXPECT_NE(problem_of(good + "x"), "ok");
  EXPECT_NE(problem_of(std::string(8, '\xff') + "{}").find("header length"), std::string::npos);
}

TEST(Safetensors, RandomDamageNeverCrashes) {
  const std::string good = safetensors_bytes(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
      12);
  std::mt19937 rng(5);
  for (int round = 0; round < 20000; ++round) {
    std::string file = good;
    for (int n = 1 + static_cast<int>(rng() % 4); n > 0; --n)
      file[rng() % file.size()] = static_cast<char>(rng() % 2 ? rng() : "0123456789[]{},:\""[rng() % 17]);
    file.resize(rng() % 8 == 0 ? rng() % file.size() : file.size());
    // A heap copy of just this size, so that the sanitizer sees a read past its end.
    const std::vector<char> exact(file.begin(), file.end());
    const auto parsed = parse_safetensors(std::as_bytes(std::span(exact)), "file");
    if (!parsed.ok()) continue;
    for (const TensorInfo& tensor : *parsed)
      if (is_float(tensor.type)) (void)read_all(tensor).ok();
  }
}

// Their values take no bytes that the file must have, so their number is no reason to take memory.
TEST(Safetensors, ValuesOfUnknownTypesAreNotRead) {
  TensorInfo tensor;
  tensor.name = "w", tensor.type = StorageType::unknown, tensor.shape = {int64_t{1} << 40, 3};
  const auto values = read_all(tensor);
  ASSERT_FALSE(values.ok());
  EXPECT_EQ(values.error().message().find("w holds "), 0u) << values.error().message();
}

}  // namespace
}  // namespace weft
