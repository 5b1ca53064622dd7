// Why a generation ended.
#pragma once

#include <cstdint>

namespace weft {

enum class FinishReason : uint8_t { none, stop, length, error, cancelled };

const char* name(FinishReason reason);  // "stop", "length", ... as the APIs spell them

}  // namespace weft
