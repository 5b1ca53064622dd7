#include "api/options.h"

#include <algorithm>

#include "api/speculative_config.h"
#include "base/socket_address.h"
#include "forms/tool_form.h"
#include "sampling/parameters.h"

namespace weft {

RankLayout rank_layout(const EngineOptions& options) {
  const int tensor = std::max(options.tp_size, options.ep_size);
  return {.tensor = tensor,
          .experts = options.ep_size,
          .pipeline = options.pp_size,
          .attention_dp = options.enable_attention_dp};
}

namespace {

// What this build cannot do.
Status check_supported(const EngineOptions& o) {
  const auto unsupported = [](const char* option, const std::string& value, const char* why) -> Status {
    return fail(Code::unsupported, "--", option, " ", value, ": ", why).about(option);
  };
  if (o.device == Device::cuda) return unsupported("device", "cuda", "this build has no GPU kernels");
  if (o.guided_decoding_backend != "llguidance")
    return unsupported("guided-decoding-backend", o.guided_decoding_backend, "llguidance is the only one");
  if (o.tool_call_parser != "auto" && !find_tool_form(o.tool_call_parser)) {
    std::string names = "auto";
    for (const std::string& name : tool_form_names()) names += ", " + name;
    return fail(Code::invalid_argument, "--tool-call-parser must be one of ", names, ", not ", o.tool_call_parser)
        .about("tool-call-parser");
  }

  return {};
}

// Of disaggregated serving.
Status check_transfer(const EngineOptions& o) {
  const bool exchanges = o.role == ServerRole::generation || !o.kv_transfer.empty();
  const auto wrong = [](const char* option, const std::string& why) -> Status {
    return fail(Code::invalid_argument, "--", option, " ", why).about(option);
  };
  if (o.role == ServerRole::context && o.kv_transfer.empty())
    return wrong("role", "context computes prompts for other servers: --kv-transfer says where they get them");
  if (!o.kv_transfer.empty() && !parse_host_port(o.kv_transfer).ok())
    return wrong("kv-transfer", parse_host_port(o.kv_transfer).error().message());
  if (exchanges && !o.enable_block_reuse)
    return wrong(o.kv_transfer.empty() ? "role" : "kv-transfer",
                 "sends blocks from cache to cache, which --enable-block-reuse off forbids");
  const EngineOptions defaults;
  const auto needs = [&](const char* option, bool set) -> Status {
    if (!set || exchanges) return {};
    return wrong(option, "is about blocks of other servers: give --role generation or --kv-transfer as well");
  };
  WEFT_RETURN_IF_ERROR(needs("kv-transfer-secret-file", !o.kv_transfer_secret.empty()));
  WEFT_RETURN_IF_ERROR(needs("kv-transfer-carrier", o.kv_transfer_carrier != defaults.kv_transfer_carrier));
  WEFT_RETURN_IF_ERROR(needs("kv-transfer-timeout", o.kv_transfer_timeout != defaults.kv_transfer_timeout));
  WEFT_RETURN_IF_ERROR(needs("max-local-prefill", o.max_local_prefill != 0));
  WEFT_RETURN_IF_ERROR(needs("kv-transfer-convert", o.kv_transfer_convert));
  if (o.kv_transfer_convert && !o.kv_cache_tier.empty())
    return wrong("kv-transfer-convert", "changes answers, so its blocks must not get into a --kv-cache-tier");
  if (o.role == ServerRole::context && o.max_local_prefill != 0)
    return wrong("max-local-prefill", "is for servers that generate, not for --role context");
  return {};
}

Status check_numbers(const EngineOptions& o) {
  const auto in_range = [](const char* option, int64_t value, int64_t low, int64_t high) -> Status {
    if (value >= low && value <= high) return {};
    return fail(Code::invalid_argument, "--", option, " must be between ", low, " and ", high, ", not ", value)
        .about(option);
  };
  WEFT_RETURN_IF_ERROR(in_range("threads", o.threads, 0, 1024));
  WEFT_RETURN_IF_ERROR(in_range("max-batch-size", o.max_batch_size, 1, 4096));
  WEFT_RETURN_IF_ERROR(in_range("max-num-tokens", o.max_num_tokens, 1, 1 << 20));
  WEFT_RETURN_IF_ERROR(in_range("chunked-prefill-size", o.chunked_prefill_size, 0, 1 << 20));
  WEFT_RETURN_IF_ERROR(in_range("max-seq-len", o.max_seq_len, 0, 1 << 28));
  WEFT_RETURN_IF_ERROR(in_range("kv-cache-memory", o.kv_cache_memory, 0, int64_t{1} << 50));
  WEFT_RETURN_IF_ERROR(in_range("kv-cache-tier", o.kv_cache_tier_bytes, 0, int64_t{1} << 50));
  WEFT_RETURN_IF_ERROR(in_range("packed-cache", o.packed_cache_bytes, 0, int64_t{1} << 50));
  if (!o.kv_cache_tier.empty() && o.kv_cache_tier_bytes == 0)
    return fail(Code::invalid_argument, "--kv-cache-tier ", o.kv_cache_tier, ":0 has no room for anything")
        .about("kv-cache-tier");
  if (o.kv_cache_tier.empty() && o.kv_cache_tier_use != TierUse::automatic)
    return fail(Code::invalid_argument, "--kv-cache-tier-use ", name_of(o.kv_cache_tier_use),
                " says how --kv-cache-tier is used, and there is none")
        .about("kv-cache-tier-use");
  if (!o.kv_cache_tier.empty() && !o.enable_block_reuse)
    return fail(Code::invalid_argument,
                "--kv-cache-tier keeps blocks for reuse, which --enable-block-reuse off forbids")
        .about("kv-cache-tier");
  WEFT_RETURN_IF_ERROR(in_range("kv-transfer-timeout", o.kv_transfer_timeout, 1, 86400));
  WEFT_RETURN_IF_ERROR(in_range("max-local-prefill", o.max_local_prefill, 0, 1 << 30));
  WEFT_RETURN_IF_ERROR(check_transfer(o));
  if (!(o.max_step_ms >= 0 && o.max_step_ms <= 1e6))
    return fail(Code::invalid_argument, "--max-step-ms must be between 0 and 1000000, not ", o.max_step_ms)
        .about("max-step-ms");
  if (o.chunked_prefill_size > 0 && !o.enable_chunked_prefill)
    return fail(Code::invalid_argument,
                "--chunked-prefill-size cuts prompts into pieces, which --enable-chunked-prefill off forbids")
        .about("chunked-prefill-size");
  if (o.max_step_ms > 0 && !o.enable_chunked_prefill)
    return fail(Code::invalid_argument,
                "--max-step-ms cuts prompts into pieces, which --enable-chunked-prefill off forbids")
        .about("max-step-ms");
  if (!(o.ttft_target_ms >= 0 && o.ttft_target_ms <= 1e7))
    return fail(Code::invalid_argument, "--ttft-target-ms must be between 0 and 10000000, not ", o.ttft_target_ms)
        .about("ttft-target-ms");
  for (const auto& [option, value] : {std::pair("tp-size", o.tp_size), {"pp-size", o.pp_size}})
    WEFT_RETURN_IF_ERROR(in_range(option, value, 1, 64));
  WEFT_RETURN_IF_ERROR(in_range("ep-size", o.ep_size, 0, 64));
  WEFT_RETURN_IF_ERROR(in_range("kv-cache-events", o.kv_cache_events, 0, 1 << 24));
  WEFT_RETURN_IF_ERROR(in_range("rank-deadline", o.rank_deadline, 1, 86400));
  WEFT_RETURN_IF_ERROR(in_range("tokens-per-block", o.tokens_per_block, 1, 1024));
  if ((o.tokens_per_block & (o.tokens_per_block - 1)) != 0)
    return fail(Code::invalid_argument, "--tokens-per-block must be a power of two, not ", o.tokens_per_block)
        .about("tokens-per-block");
  const MediaLimits& m = o.media_limits;
  for (const auto& [field, value] : {std::pair("max_images", m.max_images),
                                     {"max_file_bytes", m.max_file_bytes},
                                     {"max_total_file_bytes", m.max_total_file_bytes},
                                     {"max_pixels", m.max_pixels},
                                     {"max_total_pixels", m.max_total_pixels},
                                     {"max_prepared_bytes", m.max_prepared_bytes},
                                     {"max_held_bytes", m.max_held_bytes}})
    if (value < 1)
      return fail(Code::invalid_argument, "media_limits.", field, " must be above 0, not ", value).about(field);
  return {};
}

}  // namespace

std::vector<SamplingOption> sampling_options() {
  std::vector<SamplingParameter> shown;
  for (const SamplingParameter& parameter : sampling_parameters())
    if (parameter.option > 0) shown.push_back(parameter);
  std::ranges::sort(shown, {}, &SamplingParameter::option);
  std::vector<SamplingOption> options;
  for (const SamplingParameter& parameter : shown)
    options.push_back(
        {parameter.name, parameter.help, std::holds_alternative<int SamplingParams::*>(parameter.member)});
  return options;
}

Status check_options(const EngineOptions& options) {
  WEFT_RETURN_IF_ERROR(check_supported(options));
  WEFT_TRY(const SpeculationOptions read, read_speculation(options.speculative_config));
  WEFT_RETURN_IF_ERROR(check_speculation(options.speculation));
  const SpeculationOptions& used = options.speculative_config.empty() ? options.speculation : read;
  if (options.drafter && used.method != DraftMethod::none && used.method != DraftMethod::ngram)
    return fail(Code::invalid_argument, "a program's own drafter takes the place of ngram, not of ",
                name_of(used.method))
        .about("speculative_config.method");
  return check_numbers(options);
}

}  // namespace weft
