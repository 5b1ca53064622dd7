// The `weft` command.
#include "allocation.h"
#include "commands.h"

int main(int count, char** words) {
#ifndef WEFT_SANITIZED
  weft::throw_out_of_memory();
#endif
  return weft::weft_main(count, words, weft::Engine::load);
}
