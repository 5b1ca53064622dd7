// See the header. One state machine reads all forms: text, then behind a mark the head of a call (its name), then its
// arguments, then what may stand between two calls.
#include "server/tool_calls.h"

#include <algorithm>
#include <array>
#include <utility>

#include "server/held_text.h"
#include "server/tool_text.h"

namespace weft {

namespace {

using tool_text::Found;

enum class Body : uint8_t { json, python, deepseek, function_tag, nothing };

struct Mark {
  std::string_view open, close;
  Body body;
  unsigned formats;  // bits of those that use it; `generic` has them all
};
using enum ToolFormat;
constexpr unsigned bits(std::initializer_list<ToolFormat> formats) {
  unsigned set = 0;
  for (const ToolFormat format : formats) set |= 1u << static_cast<unsigned>(format);
  return set;
}
constexpr std::array kMarks = {
    Mark{"<tool_call>", "</tool_call>", Body::json, bits({hermes, xml})},
    Mark{"<function=", "", Body::function_tag, bits({xml})},
    Mark{"<TOOLCALL>", "</TOOLCALL>", Body::json, bits({nemotron})},
    Mark{"<toolcall>", "</toolcall>", Body::json, bits({nemotron})},
    Mark{"[TOOL_CALLS]", "", Body::json, bits({mistral})},
    Mark{"<|python_tag|>", "", Body::json, bits({llama_json, pythonic})},
    Mark{"<|python_start|>", "<|python_end|>", Body::python, bits({pythonic})},
    Mark{"<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", Body::deepseek, bits({deepseek})},
    Mark{"<｜tool▁calls▁begin｜>", "", Body::nothing, bits({deepseek})},
    Mark{"<｜tool▁calls▁end｜>", "", Body::nothing, bits({deepseek})},
};
// A call without a mark, at the start of the answer.
constexpr Mark kBare = {"", "", Body::json, 0};

constexpr size_t kLongestName = 256;  // and what may stand around it, before a head is given up

bool counts(const Mark& mark, ToolFormat format) { return format == generic || (mark.formats & bits({format})) != 0; }

bool begins(std::string_view text, size_t at, std::string_view word) { return text.substr(at, word.size()) == word; }
// The text ends inside of `word`.
bool may_begin(std::string_view text, size_t at, std::string_view word) {
  return text.size() - at < word.size() && word.starts_with(text.substr(at));
}

}  // namespace

class ToolCallFinder::Reader {
 public:
  explicit Reader(Rules rules) : rules_(std::move(rules)) {
    // A forced call is written as JSON whatever the model's form is: the grammar sees to that.
    const bool bare_format = rules_.format == generic || rules_.format == llama_json || rules_.format == pythonic;
    // So are strict calls of models without marks of their own; what looks like another form is text then, since no
    // schema held it.
    const bool forced = rules_.mode == ToolMode::any || (rules_.strict && bare_format);
    bare_ = forced || bare_format;
    if (!forced)
      for (const Mark& mark : kMarks)
        if (counts(mark, rules_.format)) marks_.push_back(&mark);
  }

  ToolOutput push(std::string_view text) {
    if (rules_.mode == ToolMode::named) return push_named(text);
    held_ += text;
    while (step()) {
    }
    return std::exchange(out_, {});
  }

  ToolOutput finish() {
    if (rules_.mode == ToolMode::named) return calls_ == 0 ? push_named("", true) : ToolOutput{};
    last_ = true;
    while (step()) {
    }
    // White space beside calls belongs to their form.
    if (calls_ == 0) out_.content += std::exchange(blank_, {});
    return std::exchange(out_, {});
  }

 private:
  enum class State : uint8_t { text, head, object, object_end, python, function, between };

  // False: more text is needed, or all has been read.
  bool step() {
    switch (state_) {
      case State::text: return read_text();
      case State::head: return take(read_head(), &Reader::give_up_head);
      case State::object: return read_object();
      case State::object_end: return take(read_object_end(), &Reader::leave);
      case State::python: return take(read_python_argument(), &Reader::leave);
      case State::function: return take(read_parameter(), &Reader::leave);
      case State::between: return take(read_between(), &Reader::leave);
    }
    return false;
  }
  bool take(Found found, void (Reader::*otherwise)()) {
    if (found == Found::more && !last_) return false;
    if (found == Found::more && state_ != State::head) held_.clear();  // the answer was cut off inside a call
    if (found != Found::yes) (this->*otherwise)();
    return true;
  }

  ToolOutput push_named(std::string_view text, bool even_empty = false) {
    ToolOutput out;
    if (text.empty() && !even_empty) return out;
    if (calls_ == 0) out.deltas.push_back({0, rules_.names.front(), ""}), calls_ = 1;
    if (!text.empty()) out.deltas.push_back({0, "", std::string(text)});
    return out;
  }

