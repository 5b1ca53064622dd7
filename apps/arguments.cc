// See the header. Entries of a configuration file become words of the command line in front of the user's own, so that
// both go through the same checks and the later ones win.
#include "arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <utility>

#include "arguments_parts.h"
#include "arrival_mix.h"
#include "config_file.h"

namespace weft {

namespace {

// A number of the request; the engine's checks of requests judge it.
void add_request_number(CLI::App* app, Json& sampling, const std::string& field, const char* help, bool whole) {
  std::string option = "--" + field;
  std::replace(option.begin(), option.end(), '_', '-');
  const auto set = [&sampling, field, whole](const double& value) {
    sampling.set(field, whole ? Json(static_cast<long>(value)) : Json(value));
  };
  const auto check = [whole](std::string& text) {
    static constexpr double kLargestWhole = 9007199254740992.0;  // doubles beyond are not all the integers
    const double value = std::strtod(text.c_str(), nullptr);
    if (whole && text.find('.') != std::string::npos) return "must be a whole number, got " + text;
    if (whole && !(std::abs(value) <= kLargestWhole)) return "must be a whole number below 2^53, got " + text;
    return std::isfinite(value) ? std::string() : "must be a finite number, got " + text;
  };
  app->add_option_function<double>(option, set, help)
      ->type_name("N")
      ->check(CLI::Validator(check, ""))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group("Sampling");
}

void add_sampling_options(CLI::App* app, Json& sampling) {
  add_request_number(app, sampling, "max_tokens", "Longest answer", true);
  for (const SamplingOption& option : sampling_options())
    add_request_number(app, sampling, option.name, option.help, option.whole);
  app->add_option_function<Words>(
         "--stop",
         [&sampling](const Words& stops) {
           Json list = Json::array();
           for (const std::string& stop : stops) list.push_back(stop);
           sampling.set("stop", std::move(list));
         },
         "End the answer at this text; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group("Sampling");
}

void add_bench(CLI::App* bench, Arguments& a) {
  bench
      ->add_option("--modes", a.bench_modes,
                   "What to measure: prefill, decode, serving; or speculation: speed with --speculative-config beside "
                   "speed without, and how many drafts are accepted; or ranks: speed with --tp-size and the like "
                   "beside one rank on as many threads; or disaggregation: one server beside two that share the "
                   "threads, of which one computes prompts. Default: prefill,decode, and with --speculative-config "
                   "speculation")
      ->type_name("MODE,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(Words{"prefill", "decode", "serving", "speculation", "ranks", "disaggregation"})
                  .description(""));
  add_text(bench, "--prompts", a.prompts,
           "speculation: requests as of weft batch (FILE.jsonl), or a text with a prompt a line; absent: random tokens",
           "FILE");
  add_number(bench, "--prompt-tokens", a.prompt_tokens, "Length of the prompts of prefill and serving; 0: 512 and 196",
             0);
  add_number(bench, "--context-tokens", a.context_tokens,
             "Tokens before the measured ones; -1: none for prefill, 128 for decode", -1);
  add_number(bench, "--output-tokens", a.output_tokens, "Length of the answers", 2);
  add_number(bench, "--repeat", a.repeat, "Measure so many times and print the medians", 1, 1000);
  add_number(bench, "--streams", a.streams, "serving: requests at once", 1, 65536);
  add_number(bench, "--shared-prefix", a.shared_prefix, "serving: tokens that all prompts begin with", 0);
  add_switch(bench, "--limits", a.limits, "Measure the machine's limits and print percentages of them");
  bench->add_option("--batch-sizes", a.batch_sizes, "Sequences decoded at once")
      ->type_name("N,N,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 65536));
  bench->add_flag("--details", a.details,
                  "Measure the engine around the model instead: gaps between steps with overlap on and off, time to "
                  "first token cold and "
                  "cached, the sampler's share, time of grammar masks");
  bench->add_flag("--ops", a.ops, "Print what share of the steps each operation took, in prompts and in decode");
  bench->add_flag("--json", a.json, "Print JSON");
}

CLI::Option* add_rate(CLI::App* app, const std::string& name, double& target, const std::string& help,
                      const std::string& unit, double low) {
  return app->add_option(name, target, help)
      ->check(CLI::Range(low, 1e9))
      ->check(kFinite)
      ->type_name(unit)
      ->capture_default_str()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void add_estimate(CLI::App* plan, Arguments& a) {
  EstimateArguments& e = a.estimate;
  CLI::Option* const options[] = {
      add_number(plan, "--nodes", e.nodes, "Machines that the ranks are on, as many on each", 1, 1024),
      add_number(plan, "--batch-size", e.batch_size, "Sequences of a decode step", 1, 65536),
      add_number(plan, "--context-tokens", e.context_tokens, "Tokens that each of them sees", 1),
      add_number(plan, "--prompt-tokens", e.prompt_tokens, "Tokens of a prompt in a step", 1, 1 << 20),
      add_rate(plan, "--memory-bandwidth", e.memory_gbps, "Memory that a rank reads", "GB/s", 1e-3),
      add_rate(plan, "--flops", e.tflops, "What a rank computes", "TFLOP/s", 1e-6),
      add_rate(plan, "--network-bandwidth", e.network_gbps, "Network out of a node", "GB/s", 1e-6),
      add_rate(plan, "--network-latency", e.network_latency_us, "From a node to another", "US", 0),
      plan->add_flag("--summary", e.summary, "Leave out the ops"),
      plan->add_flag("--json", a.json, "Print the estimate as JSON")};
  for (CLI::Option* option : options) option->group("Estimate (docs/scale.md)");
}

// What --disaggregated counts servers for; `steps`: options of what it does not print.
void add_deployment(CLI::App* plan, EstimateArguments& e, const std::vector<CLI::Option*>& steps) {
  CLI::Option* flag = plan->add_flag("--disaggregated", e.disaggregated,
                                     "How many context and generation servers a stream of requests needs to meet "
                                     "--ttft-target-ms and --tpot-target-ms, and how many that do both");
  const auto lengths = [](const std::string& text) {
    const auto read = parse_lengths(text);
    return read.ok() ? "" : read.error().message();
  };
  CLI::Option* const options[] = {
      add_rate(plan, "--request-rate", e.request_rate, "Requests a second", "N", 1e-9),
      add_text(plan, "--input-tokens", e.input_tokens, "Tokens of a prompt, on average and of 95 %", "MEAN[,P95]")
          ->check(lengths),
      add_text(plan, "--output-tokens", e.output_tokens, "Tokens of an answer, on average and of 95 %", "MEAN[,P95]")
          ->check(lengths),
      add_text(plan, "--arrival-mix", e.arrival_mix, "Kinds of requests instead of both: lines SHARE,INPUT,OUTPUT",
               "FILE.csv|FILE.yaml"),
      add_rate(plan, "--cached-share", e.cached_share, "Part of a prompt that the prefix cache has", "0 to 0.99", 0)
          ->check(CLI::Range(0.0, 0.99)),
      add_rate(plan, "--tpot-target-ms", e.tpot_target_ms, "Time that a token of an answer may take", "MS", 1e-6),
      add_rate(plan, "--ttft-percentile", e.ttft_percentile, "Requests that are to meet --ttft-target-ms", "%", 1)
          ->check(CLI::Range(1.0, 99.99)),
      add_number(plan, "--context-tp", e.context_tp, "Ranks of a context server; 0: --tp-size", 0, 64),
      add_number(plan, "--generation-tp", e.generation_tp, "Ranks of a generation server; 0: --tp-size", 0, 64),
      add_rate(plan, "--memory", e.memory_gb, "Memory of a rank", "GB", 1e-6)};
  for (CLI::Option* option : options) option->needs(flag)->group("Servers (--disaggregated, docs/scale.md)");
  for (const char* name : {"--input-tokens", "--output-tokens"})
    plan->get_option("--arrival-mix")->excludes(plan->get_option(name));
  for (CLI::Option* option : steps) flag->excludes(option);
  flag->group("Servers (--disaggregated, docs/scale.md)");
}

void add_plan(CLI::App* plan, Arguments& a) {
  CLI::Option* trace = plan->add_option("--trace", a.trace,
                                        "Run the requests' prompts and write the value of every op, in float32, as "
                                        "ID/PATH (docs/debugging.md)")
                           ->type_name("OUT.safetensors");
  CLI::Option* requests =
      plan->add_option("--requests", a.requests, "--trace: requests as of weft score; -: standard input")
          ->type_name("IN.jsonl");
  CLI::Option* filter = plan->add_option("--trace-filter", a.trace_filter,
                                         "--trace: only values whose PATH begins with this; may be repeated")
                            ->type_name("PREFIX")
                            ->allow_extra_args(false);
  trace->needs(requests), requests->needs(trace), filter->needs(trace);
  add_estimate(plan, a);
  std::vector<CLI::Option*> steps = {trace};
  for (const char* name : {"--nodes", "--batch-size", "--context-tokens", "--prompt-tokens", "--summary"})
    steps.push_back(plan->get_option(name));
  add_deployment(plan, a.estimate, steps);
}

void add_batch(CLI::App* batch, Arguments& a) {
  batch->add_option("--requests", a.requests, "Requests, one JSON object a line; -: standard input")
      ->type_name("IN.jsonl")
      ->required();
  batch->add_option("--out", a.out, "Answers, one JSON object a line; absent: standard output")->type_name("OUT.jsonl");
  CLI::Option* url =
      add_text(batch, "--url", a.url,
               "Send the requests to the server there instead of loading a model, http://HOST:PORT", "URL");
  CLI::Option* const options[] = {
      add_number(batch, "--concurrency", a.concurrency, "--url: requests at once", 1, 65536),
      add_number(batch, "--wait", a.wait_s,
                 "--url: seconds that the server may take until it is ready, at the start or in between", 0, 1 << 20),
      add_number(batch, "--timeout", a.timeout_s, "--url: seconds that an answer may take; 0: no limit", 0, 1 << 20),
      add_text(batch, "--api-key", a.api_key, "--url: key of the server; default: WEFT_API_KEY in the environment",
               "KEY")};
  for (CLI::Option* option : options) option->needs(url);
}

// What parse() cannot know of `weft batch`; empty: all is well.
std::string fault_of_batch(const CLI::App& batch, const Arguments& a) {
  if (a.url.empty()) return a.model.empty() ? "--model or --url is required" : "";
  if (!a.model.empty()) return "--model and --url exclude each other: the server has its model";
  for (const CLI::Option* option : batch.get_options())
    if (option->get_group() == kEngineOptions && option->get_name() != "--config" && option->count() > 0)
      return option->get_name() + " is an option of the engine; with --url the server was started with its own";
  return "";
}

void add_convert(CLI::App* convert, Arguments& a) {
  convert->add_option("MODEL", a.model, "A .gguf file, or a folder with safetensors")->required();
  convert->add_option("OUT", a.out, "The folder to write, or the file, whose name ends in .gguf; must not be there yet")
      ->required();
  convert
      ->add_option_function<std::string>(
          "--dtype",
          [&a](const std::string& type) {
            a.widen_to = type == "float32" ? DType::f32 : type == "float16" ? DType::f16 : DType::bf16;
          },
          "What tensors that the file stores in blocks (Q4_K and so on) are widened to; absent: such files are refused")
      ->check(CLI::IsMember(Words{"float32", "float16", "bfloat16"}));
}

struct Subcommand {
  Command command;
  CLI::App* app;
};

std::vector<Subcommand> add_commands(CLI::App& app, Arguments& a) {
  std::vector<Subcommand> all;
  const auto add = [&](Command command, const char* name, const char* help, bool positional) {
    CLI::App* sub = app.add_subcommand(name, help);
    add_engine_options(sub, a.engine);
    const char* const what = "Folder of a Hugging Face checkpoint, or a .gguf file";
    if (command == Command::plan)
      sub->add_option("--model,MODEL", a.model, "Folder of a Hugging Face checkpoint, a .gguf file, or a config.json")
          ->type_name("PATH")
          ->required();
    else if (positional) sub->add_option("MODEL", a.model, what)->required();
    else sub->add_option("--model", a.model, what)->type_name("MODEL")->required(command != Command::batch);
    all.push_back({command, sub});
    return sub;
  };
  CLI::App* run = add(Command::run, "run", "Answer one prompt on the terminal", true);
  run->add_option_function<std::string>(
      "PROMPT", [&a](const std::string& text) { a.prompt = text; }, "The prompt; absent: standard input");
  run->add_option("--image", a.images, "An image for the prompt; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false);
  run->add_flag("--raw", a.raw, "The prompt as it is, without the model's chat template");
  run->add_option("--system", a.system, "System message")->type_name("TEXT");
  run->add_flag("--verbose", a.verbose, "Show the rendered prompt and the speed");
  add_sampling_options(run, a.sampling);

  CLI::App* chat = add(Command::chat, "chat", "Keep a conversation on the terminal", true);
  chat->add_option("--system", a.system, "System message")->type_name("TEXT");
  chat->add_flag("--verbose", a.verbose, "Show the speed");
  add_sampling_options(chat, a.sampling);

  add_batch(add(Command::batch, "batch", "Answer all requests of a file at once", false), a);

  CLI::App* score = add(Command::score, "score", "Logits, class logits and rewards of the requests of a file", false);
  score->add_option("--requests", a.requests, "Requests, one JSON object a line; -: standard input")
      ->type_name("IN.jsonl")
      ->required();
  score->add_option("--out", a.out, "Tensors, named ID.logits and so on")->type_name("OUT.safetensors")->required();

  add_bench(add(Command::bench, "bench", "Measure the speed of prefill, decode and serving", true), a);

  CLI::App* inspect = add(Command::inspect, "inspect", "What a model is and what of it fits in this machine", true);
  inspect->add_flag("--json", a.json, "Print JSON");
  CLI::App* models = app.add_subcommand("models", "The architectures that this build runs, as a table");
  models->add_flag("--json", a.json, "Print JSON");
  models->add_flag("--formats", a.formats, "The formats of quantised folders, and the architectures of GGUF files");
  all.push_back({Command::models, models});
  CLI::App* limits = app.add_subcommand("limits", "What a request and a client may ask of weft serve, as a table");
  all.push_back({Command::limits, limits});
  add_plan(add(Command::plan, "plan",
               "Print a rank's share of the step plan, what all ranks hold and an estimate of their speed; or write "
               "what the ops compute",
               true),
           a);

  CLI::App* quantize = add(Command::quantize, "quantize",
                           "Write a checkpoint with weights of 8, 4 or 3 bits from one with floats", true);
  quantize->add_option("OUT", a.out, "The folder to write (--type: the GGUF file); must not exist, or be empty")
      ->required();
  quantize->add_option("--bits", a.bits, "8: groups of 64 weights with a scale; 4 and 3: groups of 32")
      ->check(CLI::IsMember({3, 4, 8}))
      ->capture_default_str();
  quantize
      ->add_option("--text", a.text_file,
                   "Measure over this text how far the distributions of the next token are from those before")
      ->type_name("FILE");
  quantize
      ->add_option("--calibration", a.calibration_file,
                   "Of 4 and 3 bits: weigh errors of the weights by the inputs that the model has over this text")
      ->type_name("FILE");
  add_number(quantize, "--calibration-tokens", a.calibration_tokens, "Tokens of that text, at most", 1, 1 << 24)
      ->needs("--calibration");
  quantize
      ->add_option("--type", a.gguf_type,
                   "Write a GGUF file instead, OUT.gguf, with the products of the layers in blocks of this type")
      ->check(CLI::IsMember(Words{"Q8_0", "Q4_K", "Q6_K"}))
      ->excludes("--bits")
      ->excludes("--calibration");
  add_number(quantize, "--text-tokens", a.text_tokens, "Tokens of the text, at most", 2, 1 << 20)->needs("--text");

  add_convert(app.add_subcommand("convert",
                                 "Write a GGUF file's model as a folder of safetensors, or a folder's as a GGUF file"),
              a);
  all.push_back({Command::convert, app.get_subcommand("convert")});

  add_serve(add(Command::serve, "serve", "Serve the OpenAI-compatible API over HTTP", true), a);
  CLI::App* orchestrate = app.add_subcommand(
      "orchestrate", "Serve the API with several servers (weft serve), choosing one for each request");
  add_orchestrate(orchestrate, a);
  all.push_back({Command::orchestrate, orchestrate});
  return all;
}

// Puts the entries of --config FILE behind the command's name.
Status expand_config(CLI::App& app, Words& words) {
  std::string path;
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] == "--config" && i + 1 < words.size()) path = words[i + 1];
    else if (words[i].starts_with("--config=")) path = words[i].substr(9);
  }
  if (path.empty()) return {};
  const auto named = app.get_subcommands([&](const CLI::App* sub) { return sub->get_name() == words.front(); });
  if (named.empty()) return {};
  const CLI::App* sub = named.front();
  WEFT_TRY(const std::vector<ConfigEntry> entries, read_config_file(path));
  Words extra;
  for (const ConfigEntry& entry : entries) {
    const CLI::Option* option = sub->get_option_no_throw("--" + entry.option);
    if (!option || entry.option == "config" || entry.option == "help")
      return fail(Code::invalid_argument, path, " line ", entry.line, ": weft ", words.front(), " has no option --",
                  entry.option);
    const bool group = words.front() == "orchestrate" && entry.option.ends_with("-servers");
    for (const std::string& value : entry.values) {
      extra.push_back("--" + entry.option + "=" + value);
      if (const auto read = read_server_group(value); group && !read.ok())
        return fail(Code::invalid_argument, path, " line ", entry.line, ": ", read.error().message());
    }
  }
  words.insert(words.begin() + 1, extra.begin(), extra.end());
  return {};
}

// Letters to change, insert or take out to make one word the other.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j < row.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({change, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row.back();
}

// "; did you mean WORD?", for the known word that differs least, if by a third of its letters at most.
std::string suggestion(const std::string& word, const Words& known) {
  std::string best;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known)
    if (const size_t distance = edit_distance(word, candidate); distance < least) least = distance, best = candidate;
  return best.empty() ? "" : "; did you mean " + best + "?";
}

// The error for words that mean nothing, in their order.
std::string unexpected(const CLI::App& app, const Words& words) {
  const auto used = app.get_subcommands();
  if (used.empty() && !words.front().starts_with("-")) {
    Words names;
    for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
    return "there is no command " + words.front() + suggestion(words.front(), names);
  }
  std::string text = "The following arguments were not expected:";
  for (const std::string& word : words) text += " " + word;
  const auto option = std::ranges::find_if(words, [](const std::string& word) { return word.starts_with("--"); });
  if (option == words.end()) return text;
  Words names;
  for (const CLI::Option* known : (used.empty() ? &app : used.front())->get_options())
    names.push_back(known->get_name());
  return text + suggestion(option->substr(0, option->find('=')), names);
}

}  // namespace

