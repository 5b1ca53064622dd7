// Result<T>: a value or an Error, the only way that failures of the outside world (bad input, bad checkpoints, I/O)
// travel between folders. Exceptions of third parties are caught in the one file that calls them; bugs end in
// WEFT_CHECK.
#pragma once

#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <variant>

namespace weft {

// What kind of failure it is; one table in the server maps codes to HTTP statuses.
enum class Code : unsigned char {
  invalid_argument,    // the caller's input is wrong: 400
  not_found,           // a file, tensor, model or id does not exist: 404
  unsupported,         // valid, but not something this build can do: 400 (501 at start-up)
  resource_exhausted,  // memory, cache or queue is full: 429 or 503
  data_corrupt,        // a file contradicts itself
  cancelled,           // the client went away
  deadline_exceeded,   // it took longer than it may: 503
  too_large,           // more than one request may ask for: 413
  internal,            // a bug, or a number that is not finite: 500
  context_overflow,    // a prompt is longer than the model's context: 400
  unavailable,         // nothing can be computed any more: ranks in other processes were lost: 503
};

const char* name(Code code);

class Error {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  Code code() const { return code_; }
  // Innermost fact first, then the contexts in parentheses: "model.norm.weight is absent (Qwen3ForCausalLM, shard 2 of
  // 4)".
  std::string message() const;
  // The request field the error is about ("temperature", "messages[1].content"), or empty.
  const std::string& param() const { return param_; }
  Error&& with(const std::string& context) && {
    contexts_ += contexts_.empty() ? context : ", " + context;
    return std::move(*this);
  }
  Error&& about(std::string param) && {
    param_ = std::move(param);
    return std::move(*this);
  }
  // "not_found: model.norm.weight is absent (...)"
  std::string to_string() const;

 private:
  Code code_;
  std::string message_, contexts_, param_;
};

// Builds an error from parts: fail(Code::not_found, "no file ", path).
template <class... Parts>
Error fail(Code code, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return Error(code, text.str());
}

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}
  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  void value() const {}
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

#define WEFT_CONCAT_(a, b) a##b
#define WEFT_CONCAT(a, b) WEFT_CONCAT_(a, b)
// WEFT_TRY(auto file, open(path)): declares `file` with the value, or returns the error from the enclosing function.
#define WEFT_TRY(declaration, expression) WEFT_TRY_(WEFT_CONCAT(result_, __LINE__), declaration, expression)
#define WEFT_TRY_(result, declaration, expression)    \
  auto result = (expression);                         \
  if (!result.ok()) return std::move(result).error(); \
  declaration = std::move(result).value()
// WEFT_RETURN_IF_ERROR(write(path)): the same for a Status.
#define WEFT_RETURN_IF_ERROR(expression)                                            \
  do {                                                                              \
    if (auto status = (expression); !status.ok()) return std::move(status).error(); \
  } while (0)

}  // namespace weft
