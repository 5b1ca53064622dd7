// See the header.
#include "orchestrate/server_info.h"

namespace weft {

namespace {

class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  void text(const char* name, std::string& target) {
    const Json* value = json_.find(name);
    if (value && value->is_string()) target = value->as_string();
    else wrong(name, "text");
  }
  void flag(const char* name, bool& target) {
    const Json* value = json_.find(name);
    if (value && value->is_bool()) target = value->as_bool();
    else wrong(name, "truth value");
  }
  template <class T>
  void number(const char* name, T& target) {
    const Json* value = json_.find(name);
    if (value && value->is_integer() && value->as_integer() >= 0 && value->as_integer() < int64_t{1} << 31)
      target = static_cast<T>(value->as_integer());
    else wrong(name, "number");
  }
  Status status;

 private:
  void wrong(const char* name, const char* what) {
    if (status.ok()) status = fail(Code::invalid_argument, "its /server_info has no ", what, " ", name);
  }
  const Json& json_;
};

}  // namespace

std::string reachable_address(const std::string& transfer, const std::string& host) {
  for (const std::string any : {"0.0.0.0:", "[::]:"})
    if (transfer.starts_with(any))
      return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + transfer.substr(any.size());
  return transfer;
}

Result<ServerInfo> read_server_info(const Json& answer) {
  ServerInfo info;
  std::string role;
  Reader reader(answer);
  reader.text("version", info.version), reader.text("instance", info.instance), reader.text("role", role);
  reader.text("model", info.model), reader.text("identity", info.identity);
  reader.flag("generative", info.generative);
  reader.number("tokens_per_block", info.tokens_per_block), reader.number("kv_cache_events", info.kv_cache_events);
  if (const Json* transfer = answer.find("transfer"); transfer && transfer->is_string())
    info.transfer = transfer->as_string();
  const Json* load = answer.find("load");
  const Json none{};
  Reader loads(load ? *load : none);
  loads.number("running", info.running), loads.number("waiting", info.waiting);
  loads.number("kv_used", info.kv_used), loads.number("kv_total", info.kv_total);
  for (const char c : info.transfer)  // it goes into a header
    if (c <= ' ' || c > '~' || c == ',')
      return fail(Code::invalid_argument, "its /server_info has a transfer address ", json_quote(info.transfer));
  WEFT_RETURN_IF_ERROR(std::move(reader.status));
  WEFT_RETURN_IF_ERROR(std::move(loads.status));
  const auto known = value_named<ServerRole>(role);
  if (!known) return fail(Code::invalid_argument, "its /server_info has an unknown role ", json_quote(role));
  info.role = *known;
  return info;
}

}  // namespace weft