Result<int64_t> parse_size(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit = CLI::detail::to_lower(std::string(end));
  if (unit.size() > 1 && unit.ends_with("ib")) unit.resize(unit.size() - 2);
  else if (!unit.empty() && unit.ends_with("b")) unit.resize(unit.size() - 1);
  const size_t power = unit.empty() ? 0 : std::string_view("kmgt").find(unit) + 1;
  const bool known = unit.empty() || (unit.size() == 1 && power >= 1 && power <= 4);
  const double bytes = std::ldexp(number, static_cast<int>(10 * power));
  if (end == text.c_str() || !known || !(bytes >= 0) || bytes > 1e18)
    return fail(Code::invalid_argument, "must be a size like 512M or 4G, got ", text);
  return static_cast<int64_t>(bytes);
}

std::variant<Arguments, Leave> parse_arguments(int count, const char* const* words) {
  Arguments arguments;
  CLI::App app("weft: an LLM inference engine", "weft");
  app.set_version_flag("--version", std::string("weft ") + WEFT_VERSION);
  app.require_subcommand(1);
  const std::vector<Subcommand> commands = add_commands(app, arguments);
  Words list(words + (count > 0 ? 1 : 0), words + count);
  if (const Status config = expand_config(app, list); !config.ok()) return Leave{2, {}, config.error().message()};
  std::reverse(list.begin(), list.end());  // as CLI11 wants it
  try {
    app.parse(list);
  } catch (const CLI::ParseError& problem) {
    std::ostringstream out, error;
    const int status = app.exit(problem, out, error);
    if (status == 0) return Leave{0, out.str(), {}};
    const auto used = app.get_subcommands();
    const Words rest = app.remaining(true);
    const bool is_rest = !rest.empty() && (used.empty() || dynamic_cast<const CLI::ExtrasError*>(&problem) != nullptr);
    return Leave{2,
                 {},
                 (is_rest ? unexpected(app, rest) : std::string(problem.what())) + "; see weft " +
                     (used.empty() ? "" : used.front()->get_name() + " ") + "--help"};
  }
  for (const Subcommand& candidate : commands) {
    if (!candidate.app->parsed()) continue;
    if (candidate.command == Command::limits) {
      const auto serve = std::ranges::find(commands, Command::serve, &Subcommand::command);
      return Leave{0, limits_table(*serve->app), {}};
    }
    arguments.command = candidate.command;
    std::string fault;
    if (candidate.command == Command::batch) fault = fault_of_batch(*candidate.app, arguments);
    const EngineOptions& engine = arguments.engine;
    if (candidate.command == Command::serve) fault = fault_of_serve(arguments);
    else if (engine.role != ServerRole::both || !engine.kv_transfer.empty())
      fault = "--role and --kv-transfer are for weft serve: no other command works together with other servers";
    if (!fault.empty()) return Leave{2, {}, fault + "; see weft " + candidate.app->get_name() + " --help"};
  }
  return arguments;
}

}  // namespace weft
