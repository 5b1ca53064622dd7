// The commands, one file each. A command does its work and writes data to standard output or a file; an error that it
// returns ends the process with status 1 and one line on standard error.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "api/engine.h"
#include "arguments.h"
#include "base/result.h"

namespace weft {

// Engine::load, or something else in tests.
using EngineLoader = std::function<Result<std::unique_ptr<Engine>>(
    const std::string& model, const EngineOptions& options, const Progress& progress)>;

Status run_command(const Arguments& arguments, const EngineLoader& load);
Status chat_command(const Arguments& arguments, const EngineLoader& load);
Status batch_command(const Arguments& arguments, const EngineLoader& load);
Status score_command(const Arguments& arguments, const EngineLoader& load);
Status bench_command(const Arguments& arguments, const EngineLoader& load);
Status bench_details(const Arguments& arguments, const EngineLoader& load);         // of bench_command, with --details
Status bench_disaggregation(const Arguments& arguments, const EngineLoader& load);  // with --modes disaggregation
Status bench_ranks(const Arguments& arguments, const EngineLoader& load);           // with --modes ranks
Status bench_speculation(const Arguments& arguments, const EngineLoader& load);     // with --modes speculation
Status inspect_command(const Arguments& arguments);
Status models_command(const Arguments& arguments);
Status convert_command(const Arguments& arguments);
Status write_quantized_gguf(const Arguments& arguments);  // of quantize_command, with --type
Status quantize_command(const Arguments& arguments, const EngineLoader& load);
Status plan_command(const Arguments& arguments, const EngineLoader& load);
Status serve_command(const Arguments& arguments, const EngineLoader& load);
Status orchestrate_command(const Arguments& arguments);

// All of the program but the choice of the engine. Returns the exit status: 0, 1 (could not do it) or 2 (bad usage).
int weft_main(int count, const char* const* words, const EngineLoader& load);

}  // namespace weft
