// The `weft` command with an engine that has no model.
#include "commands.h"
#include "fake_engine.h"

int main(int count, char** words) { return weft::weft_main(count, words, weft::load_fake_engine); }
