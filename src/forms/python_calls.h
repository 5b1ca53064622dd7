// Calls written as in Python, [f(a=1), g(b="x")], or as JSON. Arguments are turned into JSON one by one.
#pragma once

#include "forms/json_calls.h"
#include "forms/python_literal.h"

namespace weft {

// Reads KEY=VALUE up to what stands behind it, or the closing parenthesis, and goes on where it stopped.
class ArgumentReader {
 public:
  // `at`: where the argument begins; `first`: no comma stands before it.
  Found read(std::string_view text, size_t at, bool first);
  const std::string& key() const { return key_; }  // empty: the closing parenthesis
  const std::string& value() const { return value_.json(); }
  size_t at() const { return step_ == Step::value ? value_.at() : at_; }  // how far it was read

 private:
  enum class Step : uint8_t { begin, comma, key, key_behind, value, behind, done };
  Found step(std::string_view text);
  Found go_on(Step next);

  Step step_ = Step::begin;
  bool first_ = true;
  size_t at_ = 0;
  size_t next_ = 0;  // to be looked at, in the key
  std::string key_;
  PythonReader value_;
};

class PythonCalls final : public JsonCalls {
 public:
  // `list_only`: a call as in Python counts only inside of the brackets of a list.
  PythonCalls(std::string_view close, bool list_only) : JsonCalls(close), list_only_(list_only) {}

 private:
  Found read_other_head(CallStream& stream, size_t at, bool in_list) override;
  Found read_arguments(CallStream& stream) override;
  Found read_argument(CallStream& stream);
  void close_call(CallStream& stream) override;
  void forget() override;

  const bool list_only_;
  bool python_ = false;  // the present call is written as in Python
  size_t name_end_ = 0;  // of the present head, as far as it was read; 0: it was not
  bool named_ = false;   // name_end_ is the end of a name
  ArgumentReader argument_;
};

}  // namespace weft
