#include <gtest/gtest.h>

#include "base/json.h"
#include "server/cluster.h"

namespace weft {
namespace {

TEST(ClusterUrl, Parts) {
  const auto read = parse_cluster_url("etcd://etcd.example:4001/prod-1.a_B");
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->etcd.text(), "http://etcd.example:4001");
  EXPECT_EQ(read->name, "prod-1.a_B");
  EXPECT_EQ(read->prefix(), "/weft/prod-1.a_B/servers/");
  EXPECT_EQ(parse_cluster_url("etcd://h/n")->etcd.port, 2379);
  EXPECT_EQ(parse_cluster_url("etcd://[::1]/n")->etcd.text(), "http://[::1]:2379");
  EXPECT_EQ(parse_cluster_url("etcd://[::1]:5/n")->etcd.port, 5);
}

TEST(ClusterUrl, Faults) {
  for (const auto& [url, why] :
       std::vector<std::pair<std::string, std::string>>{{"", "does not begin with etcd://"},
                                                        {"http://h:2379/n", "does not begin with etcd://"},
                                                        {"etcd://h:2379", "has no name"},
                                                        {"etcd://h:2379/", "has no name"},
                                                        {"etcd:///n", "has a wrong host or port"},
                                                        {"etcd://h:0/n", "has a wrong host or port"},
                                                        {"etcd://h:x/n", "has a wrong host or port"},
                                                        {"etcd://u@h/n", "has a wrong host or port"},
                                                        {"etcd://h/a/b", "other characters"},
                                                        {"etcd://h/a b", "other characters"},
                                                        {"etcd://h1,h2/n%20", "other characters"}}) {
    const auto read = parse_cluster_url(url);
    ASSERT_FALSE(read.ok()) << url;
    EXPECT_NE(read.error().message().find(why), std::string::npos) << read.error().message();
    EXPECT_NE(read.error().message().find("etcd://HOST:2379/NAME"), std::string::npos);
  }
}

TEST(ClusterEntry, WrittenAndRead) {
  const auto entry = cluster_entry("http://10.0.0.7:8000/", ServerRole::generation);
  ASSERT_TRUE(entry.ok());
  EXPECT_EQ(*entry, (ClusterEntry{"10.0.0.7:8000", "http://10.0.0.7:8000", ServerRole::generation}));
  EXPECT_EQ(entry_json(*entry), R"({"id":"10.0.0.7:8000","url":"http://10.0.0.7:8000","role":"generation"})");
  EXPECT_EQ(parse_entry("10.0.0.7:8000", entry_json(*entry)).value(), *entry);
  EXPECT_EQ(parse_entry("a", R"({"id":"a","url":"http://h","role":"both","zone":7})")->url, "http://h:80");
  EXPECT_FALSE(cluster_entry("https://h", ServerRole::both).ok());
}

TEST(ClusterEntry, FaultsOfValues) {
  for (const auto& [value, why] : std::vector<std::pair<std::string, std::string>>{
           {"", "it is no JSON object"},
           {"[]", "it is no JSON object"},
           {R"({"id":"a","url":"http://h"})", "role is no text"},
           {R"({"id":"a","url":7,"role":"both"})", "url is no text"},
           {R"({"id":"b","url":"http://h","role":"both"})", "id is b, unlike the key"},
           {R"({"id":"a","url":"http://h","role":"cook"})", "role cook is unknown"},
           {R"({"id":"a","url":"ftp://h","role":"both"})", "does not begin with http://"}}) {
    const auto read = parse_entry("a", value);
    ASSERT_FALSE(read.ok()) << value;
    EXPECT_NE(read.error().message().find(why), std::string::npos) << read.error().message();
  }
}

}  // namespace
}  // namespace weft
