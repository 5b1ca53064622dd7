#include "base/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/sha256.h"

namespace weft {
namespace {

struct Search {
  uintptr_t address;  // in the object that is looked for
  std::string id;
};

std::string id_of_notes(const std::byte* notes, size_t bytes) {
  const auto padded = [](size_t size) { return (size + 3) / 4 * 4; };
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= bytes;) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes + at, sizeof note);
    const size_t name = at + sizeof note, content = name + padded(note.n_namesz);
    if (content + note.n_descsz > bytes) break;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(notes + name, "GNU", 4) == 0) {
      return hex_of({reinterpret_cast<const uint8_t*>(notes + content), note.n_descsz});
    }
    at = content + padded(note.n_descsz);
  }
  return {};
}

int look_at(dl_phdr_info* object, size_t, void* data) {
  auto& search = *static_cast<Search*>(data);
  bool ours = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + part.p_vaddr;
    ours |= part.p_type == PT_LOAD && search.address >= begin && search.address < begin + part.p_memsz;
  }
  for (int i = 0; ours && search.id.empty() && i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    if (part.p_type == PT_NOTE)
      search.id = id_of_notes(reinterpret_cast<const std::byte*>(object->dlpi_addr + part.p_vaddr), part.p_memsz);
  }
  return ours ? 1 : 0;
}

}  // namespace

std::string build_id() {
  Search search{reinterpret_cast<uintptr_t>(&look_at), {}};
  ::dl_iterate_phdr(look_at, &search);
  return search.id;
}

}  // namespace weft
