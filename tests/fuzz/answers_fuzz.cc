// What other servers answer, or say in headers: server_info, events of a cache, entries of etcd, answers to lines of a
// batch, names of context servers. The first byte says which.
#include <algorithm>
#include <map>

#include "batch_lines.h"
#include "http_lines.h"
#include "orchestrate/cached_blocks.h"
#include "orchestrate/server_info.h"
#include "orchestrate/server_list.h"
#include "server/cluster.h"
#include "server/context_servers.h"
#include "server/etcd_client.h"
#include "target.h"

using namespace weft;

namespace {

void server_info(const Json& answer) {
  const auto info = read_server_info(answer);
  if (!info.ok()) return require_message(info.error());
  require(info->tokens_per_block >= 0 && info->kv_cache_events >= 0, "numbers of a server are no less than none");
  const std::string url = "http://10.0.0.1:8000";
  ServerList list(RouterKind::kv_cache_aware, RouterKind::load_balancing);
  list.set_members({{*parse_server_url(url), {}}, {*parse_server_url("http://10.0.0.2:8000"), {}}});
  list.take_info(url, *info), list.take_info("http://10.0.0.2:8000", *info);
  for (const bool generation : {false, true})
    if (const auto ticket = list.choose({.generation = generation, .prompt_tokens = 5})) {
      ticket->prompt_done();
      require(list.status()[0].in_flight + list.status()[1].in_flight == 1, "a chosen server has a request");
    }
  require(list.status()[0].in_flight + list.status()[1].in_flight == 0, "and none when its ticket is gone");
}

// The set of the events by its definition.
size_t blocks_of(const Json& events) {
  std::map<std::string, int> counts;
  for (const Json& event : events.items()) {
    int& count = counts[event.find("block_hash")->as_string().substr(0, 32)];
    count = event.find("type")->as_string() == "removed" ? std::max(0, count - 1) : count + 1;
  }
  return static_cast<size_t>(std::ranges::count_if(counts, [](const auto& one) { return one.second > 0; }));
}

void cache_events(const Json& answer) {
  CachedBlocks blocks;
  const Status applied = blocks.apply(answer);
  if (!applied.ok()) {
    require(blocks.size() == 0, "after an answer that is none the set is empty");
    return require_message(applied.error());
  }
  std::string text = answer.dump();
  const bool upper = std::ranges::any_of(text, [](char c) { return c >= 'A' && c <= 'F'; });
  require(upper || blocks.size() == blocks_of(*answer.find("events")), "the set is that of the events");
  blocks.restart();
  require(blocks.size() == 0 && blocks.event() == 0, "a restarted set is empty");
}

void etcd_range(const Json& answer) {
  const auto range = read_etcd_range(answer, "etcd");
  if (!range.ok()) return require_message(range.error());
  for (const EtcdEntry& one : range->entries) {
    const auto entry = parse_entry(one.key, one.value);
    if (!entry.ok()) {
      require_message(entry.error());
      continue;
    }
    const auto again = parse_entry(entry->id, entry_json(*entry));
    require(again.ok() && *again == *entry, "an entry is written as it is read");
  }
}

RequestLine line_with_everything() {
  RequestLine line;
  line.number = 1, line.custom_id = "a", line.request = Request(), line.logprobs = 2, line.prompt_logprobs = 1;
  line.request->sampling.generation_logits = true;
  return line;
}

void batch_answer(const std::string& body) {
  static const RequestLine line = line_with_everything();
  for (const int status : {200, 400, 503}) {
    HttpReply reply;
    reply.status = status, reply.body = body;
    const BatchOutcome outcome = outcome_of(line, reply, "http://a:1");
    require(status == 200 || outcome.error.has_value(), "a status that is no success is an error");
    const auto written = parse_json(output_line(line, outcome));
    require(written.ok() && written->find("custom_id") != nullptr, "a line of the output is JSON with its name");
  }
}

void addresses(const std::string& text) {
  std::vector<std::string> servers;
  HttpRequest request;
  request.headers = {{"weft-context-servers", text}};
  if (!read_context_servers(request, "", servers))
    require(servers.size() <= kMostContextServers, "no more servers are taken than the limit");
  if (const auto url = parse_server_url(text); url.ok()) {
    const auto again = parse_server_url(url->text());
    require(again.ok() && again->text() == url->text(), "an address is written as it is read");
  }
  if (const auto cluster = parse_cluster_url(text); cluster.ok())
    require(cluster->prefix().starts_with("/weft/") && cluster->name.find('/') == std::string::npos,
            "a deployment's keys lie below its name");
  (void)reachable_address(text, "host");
}

void names(const std::string& text) {
  const auto name = read_block_name(text);
  require(!name.ok() || text.size() == 64, "a block's name has 64 digits");
}

constexpr unsigned kKinds = 6;

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::string hash(64, 'a'), other(64, '7');
  return {
      '\0' + std::string(R"({"version":"0.1.0","instance":"i","role":"both","model":"m","identity":"x","transfer":)"
                         R"("0.0.0.0:9","generative":true,"tokens_per_block":32,"kv_cache_events":100,)"
                         R"("load":{"running":1,"waiting":0,"kv_used":3,"kv_total":9}})"),
      '\1' + (R"({"events":[{"event_id":0,"type":"stored","block_hash":")" + hash + R"(","group":0},{"event_id":1,)" +
              R"("type":"removed","block_hash":")" + hash + R"("},{"type":"stored","block_hash":")" + other +
              R"("}],"lost":0,"next_event_id":3})"),
      '\2' + std::string(R"({"header":{"revision":"12"},"kvs":[{"key":"YTox","value":)"
                         R"("eyJpZCI6ImE6MSIsInVybCI6Imh0dHA6Ly9hOjEiLCJyb2xlIjoiYm90aCJ9"}],"count":"1"})"),
      '\3' + std::string(R"({"choices":[{"index":0,"text":"x","finish_reason":"length","stop_reason":null,)"
                         R"("token_ids":[1,2],"logprobs":{"tokens":["token_id:1","token_id:2"],"token_logprobs":)"
                         R"([-0.5,null],"top_logprobs":[{"token_id:1":-0.5,"token_id:3":-1},null]},)"
                         R"("prompt_logprobs":[null,{"5":{"logprob":-1.5,"rank":3}}],"generation_logits":)"
                         R"([[1,2,3],[4,5,6]],"context_logits":[[1,2,3]],"seed":7}],"usage":{"prompt_tokens":2,)"
                         R"("completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}},"warnings":["w"]})"),
      '\3' + std::string(R"({"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop",)"
                         R"("logprobs":{"content":[{"token":"token_id:5","logprob":-1,"top_logprobs":[{"token":)"
                         R"("token_id:6","logprob":-2}]}]}}],"prompt_logprobs":[null]})"),
      '\3' + std::string(R"({"choices":[{"generation_logits":[[1,2],[3]]},{"generation_logits":[[]]}]})"),
      '\3' + std::string(R"({"error":{"message":"m","type":"t","code":"resource_exhausted","param":null}})"),
      std::string("\4") + "10.0.0.1:80,[::1]:9",
      std::string("\4") + "http://host:80",
      std::string("\4") + "etcd://host:2379/name",
      '\5' + hash,
  };
}
std::vector<std::string> fuzz_words() {
  return {"null",           "[]",     "{}",  "-1", "1e300",       "9223372036854775807", "\"stored\"", "\"removed\"",
          "\"lost\":",      ":99999", "[::", "]",  "token_id:-1", "[1,2],[3]",           "[[],[1]]",   "\"context\"",
          "\"generation\"", ",,",     "@",   "%00"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text = copy_of(data, size);
  const unsigned kind = take_choice(text, kKinds);
  if (kind == 3) return batch_answer(text), 0;
  if (kind == 4) return addresses(text), 0;
  if (kind == 5) return names(text), 0;
  const auto answer = parse_json(text);
  if (!answer.ok()) return 0;
  if (kind == 0) server_info(*answer);
  else if (kind == 1) cache_events(*answer);
  else etcd_range(*answer);
  return 0;
}
