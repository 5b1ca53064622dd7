// The kinds of things that an engine can be set up with, and their names on the command line, in configuration files
// and in errors (base/named_enum.h).
#pragma once

#include <cstdint>

#include "base/named_enum.h"

namespace weft {

// Of weights and products (--dtype); automatic: as the checkpoint is stored.
enum class ComputeType : uint8_t { automatic, float32, bfloat16 };
template <>
inline constexpr auto kNames<ComputeType> = names_of_all<ComputeType>("auto", "float32", "bfloat16");

// Of all matrix products but routers, while loading.
enum class Quantize : uint8_t { none, int8, int4 };
template <>
inline constexpr auto kNames<Quantize> = names_of_all<Quantize>("none", "int8", "int4");

// Whether inputs of products are rounded as the format of quantised weights says.
enum class ActivationQuantization : uint8_t { off, checkpoint };
template <>
inline constexpr auto kNames<ActivationQuantization> = names_of_all<ActivationQuantization>("off", "checkpoint");

// Bfloat16 matrices in 12 bits a weight, without loss (kernels/bf12_layout.h); automatic: where the kernels prefer it.
enum class PackWeights : uint8_t { automatic, on, off };
template <>
inline constexpr auto kNames<PackWeights> = names_of_all<PackWeights>("auto", "on", "off");

// Of the KV cache; automatic: as the products. No device has fp8 yet.
enum class KvCacheType : uint8_t { automatic, float32, bfloat16, int8, fp8 };
template <>
inline constexpr auto kNames<KvCacheType> = names_of_all<KvCacheType>("auto", "float32", "bfloat16", "int8", "fp8");

// When blocks come from the cache's tier: where that is faster than computing them, or whenever they are there.
enum class TierUse : uint8_t { automatic, always };
template <>
inline constexpr auto kNames<TierUse> = names_of_all<TierUse>("auto", "always");

// What a server does in a deployment of several (docs/serving-at-scale.md): computes prompts for others, generates with
// prompts that others have computed, or does all by itself.
enum class ServerRole : uint8_t { both, context, generation };
template <>
inline constexpr auto kNames<ServerRole> = names_of_all<ServerRole>("both", "context", "generation");

// What carries blocks between servers.
enum class TransferCarrier : uint8_t { tcp, ucx };
template <>
inline constexpr auto kNames<TransferCarrier> = names_of_all<TransferCarrier>("tcp", "ucx");

// dummy: random weights from config.json alone.
enum class LoadFormat : uint8_t { automatic, dummy };
template <>
inline constexpr auto kNames<LoadFormat> = names_of_all<LoadFormat>("auto", "dummy");

enum class Device : uint8_t { cpu, cuda };
template <>
inline constexpr auto kNames<Device> = names_of_all<Device>("cpu", "cuda");

// Two implementations that choose the same tokens (sampling/sampler.h).
enum class SamplerKind : uint8_t { fused, reference };
template <>
inline constexpr auto kNames<SamplerKind> = names_of_all<SamplerKind>("fused", "reference");

// Which thoughts are kept apart from the answer; automatic: as the chat template shows, think: "<think>...</think>".
enum class ReasoningParser : uint8_t { automatic, none, think };
template <>
inline constexpr auto kNames<ReasoningParser> = names_of_all<ReasoningParser>("auto", "none", "think");

}  // namespace weft
