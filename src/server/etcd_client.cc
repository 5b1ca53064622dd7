// See the header. 64-bit numbers are strings in these JSON messages, keys and values are base64, and members with the
// value 0 are left out.
#include "server/etcd_client.h"

#include <charconv>

#include "server/base64.h"

namespace weft {

namespace {

// etcd reports errors with the numbers of gRPC.
constexpr int kGrpcNotFound = 5;

int64_t integer_in(const Json& object, std::string_view name) {
  const Json* member = object.is_object() ? object.find(name) : nullptr;
  if (!member) return 0;
  if (member->is_integer()) return member->as_integer();
  if (!member->is_string()) return 0;
  const std::string& text = member->as_string();
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string text_in(const Json& object, std::string_view name) {
  const Json* member = object.is_object() ? object.find(name) : nullptr;
  return member && member->is_string() ? member->as_string() : std::string();
}

Json lease_json(int64_t lease) { return Json::object({{"ID", std::to_string(lease)}}); }

// The first key behind all those that begin with `prefix`.
std::string end_of(std::string prefix) {
  while (!prefix.empty() && static_cast<uint8_t>(prefix.back()) == 255) prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix.empty() ? std::string(1, '\0') : prefix;  // a zero: to the end of all keys
}

Error answer_error(const std::string& place, const HttpReply& reply) {
  const auto parsed = parse_json(reply.body);
  const std::string said = parsed.ok() ? text_in(*parsed, "error") : "";
  if (said.empty()) return fail(Code::internal, place, " is not etcd's v3 API: it answers with status ", reply.status);
  return fail(integer_in(*parsed, "code") == kGrpcNotFound ? Code::not_found : Code::internal, place, ": ", said);
}

}  // namespace

Result<Json> EtcdClient::call(const std::string& path, const Json& body) {
  const std::string place = "etcd at " + server_.text();
  HttpClient client(server_, {}, std::chrono::duration_cast<std::chrono::seconds>(kPatience));
  HttpReply reply;
  reply.failure = HttpReply::Failure::timed_out, reply.problem = "no answer in time";
  client.post("/v3/" + path, body.dump(), [&](HttpReply answer) {
    reply = std::move(answer);
    client.stop();
  });
  client.after(kPatience, [&] { client.stop(); });
  client.run();
  if (reply.failure != HttpReply::Failure::none)
    return fail(Code::unavailable, place, " cannot be reached: ", reply.problem);
  if (reply.status != 200) return answer_error(place + "/v3/" + path, reply);
  auto parsed = parse_json(reply.body);
  if (!parsed.ok() || !parsed->is_object())
    return fail(Code::internal, place, "/v3/", path, " is not etcd's v3 API: its answer is no JSON object");
  return parsed;
}

Result<int64_t> EtcdClient::grant(int seconds) {
  WEFT_TRY(const Json answer, call("lease/grant", Json::object({{"TTL", std::to_string(seconds)}})));
  const int64_t lease = integer_in(answer, "ID");
  if (lease == 0) return fail(Code::internal, "etcd at ", server_.text(), " granted no lease");
  return lease;
}

Status EtcdClient::keep_alive(int64_t lease) {
  WEFT_TRY(const Json answer, call("lease/keepalive", lease_json(lease)));
  const Json* result = answer.find("result");
  if (!result || integer_in(*result, "TTL") <= 0)
    return fail(Code::not_found, "etcd at ", server_.text(), " has no lease ", lease, " any more");
  return {};
}

Status EtcdClient::revoke(int64_t lease) {
  WEFT_TRY(const Json answer, call("lease/revoke", lease_json(lease)));
  return {};
}

Status EtcdClient::put(const std::string& key, const std::string& value, int64_t lease) {
  Json body = Json::object({{"key", encode_base64(key)}, {"value", encode_base64(value)}});
  if (lease != 0) body.set("lease", std::to_string(lease));
  WEFT_TRY(const Json answer, call("kv/put", body));
  return {};
}

Status EtcdClient::remove(const std::string& key) {
  WEFT_TRY(const Json answer, call("kv/deleterange", Json::object({{"key", encode_base64(key)}})));
  return {};
}

Result<EtcdEntries> EtcdClient::list(const std::string& prefix) {
  const Json body = Json::object({{"key", encode_base64(prefix)}, {"range_end", encode_base64(end_of(prefix))}});
  WEFT_TRY(const Json answer, call("kv/range", body));
  return read_etcd_range(answer, "etcd at " + server_.text());
}

Result<EtcdEntries> read_etcd_range(const Json& answer, const std::string& place) {
  EtcdEntries found;
  const Json* header = answer.find("header");
  if (!header) return fail(Code::internal, place, " answered a range without a header");
  found.revision = integer_in(*header, "revision");
  const Json* items = answer.find("kvs");
  if (!items) return found;
  if (!items->is_array()) return fail(Code::internal, place, " answered a range without a list");
  for (const Json& item : items->items()) {
    WEFT_TRY(std::string key, decode_base64(text_in(item, "key")));
    WEFT_TRY(std::string value, decode_base64(text_in(item, "value")));
    found.entries.push_back({std::move(key), std::move(value)});
  }
  return found;
}

}  // namespace weft
