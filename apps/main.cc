// The `weft` command.
#include "allocation.h"
#include "weft_main.h"

int main(int count, char** words) {
#ifdef WEFT_SANITIZED
  return weft::weft_main(count, words, weft::Engine::load);
#else
  return weft::weft_main(count, words, weft::Engine::load, &weft::throw_out_of_memory);
#endif
}
