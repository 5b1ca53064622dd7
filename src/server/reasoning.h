// Parts the thoughts of a reasoning model from its answer: "<think> thoughts </think> answer", where the prompt may
// already have opened the thinking (core/thinking.h). White space around the marks belongs to neither part, as the
// models' own templates have it.
#pragma once

#include <string>
#include <string_view>

#include "core/thinking.h"

namespace weft {

struct ReasonedText {
  std::string reasoning, content;
};

// One per choice. Text that may belong to a mark is held back until that is certain.
class ReasoningSplitter {
 public:
  explicit ReasoningSplitter(Thinking thinking)
      : state_(thinking == Thinking::open       ? State::opened
               : thinking == Thinking::may_open ? State::start
                                                : State::answer) {}

  ReasonedText push(std::string_view text);
  // At the end of the answer: what was held back.
  ReasonedText finish();
  // What comes next is thought, as far as is known.
  bool thinking() const { return state_ == State::opened || state_ == State::thinking; }

 private:
  enum class State : unsigned char {
    start,     // the answer may begin with "<think>"
    opened,    // inside, nothing but white space so far
    thinking,  // inside
    closed,    // behind "</think>", nothing but white space so far
    answer,
  };
  bool step(ReasonedText& out);

  State state_;
  std::string held_;
};

}  // namespace weft
