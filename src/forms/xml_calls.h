// Calls written as <function=NAME><parameter=KEY>VALUE</parameter></function>, or as JSON. Values are turned into JSON
// one by one, as the function's schema says.
#pragma once

#include "forms/json_calls.h"

namespace weft {

class XmlCalls final : public JsonCalls {
 public:
  // `behind_tag`: the block's mark was "<function=" itself.
  XmlCalls(std::string_view close, bool behind_tag) : JsonCalls(close), behind_tag_(behind_tag) {}

 private:
  Found read_head(CallStream& stream) override;
  Found read_arguments(CallStream& stream) override;
  Found read_between(CallStream& stream) override;
  Found call_follows(std::string_view text, size_t at) const override;
  void close_call(CallStream& stream) override;
  Found read_name(CallStream& stream, size_t at);
  Found read_part(CallStream& stream);

  const bool behind_tag_;
  std::string function_;  // of the present call, if it is written in XML
};

}  // namespace weft
