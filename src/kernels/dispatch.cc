// Picks the table for this machine: what the processor can do, what the operating system saves on a context switch, and
// what the environment variable WEFT_ISA asks for.
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/kernels.h"
#include "kernels/simd/tables.h"
#include "kernels/vector_table.h"

namespace weft::kernels {
namespace {

// Instruction sets that the processor has and the operating system supports.
struct Cpu {
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
};

#if defined(__x86_64__)
// Linux saves the tile registers (8 KiB a thread) only of processes that asked; all threads of this one may use them
// afterwards.
bool request_tiles() {
  // ARCH_REQ_XCOMP_PERM and the state's number, from <asm/prctl.h>
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Cpu detect() {
  Cpu cpu;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return cpu;
  const bool fma = (c & bit_FMA) && (c & bit_F16C);
  unsigned saved = 0, saved_high = 0;  // which registers the system saves: 2 SSE, 4 AVX, 0xe0 AVX-512
  asm("xgetbv" : "=a"(saved), "=d"(saved_high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
  cpu.avx2 = fma && (saved & 0x6) == 0x6 && (b & bit_AVX2);
  constexpr unsigned kParts = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  cpu.avx512 = cpu.avx2 && (saved & 0xe6) == 0xe6 && (b & kParts) == kParts;
  constexpr unsigned kTiles = 1u << 25 | 1u << 24 | 1u << 22;  // AMX-INT8, AMX-TILE and AMX-BF16
  const bool tiles = (d & kTiles) == kTiles && (saved & 0x60000) == 0x60000;
  // Every processor with the bfloat16 dot instruction has the one on bytes; the table uses both.
  cpu.avx512_bf16 =
      cpu.avx512 && (c & bit_AVX512VNNI) && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVX512BF16);
  cpu.amx = cpu.avx512_bf16 && tiles && request_tiles();
  return cpu;
}
#else
Cpu detect() { return {}; }
#endif

}  // namespace

std::vector<const CpuTable*> available_tables() {
  static const Cpu cpu = detect();
  std::vector<const CpuTable*> tables = {&ref_table()};
#if defined(__x86_64__)
  if (cpu.avx2) {
    static const CpuTable table = vector_table<16>("avx2", Operand::f32_as_bf16, fill_avx2);
    tables.push_back(&table);
  }
  if (cpu.avx512) {
    static const CpuTable table = vector_table<64>("avx512", Operand::f32_as_bf16, fill_avx512);
    tables.push_back(&table);
  }
  if (cpu.avx512_bf16) {
    static const CpuTable table = vector_table<64>("avx512_bf16", Operand::bf16, fill_avx512_bf16);
    tables.push_back(&table);
  }
  if (cpu.amx) {
    static const CpuTable table = vector_table<64, 16>("amx", Operand::bf16, fill_amx);
    tables.push_back(&table);
  }
#endif
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
