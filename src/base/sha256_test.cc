#include "base/sha256.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weft {
namespace {

class Sha256Methods : public ::testing::TestWithParam<Sha256::Method> {
 protected:
  // The digest of `message`, given in pieces of `piece` bytes.
  static Digest digest(const std::string& message, size_t piece = std::string::npos) {
    Sha256 hash(GetParam());
    for (size_t at = 0; at < message.size(); at += std::min(piece, message.size() - at))
      hash.update(message.data() + at, std::min(piece, message.size() - at));
    return hash.digest();
  }
};

// The examples of FIPS 180-2 (appendix B) and NIST's additional vectors for SHA-256.
TEST_P(Sha256Methods, PublishedValues) {
  const std::pair<std::string, const char*> vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrs"
       "tu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
      {"\xbd", "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"},
      {"\xc9\x8c\x8e\x55", "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504"},
      {std::string(55, '\0'), "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7"},
      {std::string(56, '\0'), "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb"},
      {std::string(57, '\0'), "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785"},
      {std::string(64, '\0'), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"},
      {std::string(1000, '\0'), "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53"},
      {std::string(1000, 'A'), "c2e686823489ced2017f6059b8b239318b6364f6dcd835d0a519105a1eadd6e4"},
      {std::string(1005, 'U'), "f4d62ddec0f3dd90ea1380fa16a5ff8dc4c54b21740650f24afc4120903552b0"}};
  for (const auto& [message, want] : vectors) {
    EXPECT_EQ(hex_of(digest(message)), want) << message.size() << " bytes";
    if (message.size() > 10000) continue;
    for (const size_t piece : {1, 7, 63, 64, 65, 200})
      EXPECT_EQ(hex_of(digest(message, piece)), want) << message.size() << " bytes by " << piece;
  }
}

// The digest of the digests of the messages of 0 ... 299 bytes (i * 7 + length), by Python's hashlib.
TEST_P(Sha256Methods, EveryLength) {
  Sha256 all(GetParam());
  for (size_t length = 0; length < 300; ++length) {
    std::string message;
    for (size_t i = 0; i < length; ++i) message += static_cast<char>(i * 7 + length);
    const Digest one = digest(message);
    all.update(one.data(), one.size());
  }
  EXPECT_EQ(hex_of(all.digest()), "d5238871a46ac4a1a75ac3fb19d645b0b3b9e5f35f5f720e2b240d605c6b694e");
}

INSTANTIATE_TEST_SUITE_P(, Sha256Methods, ::testing::Values(Sha256::Method::fastest, Sha256::Method::portable));

}  // namespace
}  // namespace weft
