// The thoughts of reasoning models: "<think> thoughts </think> answer". All about them stands here: whether a model
// thinks, where its answer begins, and how thoughts and answer are parted while the model writes. White space around
// the marks belongs to neither part, as the models' own templates have it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weft {

// The marks; either may be a special token of the tokenizer.
inline constexpr std::string_view kThinkOpen = "<think>", kThinkClose = "</think>";

// Where an answer begins. It matters to grammars, which hold behind the thoughts, and to the server.
enum class Thinking : uint8_t {
  none,      // the answer begins at once
  may_open,  // the answer may begin with "<think>"
  open,      // the prompt ends inside the thinking: all is thought up to "</think>"
};

// Models whose chat template has `source` think: it has to write the thoughts of earlier turns, or opens them.
bool thinking_shown_in(std::string_view source);

// `thinks`: the model does. `prompt`: the rendered chat. `continued`: the text of the final message if the model is to
// go on with it.
Thinking thinking_after(bool thinks, std::string_view prompt, std::optional<std::string_view> continued);

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
  void drop(size_t size, State next);

  State state_;
  std::string held_;
  size_t blanks_ = 0;  // white space in front of held_, as far as is known
};

}  // namespace weft
