#include "text/detokenizer.h"

#include <utility>

#include "base/bridge_call.h"

namespace weft {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special,
                         const std::vector<std::string>& kept)
    : tokenizer_(std::move(tokenizer)), state_(weft_detokenizer_new(skip_special)) {
  for (const std::string& name : kept)
    if (const auto id = tokenizer_->find_token(name); id && tokenizer_->is_special(*id))
      weft_detokenizer_keep(state_, static_cast<uint32_t>(*id));
}

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
