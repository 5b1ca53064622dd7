// How much memory all requests of a server may take together. What a request will need is charged before it is
// allocated, and given back when the charge is destroyed; so the process grows by no more than the account's limit. One
// client has no more than three quarters of it, so that something is left for others.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
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
  // For a client (an address). resource_exhausted when the account has no room for it now; too_large when it never
  // will.
  Result<MemoryCharge> charge(int64_t bytes, std::string_view what, const std::string& client);
  int64_t used() const {
    const std::lock_guard lock(mutex_);
    return used_;
  }
  int64_t limit() const { return limit_; }

 private:
  friend class MemoryCharge;
  MemoryAccount(int64_t limit, const char* flag) : limit_(limit), flag_(flag) {}
  Status take(int64_t bytes, std::string_view what, const std::string& client);
  void give_back(int64_t bytes, const std::string& client) noexcept;

  const int64_t limit_;
  const char* const flag_;
  mutable std::mutex mutex_;
  int64_t used_ = 0;
  std::unordered_map<std::string, int64_t> clients_;  // what each has, of those that have anything
};

// A part of the account, as long as it lives. One thread at a time.
class MemoryCharge {
 public:
  MemoryCharge() = default;  // of no account: everything is free
  MemoryCharge(MemoryCharge&& other) noexcept
      : account_(std::move(other.account_)), client_(std::move(other.client_)), bytes_(std::exchange(other.bytes_, 0)) {
  }
  MemoryCharge& operator=(MemoryCharge&& other) noexcept {
    std::swap(account_, other.account_), std::swap(client_, other.client_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MemoryCharge() { release(); }

  // Takes more. The errors of MemoryAccount::charge; nothing is taken then.
  Status add(int64_t bytes, std::string_view what) {
    if (!account_) return {};
    WEFT_RETURN_IF_ERROR(account_->take(bytes, what, client_));
    bytes_ += bytes;
    return {};
  }
  void release() {
    if (account_ && bytes_ > 0) account_->give_back(std::exchange(bytes_, 0), client_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  friend class MemoryAccount;
  MemoryCharge(std::shared_ptr<MemoryAccount> account, std::string client)
      : account_(std::move(account)), client_(std::move(client)) {}
  std::shared_ptr<MemoryAccount> account_;
  std::string client_;
  int64_t bytes_ = 0;
};

inline Status MemoryAccount::take(int64_t bytes, std::string_view what, const std::string& client) {
  if (bytes <= 0) return {};
  const std::lock_guard lock(mutex_);
  int64_t& own = clients_[client];
  const int64_t share = limit_ - limit_ / 4;
  if (limit_ == 0 || (used_ + bytes <= limit_ && own + bytes <= share)) {
    used_ += bytes, own += bytes;
    return {};
  }
  const int64_t has = own;
  if (has == 0) clients_.erase(client);
  if (bytes > share)
    return fail(Code::too_large, what, " would take ", bytes, " bytes of memory; the requests of a client may take ",
                share, ", three quarters of ", flag_);
  return fail(Code::resource_exhausted, what, " would take ", bytes, " bytes of memory; your requests have ", has,
              " of the ", share, " that a client may have, and all together ", used_, " of ", limit_, " (", flag_,
              "); try again later");
}

inline void MemoryAccount::give_back(int64_t bytes, const std::string& client) noexcept {
  const std::lock_guard lock(mutex_);
  used_ -= bytes;
  const auto found = clients_.find(client);
  if (found != clients_.end() && (found->second -= bytes) <= 0) clients_.erase(found);
}

inline Result<MemoryCharge> MemoryAccount::charge(int64_t bytes, std::string_view what, const std::string& client) {
  MemoryCharge charge(shared_from_this(), client);
  WEFT_RETURN_IF_ERROR(charge.add(bytes, what));
  return charge;
}

}  // namespace weft
