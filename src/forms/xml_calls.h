// Calls written as <function=NAME><parameter=KEY>VALUE</parameter></function>, or as JSON. Values are turned into JSON
// one by one, as the function's schema says.
#pragma once

#include "forms/json_calls.h"

namespace weft {

// Reads what stands between <function=NAME> and the end of the function, one parameter or the end, and goes on where it
// stopped.
class PartReader {
 public:
  // `at`: where the part begins; `parameters`: the schema of the function's arguments, or null.
  Found read(CallStream& stream, size_t at, const Json* parameters);
  size_t at() const { return at_; }  // behind the part, or how far it was read
  // Of the stream's text. An empty key: the end of the function.
  std::string_view key(std::string_view text) const { return text.substr(key_, key_size_); }
  std::string_view value(std::string_view text) const { return text.substr(from_, value_end_ - from_); }

 private:
  enum class Step : uint8_t { begin, key, value, done };
  Found begin(CallStream& stream);
  Found read_value(CallStream& stream);
  Found end_value(std::string_view text, size_t to, size_t behind);
  Found call_goes_on(CallStream& stream, size_t at) const;

  Step step_ = Step::begin;
  const Json* parameters_ = nullptr;
  size_t at_ = 0;
  size_t key_ = 0, key_size_ = 0;
  size_t from_ = 0, value_end_ = 0;
  size_t next_ = 0;                         // to be looked at, in the value
  size_t likely_ = std::string_view::npos;  // the first tag that may be the end of the value
};

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
  void forget() override;
  Found read_name(CallStream& stream, size_t at);
  Found read_part(CallStream& stream);

  const bool behind_tag_;
  std::string function_;  // of the present call, if it is written in XML
  PartReader part_;
};

}  // namespace weft