  // ---- text

  bool read_text() {
    if (!started_ && bare_) {
      const size_t first = tool_text::skip_blanks(held_, 0);
      if (first == held_.size() && !last_) return false;
      started_ = true;
      if (first < held_.size() && (held_[first] == '{' || held_[first] == '[')) return begin_block(kBare, 0, first);
    }
    started_ = true;
    const Mark* mark = nullptr;
    size_t at = std::string::npos, held = 0;
    for (const Mark* candidate : marks_) {
      if (const size_t found = held_.find(candidate->open); found < at) at = found, mark = candidate;
      held = std::max(held, held_by(held_, candidate->open));
    }
    if (mark) {
      add_content(held_.substr(0, at));
      return begin_block(*mark, at, at + mark->open.size());
    }
    const size_t end = last_ ? held_.size() : held_.size() - held;
    add_content(held_.substr(0, end));
    held_.erase(0, end);
    return false;
  }

  // `from`: where the block begins in held_; `to`: behind its mark.
  bool begin_block(const Mark& mark, size_t from, size_t to) {
    opening_ = held_.substr(from, to - from);
    held_.erase(0, to);
    mark_ = &mark;
    list_ = false;
    block_calls_ = 0;
    state_ = mark.body == Body::nothing ? State::text : State::head;
    return true;
  }

  void add_content(const std::string& text) {
    if (text.empty()) return;
    const size_t shown = tool_text::skip_blanks(text, 0);
    if (shown == text.size() && (!content_ || calls_ > 0)) {
      blank_ += text;
      return;
    }
    out_.content += std::exchange(blank_, {}) + text;
    content_ = true;
  }

  // No call after all: the mark is text, and behind it all may be.
  void give_up_head() {
    if (block_calls_ == 0) add_content(std::exchange(opening_, {}));
    state_ = State::text;
  }
  void leave() { state_ = State::text; }

  // ---- heads

  Found read_head() {
    size_t at = tool_text::skip_blanks(held_, 0);
    if (at == held_.size()) return Found::more;
    if (mark_->body == Body::deepseek) return read_deepseek_head(at);
    if (mark_->body == Body::function_tag) return read_function_name(at);
    if (begins(held_, at, "<function=")) return read_function_name(at + 10);
    if (may_begin(held_, at, "<function=")) return Found::more;
    bool list = list_;
    if (!list && held_[at] == '[') {
      at = tool_text::skip_blanks(held_, at + 1);
      if (at == held_.size()) return Found::more;
      list = true;
    }
    if (held_[at] == '{') return read_json_head(at, list);
    if (mark_->open == "[TOOL_CALLS]" && !list) return read_mistral_head(at);
    const bool python =
        mark_->body == Body::python || (list && bare_ && (mark_ == &kBare || mark_->open == "<|python_tag|>"));
    return python ? read_python_head(at, list) : Found::no;
  }

  Found read_json_head(size_t at, bool list) {
    tool_text::CallHead head;
    const Found found = tool_text::read_call_head(held_, at, rules_.names, head);
    if (found != Found::yes) return found;
    begin_call(head.name, head.at);
    list_ = list;
    braces_ = head.braces;
    if (head.arguments) {
      add_arguments(*head.arguments);
      state_ = State::object_end;
    } else {
      state_ = State::object;
    }
    return Found::yes;
  }

  // NAME{...}, NAME[ARGS]{...} or NAME[CALL_ID]ID[ARGS]{...}
  Found read_mistral_head(size_t at) {
    const size_t end = held_.find_first_of("{[", at);
    if (end == std::string::npos) return held_.size() - at > kLongestName ? Found::no : Found::more;
    std::string name = held_.substr(at, end - at);
    name.resize(end_without_blanks(name));
    size_t object = end;
    if (held_[end] == '[') {
      static constexpr std::string_view kArgs = "[ARGS]", kId = "[CALL_ID]";
      if (!begins(held_, end, kArgs) && !begins(held_, end, kId))
        return may_begin(held_, end, kArgs) || may_begin(held_, end, kId) ? Found::more : Found::no;
      const size_t args = held_.find(kArgs, end);
      if (args == std::string::npos) return held_.size() - end > kLongestName ? Found::no : Found::more;
      object = tool_text::skip_blanks(held_, args + kArgs.size());
    }
    return begin_object(name, object);
  }

