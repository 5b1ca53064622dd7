// The reader of a block of tool calls: of what stands behind a mark such as <tool_call>, up to the end of the block.
#pragma once

#include <cstdint>

#include "forms/call_stream.h"

namespace weft {

// One per block. It takes text from the front of the stream and puts calls into it. Text comes in pieces that may end
// anywhere, and calls must not depend on where: a reader drops only what no later text can change.
class CallReader {
 public:
  enum class Step : uint8_t {
    on,    // something was understood: call step() again
    more,  // the text ends too early to tell
    over,  // the block is over: what is left in the stream is text. If no call has begun, so is the block's mark
  };

  virtual ~CallReader() = default;
  virtual Step step(CallStream& stream) = 0;
  // The block is over: how much of what is left in the stream was read in vain, in bytes.
  virtual size_t read_in_vain() const = 0;
  // The answer has ended, and step() asks for more. What this leaves in the stream becomes text of the answer.
  virtual void cut_off(CallStream& stream) = 0;
};

}  // namespace weft
