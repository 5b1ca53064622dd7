#include "transfer/peer_link.h"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <sstream>

#include "base/hmac.h"

namespace weft {

namespace {

bool same_digest(const Digest& given, const Digest& wanted) {
  const auto text = [](const Digest& d) { return std::string_view(reinterpret_cast<const char*>(d.data()), d.size()); };
  return same_secret(text(given), text(wanted));
}

std::string without_lines(const std::string& identity, std::initializer_list<std::string_view> beginnings) {
  std::istringstream in(identity);
  std::string kept;
  for (std::string line; std::getline(in, line);)
    if (std::ranges::none_of(beginnings, [&](std::string_view b) { return line.starts_with(b); })) kept += line + "\n";
  return kept;
}

bool converts(const std::string& identity) {
  return ("\n" + identity).find("\n" + std::string(kConverts) + "\n") != std::string::npos;
}

}  // namespace

PeerLink::PeerLink(std::shared_ptr<Channel> channel, bool accepted, const LinkOptions& options, double now)
    : channel_(std::move(channel)), accepted_(accepted), options_(options), began_(now), heard_(now), pinged_(now) {
  if (!accepted_) return;
  of_accepting_ = options_.nonce();
  channel_->send(encode(HelloMessage{.nonce = of_accepting_}));
}

Digest PeerLink::proof(const char* who, const std::string& identity) const {
  std::string text = std::string("weft transfer, who ") + who + "\n";
  for (const Nonce* nonce : {&of_accepting_, &of_asking_}) text.append(nonce->begin(), nonce->end());
  return hmac_sha256(options_.secret, text + identity);
}

Result<bool> PeerLink::take(const TransferMessage& message, double now) {
  heard_ = now;
  if (const auto* refused = std::get_if<RefusedMessage>(&message))
    return fail(Code::unavailable, peer(), " refuses: ", refused->why);
  if (state_ != State::ready) return greet(message);
  if (std::holds_alternative<PingMessage>(message)) {
    channel_->send(encode(PongMessage{}));
    return false;
  }
  if (std::holds_alternative<PongMessage>(message)) return false;
  if (message.index() < TransferMessage(ComputeMessage{}).index())
    return fail(Code::invalid_argument, peer(), " greets twice");
  return true;
}

Result<bool> PeerLink::greet(const TransferMessage& message) {
  if (accepted_) {
    const auto* answer = std::get_if<AnswerMessage>(&message);
    if (!answer) return fail(Code::invalid_argument, peer(), " does not say who it is");
    if (Status known = check_answer(*answer); !known.ok()) {
      channel_->send(encode(RefusedMessage{known.error().message()}));
      return std::move(known).error();
    }
    channel_->send(encode(WelcomeMessage{proof("answers", answer->identity)}));
    begin();
    return false;
  }
  if (state_ == State::greeting) {
    const auto* hello = std::get_if<HelloMessage>(&message);
    if (!hello) return fail(Code::invalid_argument, peer(), " does not greet");
    if (hello->version != kTransferVersion)
      return fail(Code::unavailable, peer(), " speaks version ", hello->version, " of the protocol, this is ",
                  kTransferVersion);
    state_ = State::answered, of_accepting_ = hello->nonce, of_asking_ = options_.nonce();
    channel_->send(encode(
        AnswerMessage{.nonce = of_asking_, .identity = options_.identity, .proof = proof("asks", options_.identity)}));
    return false;
  }
  const auto* welcome = std::get_if<WelcomeMessage>(&message);
  if (!welcome) return fail(Code::invalid_argument, peer(), " does not say that it knows the secret");
  if (!same_digest(welcome->proof, proof("answers", options_.identity)))
    return fail(Code::unavailable, peer(), " does not know the secret of --kv-transfer-secret-file");
  begin();
  return false;
}

// The secret first: nothing is told to those who do not know it.
Status PeerLink::check_answer(const AnswerMessage& answer) {
  if (answer.version != kTransferVersion)
    return fail(Code::unavailable, "version ", answer.version, " of the protocol, this is ", kTransferVersion);
  of_asking_ = answer.nonce;
  if (!same_digest(answer.proof, proof("asks", answer.identity)))
    return fail(Code::unavailable, "the secret of --kv-transfer-secret-file is another one");
  const bool lossy = converts(answer.identity);
  const auto compared = [&](const std::string& identity) {
    return lossy ? without_cache_types(identity) : without_lines(identity, {kConverts});
  };
  const std::string here = compared(options_.identity), there = compared(answer.identity);
  if (here != there) return fail(Code::unavailable, "the servers differ: ", differences(here, there));
  return {};
}

void PeerLink::begin() {
  state_ = State::ready;
  channel_->allow(kLongestMessage);
  for (std::vector<std::byte>& message : waiting_) channel_->send(std::move(message));
  waiting_.clear();
}

void PeerLink::send(std::vector<std::byte> message) {
  if (ready()) channel_->send(std::move(message));
  else waiting_.push_back(std::move(message));
}

Status PeerLink::tick(double now) {
  if (state_ != State::ready) {
    if (now - began_ <= kGreetingSeconds) return {};
    return fail(Code::deadline_exceeded, peer(), " did not greet within ", kGreetingSeconds, " s");
  }
  if (now - heard_ > kSilenceSeconds)
    return fail(Code::deadline_exceeded, peer(), " said nothing for ", kSilenceSeconds, " s");
  // Also while the other side is heard: it sends blocks for a long time, and hears nothing else meanwhile.
  if (!accepted_ && now - pinged_ > kPingSeconds) {
    pinged_ = now;
    channel_->send(encode(PingMessage{}));
  }
  return {};
}

std::string without_cache_types(const std::string& identity) {
  return without_lines(identity, {"cache: ", "draft cache: ", kConverts});
}

std::string differences(const std::string& here, const std::string& there) {
  std::map<std::string, std::pair<std::string, std::string>> lines;
  const auto read = [&](const std::string& text, auto member) {
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) lines[line.substr(0, colon)].*member = line.substr(colon + 2);
    }
  };
  using Both = std::pair<std::string, std::string>;
  read(here, &Both::first), read(there, &Both::second);
  std::string text;
  for (const auto& [name, values] : lines) {
    if (values.first == values.second) continue;
    const auto shown = [](const std::string& value) { return value.empty() ? "none" : value.substr(0, 200); };
    text +=
        (text.empty() ? "" : "; ") + name + ": " + shown(values.first) + " here, " + shown(values.second) + " there";
  }
  return text;
}

}  // namespace weft