  // function SEP NAME \n ```json \n {...}, or NAME SEP {...}
  Found read_deepseek_head(size_t at) {
    static constexpr std::string_view kSeparator = "<｜tool▁sep｜>", kFence = "```json";
    const size_t separator = held_.find(kSeparator, at);
    if (separator == std::string::npos) return held_.size() - at > kLongestName ? Found::no : Found::more;
    const size_t behind = separator + kSeparator.size();
    const size_t object = tool_text::skip_blanks(held_, behind);
    if (object == held_.size()) return Found::more;
    if (held_[object] == '{')
      return begin_object(held_.substr(at, end_without_blanks(held_.substr(at, separator - at))), object);
    const size_t line = held_.find('\n', behind);
    if (line == std::string::npos) return held_.size() - behind > kLongestName ? Found::no : Found::more;
    std::string name = held_.substr(object, line - object);
    name.resize(end_without_blanks(name));
    const size_t fence = tool_text::skip_blanks(held_, line);
    if (fence == held_.size() || may_begin(held_, fence, kFence)) return Found::more;
    return begin_object(name,
                        begins(held_, fence, kFence) ? tool_text::skip_blanks(held_, fence + kFence.size()) : fence);
  }

  // The object at `at` is the whole of the arguments.
  Found begin_object(const std::string& name, size_t at) {
    if (!declared(name)) return Found::no;
    if (at >= held_.size()) return Found::more;
    if (held_[at] != '{') return Found::no;
    begin_call(name, at);
    braces_ = 0;
    state_ = State::object;
    return Found::yes;
  }

  Found read_python_head(size_t at, bool list) {
    std::string name;
    if (const Found found = tool_text::read_identifier(held_, at, name); found != Found::yes) return found;
    if (held_[at] != '(' || !declared(name)) return Found::no;
    begin_call(name, at + 1);
    list_ = list;
    parts_ = 0;
    state_ = State::python;
    return Found::yes;
  }

  Found read_function_name(size_t at) {
    const size_t end = held_.find('>', at);
    if (end == std::string::npos) return held_.size() - at > kLongestName ? Found::no : Found::more;
    const std::string name = held_.substr(at, end - at);
    if (!declared(name)) return Found::no;
    begin_call(name, end + 1);
    function_ = name;
    parts_ = 0;
    state_ = State::function;
    return Found::yes;
  }

  bool declared(const std::string& name) const {
    return std::find(rules_.names.begin(), rules_.names.end(), name) != rules_.names.end();
  }

  void begin_call(const std::string& name, size_t read) {
    held_.erase(0, read);
    blank_.clear();
    ++calls_;
    ++block_calls_;
    scanner_ = {};
    out_.deltas.push_back({calls_ - 1, name, ""});
  }

  void add_arguments(std::string text) {
    if (text.empty()) return;
    if (!out_.deltas.empty() && out_.deltas.back().name.empty()) out_.deltas.back().arguments += text;
    else out_.deltas.push_back({calls_ - 1, "", std::move(text)});
  }

  // ---- arguments

  bool read_object() {
    if (held_.empty()) return false;
    const size_t size = scanner_.scan(held_);
    add_arguments(held_.substr(0, size));
    held_.erase(0, size);
    if (!scanner_.done()) return false;
    state_ = State::object_end;
    return true;
  }

  // Members behind the arguments, and the braces around them.
  Found read_object_end() {
    while (braces_ > 0) {
      size_t at = tool_text::skip_blanks(held_, 0);
      if (at == held_.size()) return Found::more;
      if (held_[at] == ',') {
        std::string key;
        at = tool_text::skip_blanks(held_, at + 1);
        if (const Found found = tool_text::read_string(held_, at, key); found != Found::yes) return found;
        at = tool_text::skip_blanks(held_, at);
        if (at == held_.size()) return Found::more;
        if (held_[at] != ':') return Found::no;
        at = tool_text::skip_blanks(held_, at + 1);
        if (const Found found = tool_text::skip_value(held_, at); found != Found::yes) return found;
        held_.erase(0, at);
        continue;
      }
      if (held_[at] != '}') return Found::no;
      held_.erase(0, at + 1);
      --braces_;
    }
    state_ = State::between;
    return Found::yes;
  }

  // One of KEY=VALUE, or the closing parenthesis.
  Found read_python_argument() {
    size_t at = tool_text::skip_blanks(held_, 0);
    if (at < held_.size() && held_[at] == ',' && parts_ > 0) at = tool_text::skip_blanks(held_, at + 1);
    if (at == held_.size()) return Found::more;
    if (held_[at] == ')') return end_parts(at + 1);
    std::string key, value;
    if (const Found found = tool_text::read_identifier(held_, at, key); found != Found::yes) return found;
    at = tool_text::skip_blanks(held_, at);
    if (at == held_.size()) return Found::more;
    if (held_[at] != '=') return Found::no;
    ++at;
    if (const Found found = tool_text::read_python(held_, at, value); found != Found::yes) return found;
    at = tool_text::skip_blanks(held_, at);
    if (at == held_.size()) return Found::more;
    if (held_[at] != ',' && held_[at] != ')') return Found::no;
    add_part(key, value, at);
    return Found::yes;
  }

