// `weft models`: the architectures that this build runs, as the table that README shows; with --formats, the quantised
// folders and the GGUF files that it reads, as docs/checkpoints.md and docs/gguf.md have them.
#include "checkpoint/gguf_architecture.h"
#include "checkpoint/quant/formats.h"
#include "commands.h"
#include "terminal.h"

namespace weft {

namespace {

void print_formats(bool as_json) {
  Json folders = Json::array(), files = Json::array();
  std::string table = "| `quant_method` | what is read |\n|---|---|\n";
  for (const QuantFormat& f : quant_formats()) {
    folders.push_back(Json::object({{"quant_method", f.method}, {"reads", f.what}}));
    table += std::string("| `") + f.method + "` | " + f.what + " |\n";
  }
  table += "\n| general.architecture | computed as | what of it |\n|---|---|---|\n";
  for (const GgufArchitecture& a : gguf_architectures()) {
    files.push_back(Json::object({{"general.architecture", std::string(a.name)},
                                  {"architecture", std::string(a.architecture)},
                                  {"gives", std::string(a.gives)}}));
    for (const std::string_view cell : {a.name, a.architecture, a.gives}) table += "| " + std::string(cell) + " ";
    table += "|\n";
  }
  Json all = Json::object();
  all.set("folders", std::move(folders));
  all.set("gguf", std::move(files));
  print_out(as_json ? all.dump() + "\n" : table);
}

}  // namespace

Status models_command(const Arguments& arguments) {
  if (arguments.formats) {
    print_formats(arguments.json);
    return {};
  }
  Json list = Json::array();
  std::string table = "| architecture | gives | example | what sets it apart |\n|---|---|---|---|\n";
  for (const SupportedArchitecture& a : supported_architectures()) {
    list.push_back(
        Json::object({{"architecture", a.name}, {"gives", a.gives}, {"example", a.example}, {"features", a.features}}));
    table += "| " + a.name + " | " + a.gives + " | " + a.example + " | " + a.features + " |\n";
  }
  print_out(arguments.json ? list.dump() + "\n" : table);
  return {};
}

}  // namespace weft
