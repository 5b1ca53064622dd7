// check_text: runs reference cases for tokenizers and chat templates that lie outside the repository.
//   check_text tokenizer FOLDER [CASES.json]       tokenizer.json of the folder against its cases.json
//   check_text gguf VOCABULARY.json CASES.json     GGUF metadata (as JSON) against the cases
//   check_text load FOLDER                         loads the tokenizer, encodes and decodes a few texts: prints ids or
//     the error
//   check_text templates FOLDER NOW_UNIX_S         cases.json of a folder with NAME.jinja files; strftime_now shows
//     NOW_UNIX_S
//   check_text traits FOLDER                       what each NAME.jinja of the folder takes
//   check_text render FOLDER INPUT.json            the folder's template with {messages, tools, chat_template_kwargs}:
//     prints it
// Prints each difference and a summary line; exit status 1 if there was a difference.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/folder.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace weft {
namespace {

using Ids = std::vector<int32_t>;

struct Tally {
  int checks = 0, differences = 0;
  template <class T>
  void compare(const std::string& where, const T& got, const T& wanted) {
    ++checks;
    if (got == wanted) return;
    if (++differences <= 40)
      std::printf("DIFF %s\n  got    %s\n  wanted %s\n", where.c_str(), show(got).c_str(), show(wanted).c_str());
  }
  static std::string show(const std::string& text) { return json_quote(text).substr(0, 600); }
  static std::string show(const Ids& ids) {
    std::string out;
    for (int32_t id : ids) out += std::to_string(id) + " ";
    return out.substr(0, 600);
  }
};

Ids ids_of(const Json& list) {
  Ids out;
  for (const Json& id : list.items()) out.push_back(static_cast<int32_t>(id.as_integer()));
  return out;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string streamed(const std::shared_ptr<const Tokenizer>& tokenizer, const Ids& ids, bool skip_special,
                     std::vector<std::string>* pieces) {
  Detokenizer stream(tokenizer, skip_special);
  std::string joined;
  for (int32_t id : ids) {
    std::string piece = stream.push(id);
    joined += piece;
    if (!piece.empty() && pieces != nullptr) pieces->push_back(std::move(piece));
  }
  return joined + stream.finish();  // the reference's stream has no finish, so its pieces are compared without
}

void check_case(const std::shared_ptr<const Tokenizer>& tokenizer, const Json& one, Tally& tally) {
  const std::string name = one.find("id")->as_string();
  const std::string text = one.find("text")->as_string();
  const Ids ids = ids_of(*one.find("ids"));
  const auto plain = tokenizer->encode(text, {.add_special_tokens = false});
  const auto special = tokenizer->encode(text, {.add_special_tokens = true});
  if (!plain.ok() || !special.ok()) {
    tally.compare(name + " encode", (plain.ok() ? special : plain).error().to_string(), std::string("ids"));
    return;
  }
  tally.compare(name + " ids", *plain, ids);
  tally.compare(name + " ids_with_special", *special, ids_of(*one.find("ids_with_special")));
  tally.compare(name + " decoded", tokenizer->decode(ids, false), one.find("decoded")->as_string());
  tally.compare(name + " decoded_skip_special", tokenizer->decode(ids, true),
                one.find("decoded_skip_special")->as_string());
  tally.compare(name + " streamed", streamed(tokenizer, ids, true, nullptr), tokenizer->decode(ids, true));
  std::vector<std::string> pieces, wanted;
  streamed(tokenizer, ids, false, &pieces);
  if (const Json* stream = one.find("stream")) {
    for (const Json& piece : stream->items()) wanted.push_back(piece.is_string() ? piece.as_string() : "");
    std::erase(wanted, "");
    std::string got_text, wanted_text;
    for (auto& p : pieces) got_text += p + "|";
    for (auto& p : wanted) wanted_text += p + "|";
    tally.compare(name + " stream", got_text, wanted_text);
  }
}

int check_tokenizer(const std::shared_ptr<const Tokenizer>& tokenizer, const Json& cases) {
  Tally tally;
  for (const Json& one : cases.find("cases")->items()) check_case(tokenizer, one, tally);
  int index = 0;
  for (const Json& one : cases.find("random_decode")->items()) {
    const std::string name = "random_decode " + std::to_string(index++);
    const Ids ids = ids_of(*one.find("ids"));
    tally.compare(name, tokenizer->decode(ids, false), one.find("decoded")->as_string());
    tally.compare(name + " skip", tokenizer->decode(ids, true), one.find("decoded_skip_special")->as_string());
    tally.compare(name + " streamed", streamed(tokenizer, ids, false, nullptr), one.find("decoded")->as_string());
  }
  if (const Json* pair = cases.find("pair"); pair != nullptr && pair->is_object()) {
    const auto got = tokenizer->encode_pair(pair->find("a")->as_string(), pair->find("b")->as_string());
    tally.compare("pair ids", got.ok() ? got->ids : Ids(), ids_of(*pair->find("ids")));
    tally.compare("pair type_ids", got.ok() ? got->type_ids : Ids(), ids_of(*pair->find("type_ids")));
  }
  std::printf("%d checks, %d differences\n", tally.checks, tally.differences);
  return tally.differences != 0;
}

template <class T>
std::vector<T> list_of(const Json& object, const char* key) {
  std::vector<T> out;
  const Json* list = object.find(key);
  if (list == nullptr) return out;
  for (const Json& item : list->items()) {
    if constexpr (std::is_same_v<T, std::string>) {
      out.push_back(item.as_string());
    } else if constexpr (std::is_same_v<T, float>) {
      out.push_back(static_cast<float>(item.as_number()));
    } else {
      out.push_back(static_cast<T>(item.as_integer()));
    }
  }
  return out;
}

GgufVocabulary vocabulary_of(const Json& metadata) {
  auto id = [&](const char* key) {
    const Json* value = metadata.find(key);
    return value != nullptr ? std::optional<int32_t>(static_cast<int32_t>(value->as_integer())) : std::nullopt;
  };
  auto flag = [&](const char* key) {
    const Json* value = metadata.find(key);
    return value != nullptr ? std::optional<bool>(value->as_bool()) : std::nullopt;
  };
  GgufVocabulary v;
  v.model = metadata.find("model")->as_string();
  if (const Json* pre = metadata.find("pre")) v.pre = pre->as_string();
  v.tokens = list_of<std::string>(metadata, "tokens");
  v.scores = list_of<float>(metadata, "scores");
  v.token_types = list_of<int32_t>(metadata, "token_type");
  v.merges = list_of<std::string>(metadata, "merges");
  v.bos_id = id("bos_token_id"), v.eos_id = id("eos_token_id"), v.unknown_id = id("unknown_token_id");
  v.padding_id = id("padding_token_id"), v.separator_id = id("seperator_token_id"), v.cls_id = id("cls_token_id");
  v.add_bos = flag("add_bos_token"), v.add_eos = flag("add_eos_token"), v.add_space_prefix = flag("add_space_prefix");
  return v;
}

int check_templates(const std::string& folder, const Json& cases, int64_t now_unix_s) {
  Tally tally;
  double worst_s = 0;
  for (const Json& one : cases.find("cases")->items()) {
    const std::string name = one.find("template")->as_string();
    const std::string where = name + " " + one.find("case")->as_string();
    auto source = read_file(folder + "/" + name + ".jinja", FileLimit::chat_template);
    auto compiled = source.ok() ? ChatTemplate::from_source(*source) : std::move(source).error();
    if (!compiled.ok()) {
      tally.compare(where, compiled.error().to_string(), std::string("compiled"));
      continue;
    }
    ChatTemplateOptions options;
    options.bos_token = one.find("bos_token")->as_string();
    options.eos_token = one.find("eos_token")->as_string();
    options.now_unix_s = now_unix_s;
    Json kwargs = Json::object(), tools;
    kwargs.set("date_string", *one.find("date_string"));
    if (one.find("uses_current_date") != nullptr) kwargs = Json::object();
    for (const auto& [key, value] : one.find("input")->members()) {
      if (key == "tools") tools = value;
      if (key == "add_generation_prompt") options.add_generation_prompt = value.as_bool();
      if (key != "tools" && key != "messages" && key != "add_generation_prompt") kwargs.set(key, value);
    }
    const auto start = std::chrono::steady_clock::now();
    const auto rendered = (*compiled)->render(*one.find("input")->find("messages"), tools, kwargs, options);
    worst_s = std::max(worst_s, seconds_since(start));
    const Json* wanted = one.find("rendered");
    if (wanted != nullptr) {
      tally.compare(where, rendered.ok() ? *rendered : rendered.error().to_string(), wanted->as_string());
    } else {
      const std::string error = one.find("error")->as_string() + ": " + one.find("message")->as_string();
      if (one.find("error")->as_string() == "TemplateError") {
        tally.compare(where, rendered.ok() ? *rendered : rendered.error().message(), one.find("message")->as_string());
      } else {
        tally.compare(where, rendered.ok() ? *rendered : error, error);
      }
    }
  }
  std::printf("%d checks, %d differences, slowest %.1f ms\n", tally.checks, tally.differences, worst_s * 1e3);
  return tally.differences != 0;
}

int load_folder(const std::string& folder) {
  auto tokenizer = Tokenizer::from_folder(folder);
  if (!tokenizer.ok()) {
    std::printf("ERROR loading: %s\n", tokenizer.error().to_string().c_str());
    return 1;
  }
  for (const std::string& text : {std::string("the <s>x"), std::string(30, 'a') + "!", std::string("a  b")}) {
    const auto ids = (*tokenizer)->encode(text, {.add_special_tokens = false});
    std::printf("%s\n", ids.ok() ? Tally::show(*ids).c_str() : ("ERROR " + ids.error().to_string()).c_str());
    if (ids.ok()) std::printf("  %s\n", Tally::show((*tokenizer)->decode(*ids, false)).c_str());
  }
  return 0;
}

int render_folder(const std::string& folder, const Json& input) {
  auto compiled = ChatTemplate::from_folder(folder);
  if (!compiled.ok()) {
    std::printf("ERROR loading: %s\n", compiled.error().to_string().c_str());
    return 1;
  }
  auto member = [&](const char* key) { return input.find(key) != nullptr ? *input.find(key) : Json(); };
  const auto rendered = (*compiled)->render(member("messages"), member("tools"), member("chat_template_kwargs"));
  std::printf("%s\n",
              rendered.ok() ? rendered->substr(0, 2000).c_str() : ("ERROR " + rendered.error().to_string()).c_str());
  return rendered.ok() ? 0 : 1;
}

// One line for each template: the roles that take a text (t) or parts (p), and what is asked of calls.
int show_traits(const std::string& folder) {
  std::vector<std::string> files;
  for (const std::string& name : names_in(folder))
    if (name.ends_with(".jinja")) files.push_back(folder + "/" + name);
  for (const std::string& file : files) {
    const auto source = read_file(file);
    const auto compiled = source.ok() ? ChatTemplate::from_source(*source) : source.error();
    if (!compiled.ok()) {
      std::printf("%s: %s\n", file.c_str(), compiled.error().to_string().c_str());
      continue;
    }
    const TemplateTraits t = (*compiled)->traits(Json());
    const auto contents = [](const char* role, TemplateTraits::Contents c) {
      return std::string(" ") + role + "=" + (c.text ? "t" : "") + (c.parts ? "p" : "");
    };
    std::string line = contents("system", t.system) + contents("user", t.user) + contents("assistant", t.assistant) +
                       contents("tool", t.tool);
    const auto flag = [&](bool set, const char* name) { line += set ? std::string(" ") + name : ""; };
    flag(t.developer, "developer"), flag(t.calls, "calls"), flag(t.results, "results");
    flag(t.images_in_results, "images_in_results"), flag(t.arguments_as_text, "arguments_as_text");
    flag(t.takes_any_arguments, "takes_any_arguments"), flag(!t.null_beside_calls, "no_null_beside_calls");
    flag(!t.empty_beside_calls, "no_empty_beside_calls"), flag(!t.text_beside_calls, "no_text_beside_calls");
    flag(!t.several_calls, "one_call"), flag(t.short_ids, "short_ids");
    std::printf("%s:%s\n", std::filesystem::path(file).stem().c_str(), line.c_str());
  }
  return 0;
}

int run(int argc, char** argv) {
  if (argc < 3) return 2;
  auto json = [](const std::string& path) {
    auto result = read_json_file(path);
    if (!result.ok()) std::printf("%s\n", result.error().to_string().c_str());
    return std::move(result).value();
  };
  const std::string mode = argv[1], path = argv[2];
  if (mode == "tokenizer" || mode == "gguf") {
    const bool folder = mode == "tokenizer";
    GgufVocabulary vocabulary;
    if (!folder) vocabulary = vocabulary_of(json(path));
    const auto start = std::chrono::steady_clock::now();
    auto tokenizer = folder ? Tokenizer::from_folder(path) : Tokenizer::from_gguf(std::move(vocabulary));
    const double load_s = seconds_since(start);
    if (!tokenizer.ok()) {
      std::printf("%s\n", tokenizer.error().to_string().c_str());
      return 1;
    }
    std::printf("%s: %d tokens, loaded in %.3f s\n", path.c_str(), (*tokenizer)->vocab_size(), load_s);
    return check_tokenizer(*tokenizer, json(argc > 3 ? argv[3] : path + "/cases.json"));
  }
  if (mode == "load") return load_folder(path);
  if (mode == "traits") return show_traits(path);
  if (mode == "templates" && argc > 3) return check_templates(path, json(path + "/cases.json"), std::atoll(argv[3]));
  if (mode == "render" && argc > 3) return render_folder(path, json(argv[3]));
  return 2;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) { return weft::run(argc, argv); }
