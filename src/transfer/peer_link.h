// One end of a connection between two servers: who is there, and whether it is still there. No threads, no clock, no
// input and output of its own: whoever has the channel hands messages in.
//
//   the side that was connected to          the side that connected
//   hello(nonce a)                      ->
//                                       <-  answer(nonce b, identity, proof = HMAC(secret, "asks", a, b, identity))
//   welcome(proof = HMAC(secret, "answers", a, b, that identity))   ->   or refused(why), and the end
//
// So both know the secret (an empty one where none was set), neither proof is of use in another connection, and both
// have the same identity: program, instruction set, model, options; what differs is named. HMAC-SHA256 is compared in
// constant time. Messages are neither encrypted nor signed behind that: the network between servers is to be trusted,
// or to be made so (docs/serving-at-scale.md).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transfer/channel.h"
#include "transfer/message.h"

namespace weft {

struct LinkOptions {
  std::string identity;  // lines of "name: value"
  std::string secret;
  std::function<Nonce()> nonce;  // fresh random bytes
};

// A line of the identity of a side that takes blocks of another type: the lines "cache" and "draft cache" may differ.
constexpr const char* kConverts = "converts: on";

constexpr double kGreetingSeconds = 5;  // until both know each other
constexpr double kPingSeconds = 1;      // between two pings of the side that asks, which is also how it is heard
constexpr double kSilenceSeconds = 6;   // after which the other side is taken for dead

class PeerLink {
 public:
  // `now`: seconds of any clock that does not go backwards.
  PeerLink(std::shared_ptr<Channel> channel, bool accepted, const LinkOptions& options, double now);

  Channel& channel() { return *channel_; }
  const std::string& peer() const { return channel_->peer(); }
  bool accepted() const { return accepted_; }
  bool ready() const { return state_ == State::ready; }
  // A message from the other side. True if it is for whoever uses the link. An error ends the connection: it is what
  // the other side did wrong, or why it refuses.
  Result<bool> take(const TransferMessage& message, double now);
  // What is sent before the link is ready goes out then.
  void send(std::vector<std::byte> message);
  // To be called now and then. An error (deadline_exceeded): the other side is silent.
  Status tick(double now);

 private:
  enum class State : uint8_t { greeting, answered, ready };  // answered: this side has, and waits for the welcome
  Digest proof(const char* who, const std::string& identity) const;
  Result<bool> greet(const TransferMessage& message);
  Status check_answer(const AnswerMessage& answer);
  void begin();

  const std::shared_ptr<Channel> channel_;
  const bool accepted_;
  const LinkOptions& options_;
  State state_ = State::greeting;
  Nonce of_accepting_{}, of_asking_{};
  double began_ = 0, heard_ = 0, pinged_ = 0;
  std::vector<std::vector<std::byte>> waiting_;
};

// The identity without what servers need not have in common where blocks are converted.
std::string without_cache_types(const std::string& identity);
// "program: weft 1 here, weft 2 there; ...": the lines that differ.
std::string differences(const std::string& here, const std::string& there);

}  // namespace weft