  // One of <parameter=KEY>VALUE</parameter>, or </function>.
  Found read_parameter() {
    static constexpr std::string_view kOpen = "<parameter=", kClose = "</parameter>", kEnd = "</function>";
    const size_t at = tool_text::skip_blanks(held_, 0);
    if (at == held_.size() || may_begin(held_, at, kOpen) || may_begin(held_, at, kEnd)) return Found::more;
    if (begins(held_, at, kEnd)) return end_parts(at + kEnd.size());
    if (!begins(held_, at, kOpen)) return Found::no;
    const size_t key = at + kOpen.size(), key_end = held_.find('>', key);
    if (key_end == std::string::npos) return Found::more;
    const size_t close = held_.find(kClose, key_end);
    if (close == std::string::npos) return Found::more;
    const std::string name = held_.substr(key, key_end - key);
    const Json* schema = rules_.parameters.find(function_);
    if (schema) schema = schema->find("properties");
    if (schema) schema = schema->find(name);
    const std::string value =
        tool_text::xml_value(std::string_view(held_).substr(key_end + 1, close - key_end - 1), schema);
    add_part(name, value, close + kClose.size());
    return Found::yes;
  }

  void add_part(const std::string& key, const std::string& value, size_t read) {
    add_arguments((parts_++ == 0 ? "{" : ", ") + json_quote(key) + ": " + value);
    held_.erase(0, read);
  }
  Found end_parts(size_t read) {
    add_arguments(parts_ == 0 ? "{}" : "}");
    held_.erase(0, read);
    state_ = State::between;
    return Found::yes;
  }

  // ---- between calls

  Found read_between() {
    const size_t at = tool_text::skip_blanks(held_, 0);
    if (at == held_.size()) return Found::more;
    static constexpr std::string_view kFence = "```";
    if (mark_->body == Body::deepseek && begins(held_, at, kFence)) return go_on(at + kFence.size(), State::between);
    if (mark_->body == Body::deepseek && may_begin(held_, at, kFence)) return Found::more;
    if (list_ && held_[at] == ']') {
      list_ = false;
      return go_on(at + 1, State::between);
    }
    if (list_) return held_[at] == ',' ? go_on(at + 1, State::head) : Found::no;
    if (!mark_->close.empty()) {
      if (begins(held_, at, mark_->close)) return go_on(at + mark_->close.size(), State::text);
      if (may_begin(held_, at, mark_->close)) return Found::more;
    }
    if (held_[at] == ';' || held_[at] == ',') return go_on(at + 1, State::head);
    if (held_[at] == '{' || (mark_->body == Body::json && begins(held_, at, "<function=")))
      return go_on(at, State::head);
    return Found::no;
  }

  Found go_on(size_t read, State state) {
    held_.erase(0, read);
    state_ = state;
    return Found::yes;
  }

  const Rules rules_;
  bool bare_ = false;
  std::vector<const Mark*> marks_;

  State state_ = State::text;
  std::string held_;     // not yet understood
  std::string blank_;    // white space that may stand beside a call
  std::string opening_;  // the text of the present block's mark
  const Mark* mark_ = &kBare;
  bool started_ = false;  // past the place where a call without a mark may stand
  bool content_ = false;  // content has gone out
  bool last_ = false;     // no more text will come
  bool list_ = false;     // inside the brackets of a list of calls
  int braces_ = 0;        // to be closed behind the arguments
  int parts_ = 0;         // arguments of the present call (pythonic, XML)
  std::string function_;
  size_t calls_ = 0, block_calls_ = 0;
  tool_text::ObjectScanner scanner_;
  ToolOutput out_;
};

ToolCallFinder::ToolCallFinder(Rules rules) : reader_(std::make_unique<Reader>(std::move(rules))) {}
ToolCallFinder::~ToolCallFinder() = default;
ToolCallFinder::ToolCallFinder(ToolCallFinder&&) noexcept = default;

ToolOutput ToolCallFinder::push(std::string_view text) { return reader_->push(text); }
ToolOutput ToolCallFinder::finish() { return reader_->finish(); }

void add_delta(const ToolDelta& delta, std::vector<ToolCall>& calls) {
  if (!delta.name.empty()) calls.push_back({delta.name, ""});
  calls.at(delta.index).arguments += delta.arguments;
}

}  // namespace weft
