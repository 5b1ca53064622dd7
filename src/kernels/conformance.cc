#include "kernels/conformance.h"

namespace weft::kernels {

std::vector<const CpuTable*> tested_tables() { return available_tables(); }

}  // namespace weft::kernels
