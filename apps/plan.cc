// `weft plan`: the step plan that the model recorded, as text, and what it asks of a machine (plan_estimate.h). With
// --trace, the prompts of a file of requests go through it one after the other, and what every op wrote is written to a
// file of tensors named ID/PATH.
#include <algorithm>

#include "checkpoint/safetensors_writer.h"
#include "deployment_estimate.h"
#include "plan/trace.h"
#include "plan_estimate.h"
#include "requests_file.h"
#include "score_prompt.h"
#include "terminal.h"

namespace weft {

namespace {

// Every prefix must be that of some value, or a misspelt one would leave an empty file behind.
Status check_filter(const std::vector<std::string>& prefixes, const Json& ops) {
  for (const std::string& prefix : prefixes) {
    const auto& list = ops.items();
    const auto begins = [&](const Json& op) { return op.find("name")->as_string().starts_with(prefix); };
    if (std::none_of(list.begin(), list.end(), begins))
      return fail(Code::invalid_argument, "--trace-filter ", prefix,
                  ": no value of the plan has a name that begins so");
  }
  return {};
}

// The values of one request's prompt: no other runs meanwhile.
Status trace_request(Engine& engine, PlanTrace& trace, RequestLine& line, SafetensorsWriter& writer) {
  if (line.error) return *line.error;
  const Result<ScoreResult> result = score_prompt(engine, *line.request);
  const std::vector<TracedValue> values = trace.take();
  if (!result.ok()) return result.error();
  const ScoreTensor& ids = result->tensors.at("input_ids");
  WEFT_RETURN_IF_ERROR(
      writer.add(*line.custom_id + "/input_ids", ids.shape, std::span(std::get<std::vector<int64_t>>(ids.data))));
  for (const TracedValue& value : values)
    WEFT_RETURN_IF_ERROR(
        writer.add(*line.custom_id + "/" + value.name, {value.rows, value.cols}, std::span(value.values)));
  return {};
}

Status trace_requests(const Arguments& arguments, Engine& engine, PlanTrace& trace) {
  WEFT_TRY(std::vector<RequestLine> lines,
           read_requests(arguments.requests, RequestKind::score_line, command_rules(engine)));
  require_names(lines);
  const Json ops = trace.describe();
  WEFT_RETURN_IF_ERROR(check_filter(arguments.trace_filter, ops));
  WEFT_TRY(SafetensorsWriter writer,
           SafetensorsWriter::create(arguments.trace, {.metadata = {{"ops", ops.dump()}},
                                                       .expected_tensors = lines.size() * (ops.items().size() + 1)}));
  size_t traced = 0;
  for (RequestLine& line : lines) {
    const Status status = trace_request(engine, trace, line, writer);
    if (status.ok()) ++traced;
    else print_line_error(arguments.requests, line, status.error());
  }
  if (traced == 0) return fail(Code::invalid_argument, "none of the ", lines.size(), " requests could be traced");
  return writer.finish();
}

// A draft's plan follows from the files of both, so they are loaded. Of ranks it is the first one's share of the model
// and the last one's of the draft.
Status print_with_draft(const Arguments& arguments, const EngineLoader& load) {
  if (arguments.json || arguments.estimate.summary)
    return fail(Code::invalid_argument,
                "--speculative-config prints the plans of the model and its draft, without an estimate: leave out "
                "--json and --summary");
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  const int ranks = rank_layout(arguments.engine).size();
  if (ranks > 1)
    print_out("rank 0 of " + std::to_string(ranks) + ", and of a draft rank " + std::to_string(ranks - 1) + "\n");
  print_out(engine->plan_text());
  return {};
}

}  // namespace

Status plan_command(const Arguments& arguments, const EngineLoader& load) {
  if (arguments.estimate.disaggregated) return estimate_deployment(arguments);
  if (arguments.trace.empty() && arguments.engine.speculative_config.empty()) return estimate_plan(arguments);
  if (arguments.trace.empty()) return print_with_draft(arguments, load);
  WEFT_RETURN_IF_ERROR(check_requests_path(arguments.requests));
  Arguments traced = arguments;
  traced.engine.trace = std::make_shared<PlanTrace>(arguments.trace_filter);
  traced.engine.enable_block_reuse = false;  // all positions of each prompt are computed
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(traced, load));
  return trace_requests(arguments, *engine, *traced.engine.trace);
}

}  // namespace weft
