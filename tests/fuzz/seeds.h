// Inputs that a fuzz target takes as they are, from which others are made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

std::vector<std::string> fuzz_seeds();
// Puts right what stands in front of the parser, a checksum above all, so that changed inputs reach it.
void mend(std::string& input);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
