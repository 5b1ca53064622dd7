#include "text/detokenizer.h"

#include <utility>

#include "text/bridge_call.h"

namespace weft {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), state_(weft_detokenizer_new(skip_special)) {}

Detokenizer::~Detokenizer() {
  if (state_ != nullptr) weft_detokenizer_free(state_);
}

Detokenizer::Detokenizer(Detokenizer&& other) noexcept
    : tokenizer_(std::move(other.tokenizer_)), state_(std::exchange(other.state_, nullptr)) {}

Detokenizer& Detokenizer::operator=(Detokenizer&& other) noexcept {
  std::swap(tokenizer_, other.tokenizer_);
  std::swap(state_, other.state_);
  return *this;
}

std::string Detokenizer::push(int32_t id) {
  return bridge::take(weft_detokenizer_push(state_, tokenizer_->handle().get(), static_cast<uint32_t>(id)));
}

std::string Detokenizer::finish() { return bridge::take(weft_detokenizer_finish(state_, tokenizer_->handle().get())); }

}  // namespace weft
