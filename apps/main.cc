// The `weft` command.
#include "commands.h"

int main(int count, char** words) { return weft::weft_main(count, words, weft::Engine::load); }
