#include "kernels/conformance.h"

namespace weft::kernels {

const CpuTable& plain16_table();
const CpuTable& plain16_dot_table();

std::vector<const CpuTable*> tested_tables() {
  std::vector<const CpuTable*> tables = available_tables();
  tables.push_back(&plain16_table());
  tables.push_back(&plain16_dot_table());
  return tables;
}

}  // namespace weft::kernels
