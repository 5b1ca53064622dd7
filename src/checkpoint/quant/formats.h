// The quantised formats of Hugging Face folders: one reader for each, behind a list of them.
#pragma once

#include <span>
#include <string_view>

#include "checkpoint/quant/joiner.h"

namespace weft {

struct QuantFormat {
  const char* method;  // quant_method
  const char* what;    // as docs/checkpoints.md lists it
  Status (*join)(Joiner& joiner);
};

// All that are read, by quant_method. docs/checkpoints.md has this list (tests/guards).
std::span<const QuantFormat> quant_formats();
const QuantFormat* find_quant_format(std::string_view method);

// Each replaces the tensors of quantised modules by the matrix that they make, or refuses them (Code::unsupported for
// what is not read, data_corrupt and not_found for what contradicts itself) with the first such tensor's name.
Status join_fp8(Joiner& joiner);
Status join_awq(Joiner& joiner);
Status join_gptq(Joiner& joiner);
Status join_compressed(Joiner& joiner);
Status join_modelopt(Joiner& joiner);
Status join_bitsandbytes(Joiner& joiner);
Status join_mxfp4(Joiner& joiner);

}  // namespace weft
