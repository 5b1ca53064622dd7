// Picks the table for this machine: what the processor can do, what the operating system saves on a context switch, and what the
// environment variable WEFT_ISA asks for.
#include <cstdlib>
#include <string_view>

#include "kernels/kernels.h"

namespace weft::kernels {

std::vector<const CpuTable*> available_tables() {
  std::vector<const CpuTable*> tables = {&ref_table()};
  return tables;
}

const CpuTable* cpu_table() {
  const std::vector<const CpuTable*> tables = available_tables();
  const char* wanted = std::getenv("WEFT_ISA");
  if (!wanted || !*wanted) return tables.back();
  for (const CpuTable* table : tables) {
    if (std::string_view(table->isa) == wanted) return table;
  }
  return nullptr;
}

}  // namespace weft::kernels
