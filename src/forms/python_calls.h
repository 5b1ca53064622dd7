// Calls written as in Python, [f(a=1), g(b="x")], or as JSON. Arguments are turned into JSON one by one.
#pragma once

#include "forms/json_calls.h"

namespace weft {

class PythonCalls final : public JsonCalls {
 public:
  // `list_only`: a call as in Python counts only inside of the brackets of a list.
  PythonCalls(std::string_view close, bool list_only) : JsonCalls(close), list_only_(list_only) {}

 private:
  Found read_other_head(CallStream& stream, size_t at, bool in_list) override;
  Found read_arguments(CallStream& stream) override;
  Found read_argument(CallStream& stream);
  void close_call(CallStream& stream) override;

  const bool list_only_;
  bool python_ = false;  // the present call is written as in Python
};

}  // namespace weft
