// Adapters over HTTP, as vLLM has them: names and paths are the operator's, so nothing is done unless they are allowed.
#include "server/api_server.h"
#include "server/errors.h"

namespace weft {

namespace {

// A member of the body that is a text, and not empty.
Result<std::string> text_of(const Json& body, const char* field) {
  const Json* value = body.find(field);
  if (value && value->is_string() && !value->as_string().empty()) return value->as_string();
  return fail(Code::invalid_argument, field, value ? " must be a text" : " is missing").about(field);
}

}  // namespace

Json ApiServer::adapter_card(const AdapterInfo& adapter) const {
  return Json::object({{"id", adapter.name},
                       {"object", "model"},
                       {"created", static_cast<long>(adapter.added)},
                       {"owned_by", "weft"},
                       {"parent", model_},
                       {"max_model_len", engine_->info().max_seq_len}});
}

void ApiServer::load_lora_adapter(std::shared_ptr<Exchange> exchange) {
  const auto read = read_body(exchange);
  if (!read) return;
  const auto name = text_of(read->json, "lora_name"), path = text_of(read->json, "lora_path");
  for (const auto* text : {&name, &path})
    if (!text->ok()) return respond(exchange, error_response(text->error()));
  Status done;
  if (*name == model_) done = fail(Code::invalid_argument, *name, " is the model's name").about("lora_name");
  else done = engine_->load_adapter(*name, *path);
  if (!done.ok()) return respond(exchange, error_response(done.error()));
  respond(exchange, Json::object({{"status", "loaded"}, {"lora_name", *name}}));
}

void ApiServer::unload_lora_adapter(std::shared_ptr<Exchange> exchange) {
  const auto read = read_body(exchange);
  if (!read) return;
  const auto name = text_of(read->json, "lora_name");
  if (!name.ok()) return respond(exchange, error_response(name.error()));
  if (Status done = engine_->unload_adapter(*name); !done.ok()) return respond(exchange, error_response(done.error()));
  respond(exchange, Json::object({{"status", "unloaded"}, {"lora_name", *name}}));
}

}  // namespace weft
