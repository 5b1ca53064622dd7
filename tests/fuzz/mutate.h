// Makes inputs out of a target's seeds.
#pragma once

#include <random>
#include <string>
#include <vector>

namespace weft {

struct FuzzMaterial {
  std::vector<std::string> seeds, words;
};
FuzzMaterial fuzz_material();

// One change: a flipped bit, another number, a cut, a piece of another seed, a word of the language.
void change_input(std::string& input, const FuzzMaterial& material, std::mt19937_64& random);
// A seed with some changes, mostly mended.
std::string next_input(const FuzzMaterial& material, std::mt19937_64& random);

}  // namespace weft
