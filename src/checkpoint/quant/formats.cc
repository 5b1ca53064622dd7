#include "checkpoint/quant/formats.h"

namespace weft {
namespace {

constexpr QuantFormat kFormats[] = {
    {"fp8", "FP8 (e4m3) with a scale per tensor, row or block", join_fp8},
    {"fbgemm_fp8", "FP8 (e4m3) with a scale per row", join_fp8},
    {"awq", "4 bits, gemm layout, any group size, zero points", join_awq},
    {"gptq", "2, 3, 4 and 8 bits, any group size, symmetric or not, act order, zero points of both formats, `dynamic`",
     join_gptq},
    {"compressed-tensors",
     "pack-quantized (1 to 8 bits), int-quantized, float-quantized, naive-quantized, nvfp4-pack-quantized, "
     "mxfp4-pack-quantized, mxfp8-quantized, mixed-precision; scales per tensor, row, group or block, act order",
     join_compressed},
    {"modelopt", "FP8, NVFP4, W4A16_AWQ, INT8, MXFP8, MIXED_PRECISION", join_modelopt},
    {"bitsandbytes", "nf4 and fp4 (scales nested or not), int8", join_bitsandbytes},
    {"mxfp4", "MXFP4 blocks of 32", join_mxfp4},
};

}  // namespace

std::span<const QuantFormat> quant_formats() { return kFormats; }

const QuantFormat* find_quant_format(std::string_view method) {
  for (const QuantFormat& format : kFormats)
    if (method == format.method) return &format;
  return nullptr;
}

}  // namespace weft
