// Calls against a gateway of this process, and against etcd itself where it is installed.
#include "server/etcd_client.h"

#include <gtest/gtest.h>

#include "server/base64.h"
#include "server/fake_etcd.h"

namespace weft {
namespace {

using testing::FakeEtcd;
using testing::RealEtcd;

TEST(Base64, WordsOfTheStandard) {
  // RFC 4648, section 10.
  for (const auto& [bytes, text] : std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                                                    {"f", "Zg=="},
                                                                                    {"fo", "Zm8="},
                                                                                    {"foo", "Zm9v"},
                                                                                    {"foob", "Zm9vYg=="},
                                                                                    {"fooba", "Zm9vYmE="},
                                                                                    {"foobar", "Zm9vYmFy"},
                                                                                    {"\xff\xfe\x3f", "//4/"},
                                                                                    {std::string(1, '\0'), "AA=="}}) {
    EXPECT_EQ(encode_base64(bytes), text);
    const auto back = decode_base64(text);
    ASSERT_TRUE(back.ok()) << text;
    EXPECT_EQ(*back, bytes);
  }
  for (const char* text : {"Z", "Zg", "Zg=", "Z===", "Zm9v=", "Zm 9", "=Zg=", "Zm9-"})
    EXPECT_FALSE(decode_base64(text).ok()) << text;
}

Code code_of(const Status& status) { return status.ok() ? Code{} : status.error().code(); }
template <class T>
std::string message_of(const Result<T>& result) {
  return result.ok() ? "" : result.error().message();
}

// What this program relies on, of either.
void check_calls(EtcdClient& etcd) {
  const auto lease = etcd.grant(30);
  ASSERT_TRUE(lease.ok()) << lease.error().message();
  EXPECT_GT(*lease, 0);
  ASSERT_TRUE(etcd.put("/p/b", "two", *lease).ok());
  ASSERT_TRUE(etcd.put("/p/a", std::string("o\0ne\xff", 5)).ok());
  ASSERT_TRUE(etcd.put("/q/a", "other").ok());
  auto found = etcd.list("/p/");
  ASSERT_TRUE(found.ok()) << found.error().message();
  ASSERT_EQ(found->entries.size(), 2u);
  EXPECT_EQ(found->entries[0].key + "=" + found->entries[0].value, std::string("/p/a=o\0ne\xff", 10));
  EXPECT_EQ(found->entries[1].key + "=" + found->entries[1].value, "/p/b=two");
  EXPECT_GT(found->revision, 1);
  EXPECT_TRUE(etcd.keep_alive(*lease).ok());
  EXPECT_TRUE(etcd.revoke(*lease).ok());
  EXPECT_EQ(etcd.list("/p/")->entries.size(), 1u);
  EXPECT_TRUE(etcd.remove("/p/a").ok());
  const auto empty = etcd.list("/p/");
  EXPECT_TRUE(empty->entries.empty());
  EXPECT_GT(empty->revision, found->revision);
  // The lease is gone for all three.
  EXPECT_EQ(code_of(etcd.keep_alive(*lease)), Code::not_found);
  EXPECT_EQ(code_of(etcd.revoke(*lease)), Code::not_found);
  EXPECT_EQ(code_of(etcd.put("/p/c", "three", *lease)), Code::not_found);
}

TEST(EtcdClient, CallsOfTheGateway) {
  FakeEtcd fake;
  EtcdClient etcd(fake.address());
  check_calls(etcd);
}

TEST(EtcdClient, CallsOfEtcdItself) {
  if (!RealEtcd::available()) GTEST_SKIP() << "etcd is not installed (Debian and Ubuntu: etcd-server)";
  RealEtcd real;
  EtcdClient etcd(real.address());
  check_calls(etcd);
}

TEST(EtcdClient, FailuresNameTheAddress) {
  FakeEtcd fake;
  EtcdClient etcd(fake.address());
  const std::string address = "etcd at " + fake.address().text();
  fake.fault = FakeEtcd::Fault::error;
  EXPECT_EQ(message_of(etcd.grant(10)), address + "/v3/lease/grant: etcdserver: no leader");
  fake.fault = FakeEtcd::Fault::not_etcd;
  EXPECT_EQ(message_of(etcd.list("/x/")), address + "/v3/kv/range is not etcd's v3 API: it answers with status 404");
  fake.fault = FakeEtcd::Fault::no_json;
  EXPECT_EQ(message_of(etcd.put("/x", "")), address + "/v3/kv/put is not etcd's v3 API: its answer is no JSON object");
  fake.fault = FakeEtcd::Fault::silent;
  const auto begin = std::chrono::steady_clock::now();
  const auto late = etcd.list("/x/");
  EXPECT_EQ(code_of(late.ok() ? Status() : Status(late.error())), Code::unavailable);
  const auto waited = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(waited, EtcdClient::kPatience - std::chrono::milliseconds(100));
  EXPECT_LT(waited, EtcdClient::kPatience + std::chrono::seconds(2));
  EtcdClient nobody({"127.0.0.1", 1, ""});
  EXPECT_EQ(message_of(nobody.grant(10)), "etcd at http://127.0.0.1:1 cannot be reached: Connection refused");
}

}  // namespace
}  // namespace weft
