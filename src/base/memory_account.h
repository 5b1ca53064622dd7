// How much memory all requests of a server may take together. What a request will need is charged before it is
// allocated, and given back when the charge is destroyed; so the process grows by no more than the account's limit.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace weft {

class MemoryCharge;

// Any thread.
class MemoryAccount : public std::enable_shared_from_this<MemoryAccount> {
 public:
  // `limit`: bytes; 0: none. `flag`: the option that sets it, for messages.
  static std::shared_ptr<MemoryAccount> create(int64_t limit, const char* flag) {
    return std::shared_ptr<MemoryAccount>(new MemoryAccount(limit, flag));
  }
  // resource_exhausted when the account has no room for it now; too_large when it never will.
  Result<MemoryCharge> charge(int64_t bytes, std::string_view what);
  int64_t used() const { return used_.load(std::memory_order_relaxed); }
  int64_t limit() const { return limit_; }

 private:
  friend class MemoryCharge;
  MemoryAccount(int64_t limit, const char* flag) : limit_(limit), flag_(flag) {}
  Status take(int64_t bytes, std::string_view what);
  void give_back(int64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }

  const int64_t limit_;
  const char* const flag_;
  std::atomic<int64_t> used_{0};
};

// A part of the account, as long as it lives. One thread at a time.
class MemoryCharge {
 public:
  MemoryCharge() = default;  // of no account: everything is free
  MemoryCharge(MemoryCharge&& other) noexcept
      : account_(std::move(other.account_)), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryCharge& operator=(MemoryCharge&& other) noexcept {
    std::swap(account_, other.account_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MemoryCharge() { release(); }

  // Takes more. The errors of MemoryAccount::charge; nothing is taken then.
  Status add(int64_t bytes, std::string_view what) {
    if (!account_) return {};
    WEFT_RETURN_IF_ERROR(account_->take(bytes, what));
    bytes_ += bytes;
    return {};
  }
  void release() {
    if (account_) account_->give_back(std::exchange(bytes_, 0));
  }
  int64_t bytes() const { return bytes_; }

 private:
  friend class MemoryAccount;
  explicit MemoryCharge(std::shared_ptr<MemoryAccount> account) : account_(std::move(account)) {}
  std::shared_ptr<MemoryAccount> account_;
  int64_t bytes_ = 0;
};

inline Status MemoryAccount::take(int64_t bytes, std::string_view what) {
  const int64_t before = used_.fetch_add(bytes, std::memory_order_relaxed);
  if (limit_ == 0 || before + bytes <= limit_) return {};
  give_back(bytes);
  if (bytes > limit_)
    return fail(Code::too_large, what, " would take ", bytes, " bytes of memory; all requests together may take ",
                limit_, " (", flag_, ")");
  return fail(Code::resource_exhausted, what, " would take ", bytes, " bytes of memory; requests have ", before,
              " of the ", limit_, " that all together may take (", flag_, "); try again later");
}

inline Result<MemoryCharge> MemoryAccount::charge(int64_t bytes, std::string_view what) {
  MemoryCharge charge(shared_from_this());
  WEFT_RETURN_IF_ERROR(charge.add(bytes, what));
  return charge;
}

}  // namespace weft
