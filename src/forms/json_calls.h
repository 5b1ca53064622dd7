// Calls written as JSON objects, {"name": NAME, "arguments": {...}}, alone or in a list, several with ',' or ';'
// between them. The other readers derive from this one: their heads differ, and most forms fall back to JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "forms/call_reader.h"
#include "forms/json_object.h"
#include "forms/json_text.h"

namespace weft {

class JsonCalls : public CallReader {
 public:
  // `close`: the mark behind the block; empty: there is none.
  explicit JsonCalls(std::string_view close) : close_(close) {}

  Step step(CallStream& stream) final;
  size_t read_in_vain() const final { return in_vain_; }
  // The head of a call that has not begun becomes text; a call that has is closed, and its rest dropped.
  void cut_off(CallStream& stream) override;

 protected:
  enum class State : uint8_t { head, arguments, between };

  // Each reads its part of a call from the front of the stream's text. yes: it has moved on, to the next state or
  // within its own; no: what stands there is no such part, so the block is over; more: the text ends too early.
  virtual Found read_head(CallStream& stream);
  virtual Found read_arguments(CallStream& stream);
  virtual Found read_between(CallStream& stream);

  // A head at `at` that begins with neither '[' nor '{'. `in_list`: inside of the brackets of a list.
  virtual Found read_other_head(CallStream&, size_t /*at*/, bool /*in_list*/) { return Found::no; }

  // Behind a call, with no mark between: whether the next one begins at `at`.
  virtual Found call_follows(std::string_view text, size_t at) const {
    return text[at] == '{' ? Found::yes : Found::no;
  }
  // The arguments end early: whatever closes the call.
  virtual void close_call(CallStream& stream);
  // Another part is to be read. What a reader remembers of a part that was not complete, to go on from there, is void.
  virtual void forget() {}

  // Drops `size` bytes and moves on.
  Found go_on(CallStream& stream, size_t size, State next);
  // The call of `name` begins; its arguments at `at`.
  Found begin_call(CallStream& stream, std::string_view name, size_t at, bool in_list);
  // Likewise, where the arguments must be a JSON object, around which nothing is left to read. A call begins once its
  // first value does.
  Found begin_object(CallStream& stream, std::string_view name, size_t at);
  // `found`, and how far the text was read for it.
  Found read_to(size_t at, Found found) {
    in_vain_ = at;
    return found;
  }

  bool in_list() const { return in_list_; }

  // A name, and what may stand around it, before a head is given up.
  static constexpr size_t kLongestName = 256;
  // Of a name that begins at `at` and ends with a word of `word` bytes at `end`, or, npos, not in sight: whether that
  // is near enough. The same wherever the text was cut: a word that begins near enough is waited for to its end.
  static Found name_ends(const CallStream& stream, size_t at, size_t end, size_t word) {
    if (end != std::string::npos) return end - at > kLongestName ? Found::no : Found::yes;
    return stream.text().size() - at >= kLongestName + word ? Found::no : Found::more;
  }

 private:
  Found read_json_head(CallStream& stream, size_t at, bool in_list);
  Found value_begins(CallStream& stream, size_t at);
  size_t surplus_braces(std::string_view text, size_t at);
  Found read_object(CallStream& stream);
  Found read_end_of_head(CallStream& stream);

  const std::string_view close_;
  State state_ = State::head;
  bool in_list_ = false;      // inside of the brackets of a list of calls
  bool object_read_ = false;  // of the present call: the object of its arguments
  int braces_ = 0;            // of the present call: to be closed behind its arguments
  ObjectReader reader_;       // of the present call's arguments
  std::string separator_;     // before the head that is read: text, unless a call follows
  size_t in_vain_ = 0;        // read of the present part

  // Of the part that is read:
  CallHeadReader head_;
  ObjectReader value_;     // up to the first value of the arguments
  size_t value_read_ = 0;  // by value_, in bytes
  MemberReader member_;    // behind the arguments
  size_t member_at_ = 0;   // 0: no member has begun
  size_t braces_end_ = 0;  // behind surplus braces and white space
};

}  // namespace weft
