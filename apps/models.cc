// `weft models`: the architectures that this build runs, as the table that README shows.
#include "commands.h"
#include "terminal.h"

namespace weft {

Status models_command(const Arguments& arguments) {
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
