// embed MODEL PROMPT: loads a model, generates 16 tokens and prints them. All that a program needs of weft's library.
#include <cstdio>
#include <future>

#include "api/engine.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("embed MODEL PROMPT\n", stderr);
    return 2;
  }
  auto engine = weft::Engine::load(argv[1], {});
  if (!engine.ok()) {
    std::fprintf(stderr, "embed: %s\n", engine.error().to_string().c_str());
    return 1;
  }
  weft::Request request;
  request.prompt = argv[2];
  request.max_tokens = 16;
  request.sampling.temperature = 0;

  // Events come on the engine's thread, the last one marked.
  std::promise<std::string> failure;  // empty: none
  const auto id = (*engine)->submit(request, [&](const weft::Event& event) {
    std::fputs(event.text.c_str(), stdout);
    if (event.last_of_request) failure.set_value(event.error ? event.error->to_string() : "");
  });
  const std::string error = id.ok() ? failure.get_future().get() : id.error().to_string();
  std::fputs("\n", stdout);
  if (!error.empty()) std::fprintf(stderr, "embed: %s\n", error.c_str());
  return error.empty() ? 0 : 1;
}
