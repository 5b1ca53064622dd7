// Between a fuzz target and clang's libFuzzer: changed inputs are mended, and some are made as the driver makes them.
//
//   PROGRAM --write-seeds FOLDER    the seeds as files, which libFuzzer begins with
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "mutate.h"
#include "target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

static const weft::FuzzMaterial& material() {
  static const weft::FuzzMaterial made = weft::fuzz_material();
  return made;
}

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc == 3 && std::strcmp((*argv)[1], "--write-seeds") == 0) {
    for (size_t s = 0; s < material().seeds.size(); ++s)
      std::ofstream(std::string((*argv)[2]) + "/seed-" + std::to_string(s), std::ios::binary) << material().seeds[s];
    std::exit(0);
  }
  material();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::mt19937_64 random(seed);
  if (random() % 2 == 0) {
    size = LLVMFuzzerMutate(data, size, max_size);
    if (random() % 16 == 0) return size;
  }
  std::string input(reinterpret_cast<const char*>(data), size);
  if (random() % 2 == 0) weft::change_input(input, material(), random);
  if (random() % 16 != 0) mend(input);
  const size_t length = std::min(input.size(), max_size);
  std::memcpy(data, input.data(), length);
  return length;
}
