// Image URLs: base64 (vectors of RFC 4648), what is refused and how it is called, and fetching from a server on the
// loopback interface.
#include "media/url.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

namespace weft {
namespace {

std::string data_of(std::string_view base64) {
  const Result<std::string> got = decode_data_url("data:image/png;base64," + std::string(base64), 1 << 20);
  return got.ok() ? *got : "error: " + got.error().message();
}

std::string refusal(std::string_view url, const UrlOptions& options = {}) {
  const Result<std::string> got = read_image_url(url, options);
  if (got.ok()) return "accepted";
  EXPECT_EQ(got.error().code(), Code::invalid_argument);
  return got.error().message();
}

TEST(DataUrl, Base64) {
  EXPECT_EQ(data_of("Zg=="), "f");
  EXPECT_EQ(data_of("Zm8="), "fo");
  EXPECT_EQ(data_of("Zm9vYmE="), "fooba");
  EXPECT_EQ(data_of("Zm9vYmFy"), "foobar");
  EXPECT_EQ(data_of("Zm9vYmE"), "fooba");        // no padding
  EXPECT_EQ(data_of("Zm9v\r\nYmFy"), "foobar");  // line breaks
  EXPECT_EQ(data_of("-_-_"), data_of("+/+/"));   // the URL alphabet
  EXPECT_EQ(decode_data_url("DATA:;BASE64,Zm8=", 9).value(), "fo");
  EXPECT_EQ(data_of(""), "error: the data: URL holds no data");
  EXPECT_EQ(data_of(" "), "error: the data: URL holds no data");
  EXPECT_EQ(data_of("!!!!"), "error: the data: URL is not base64 at character 1 of its data");
  EXPECT_EQ(data_of("AAAA=AAA"), "error: the data: URL is not base64 at character 6 of its data");
  EXPECT_EQ(data_of("Zm9vY"), "error: the data: URL's base64 data breaks off");
  EXPECT_EQ(data_of("Zg="), "error: the data: URL's base64 data breaks off");
  EXPECT_EQ(data_of("Zm9v===="), "error: the data: URL's base64 data breaks off");
  EXPECT_EQ(refusal("data:image/png;base64Zm9v"), "the data: URL has no comma before its data");
  EXPECT_EQ(refusal("data:,Zm9v"), "the data: URL is not base64 (data:image/png;base64,...)");
  EXPECT_EQ(decode_data_url("data:;base64,Zm9v", 3).value(), "foo");
  EXPECT_FALSE(decode_data_url("data:;base64,Zm9vYg==", 3).ok());
}

TEST(ImageUrl, OffByDefault) {
  for (const char* url : {"http://example.org/a.png", "https://example.org/a.png", "HTTP://8.8.8.8/",
                          "http://[::1]:9/x.png", "http://a.example/x%0d%0aX:%20y"}) {
    EXPECT_NE(refusal(url).find("no host is allowed on this server"), std::string::npos) << refusal(url);
  }
  EXPECT_NE(refusal("file:///etc/passwd").find("file: URLs are not read"), std::string::npos);
  EXPECT_NE(refusal("File://localhost/etc/passwd").find("file: URLs are not read"), std::string::npos);
  EXPECT_NE(refusal("ftp://x.example/a.png").find("ftp: URLs are not read"), std::string::npos);
  EXPECT_NE(refusal("gopher://127.0.0.1:9/_x").find("gopher: URLs are not read"), std::string::npos);
  EXPECT_NE(refusal("/etc/passwd").find("not a path"), std::string::npos);
  EXPECT_NE(refusal("../../etc/passwd").find("not a path"), std::string::npos);
  EXPECT_EQ(refusal(""), "the image's URL is empty");
  EXPECT_EQ(refusal("http://"), "the URL has no host");
}

TEST(HttpUrl, OneStrictParser) {
  const HttpUrl url = parse_http_url("HTTPS://Example.ORG:8443/a/b?c=d#e").value();
  EXPECT_TRUE(url.secure);
  EXPECT_EQ(url.host, "example.org");
  EXPECT_EQ(url.port, 8443);
  EXPECT_EQ(url.target, "/a/b?c=d");
  EXPECT_EQ(url.text(), "https://example.org:8443/a/b?c=d");
  EXPECT_EQ(parse_http_url("http://example.org?x").value().text(), "http://example.org/?x");
  EXPECT_EQ(parse_http_url("http://[2606:4700::1111]/").value().host, "2606:4700::1111");
  for (const char* bad : {"http://allowed.example\\@127.0.0.1:9/x",
                          "http://allowed.example@127.0.0.1:9/x",
                          "http://a.example/x\r\nHost: b",
                          "http:///x",
                          "http:x",
                          "http://a..b/",
                          "http://a./",
                          "http://.a/",
                          "http://a b/",
                          "http://a_b/",
                          "http://\xC3\xA4.example/",
                          "http://a:0/",
                          "http://a:65536/",
                          "http://a:/",
                          "http://a:+80/",
                          "http://a:80x/",
                          "http://2130706433:9/x",
                          "http://0x7f.1:9/x",
                          "http://127.1/",
                          "http://0177.0.0.1/",
                          "http://127.0.0.01/",
                          "http://1.2.3.4.5/",
                          "http://256.1.1.1/",
                          "http://0x7f000001/",
                          "http://[::1/",
                          "http://[::1]x/",
                          "http://[fe80::1%25eth0]/",
                          "http://[1.2.3.4]/",
                          "http://[]/",
                          "http://a<b/"}) {
    EXPECT_FALSE(parse_http_url(bad).ok()) << bad;
  }
  EXPECT_FALSE(parse_http_url("http://a.example/" + std::string(10'000, 'a')).ok());
}

TEST(HttpUrl, Redirects) {
  const HttpUrl from = parse_http_url("https://a.example/x/y?q").value();
  EXPECT_EQ(follow(from, "/z").value().text(), "https://a.example/z");
  EXPECT_EQ(follow(from, "z?w#f").value().text(), "https://a.example/x/z?w");
  EXPECT_EQ(follow(from, "?w").value().text(), "https://a.example/x/y?w");
  EXPECT_EQ(follow(from, "//b.example/z").value().text(), "https://b.example/z");
  EXPECT_EQ(follow(from, "https://b.example:444/z").value().text(), "https://b.example:444/z");
  for (const char* bad : {"", "http://a.example/", "file:///etc/passwd", "//a@b/", "z\\w", "data:;base64,AAAA"})
    EXPECT_FALSE(follow(from, bad).ok()) << bad;
}

TEST(HttpUrl, AllowedHosts) {
  const auto allowed = [](const char* entry, const char* url) {
    return is_allowed(parse_http_url(url).value(), {.allowed_hosts = {entry}});
  };
  EXPECT_TRUE(allowed("a.example", "http://A.example/"));
  EXPECT_TRUE(allowed("a.example", "https://a.example/"));
  EXPECT_FALSE(allowed("a.example", "http://b.a.example/"));
  EXPECT_FALSE(allowed("a.example", "http://xa.example/"));
  EXPECT_FALSE(allowed("a.example", "http://a.example:8080/"));
  EXPECT_TRUE(allowed("a.example:8080", "http://a.example:8080/"));
  EXPECT_FALSE(allowed("a.example:8080", "http://a.example/"));
  EXPECT_TRUE(allowed("*.a.example", "http://b.a.example/"));
  EXPECT_FALSE(allowed("*.a.example", "http://a.example/"));
  EXPECT_FALSE(allowed("*.a.example", "http://ba.example/"));
  EXPECT_TRUE(allowed("*", "http://anything.example/"));
  EXPECT_FALSE(allowed("*", "http://anything.example:22/"));
  EXPECT_TRUE(allowed("[::1]:9", "http://[::1]:9/"));
  EXPECT_TRUE(allowed("::1", "http://[::1]/"));
}

TEST(Address, OnlyThePublicInternet) {
  for (const char* address :
       {"8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.169.0.0",
        "198.17.0.0", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888"}) {
    EXPECT_TRUE(is_public_address(address)) << address;
  }
  for (const char* address : {"0.0.0.0",
                              "0.1.2.3",
                              "10.0.0.1",
                              "100.64.0.1",
                              "100.127.255.255",
                              "127.0.0.1",
                              "127.255.255.254",
                              "169.254.169.254",
                              "172.16.0.1",
                              "172.31.255.1",
                              "192.0.0.8",
                              "192.0.2.1",
                              "192.88.99.1",
                              "192.168.0.1",
                              "198.18.0.1",
                              "198.19.255.255",
                              "198.51.100.7",
                              "203.0.113.9",
                              "224.0.0.1",
                              "239.1.1.1",
                              "240.0.0.1",
                              "255.255.255.255",
                              "::",
                              "::1",
                              "::ffff:8.8.8.8",
                              "::ffff:127.0.0.1",
                              "::ffff:a9fe:a9fe",
                              "64:ff9b::a00:1",
                              "fe80::1",
                              "fc00::1",
                              "fd12::1",
                              "ff02::1",
                              "2001:db8::1",
                              "2002:7f00:1::",
                              "2001::1",
                              "3fff::1",
                              "fec0::1",
                              "x",
                              "",
                              "1.2.3",
                              "127.0.0.1:80"}) {
    EXPECT_FALSE(is_public_address(address)) << address;
  }
}

// Answers each connection on 127.0.0.1 by what `answer` makes of the request's target.
class Server {
 public:
  explicit Server(std::function<std::string(const std::string&)> answer) : answer_(std::move(answer)) {
    socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(socket_, 8), 0);
    EXPECT_EQ(::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    ::shutdown(socket_, SHUT_RDWR);
    ::close(socket_);
    thread_.join();
  }
  std::string url(const std::string& target) const { return "http://127.0.0.1:" + std::to_string(port_) + target; }
  UrlOptions options() const {
    return {.allowed_hosts = {"127.0.0.1:" + std::to_string(port_)}, .timeout_ms = 1000, .private_addresses = true};
  }
  int port() const { return port_; }
  int connections() const { return connections_; }

 private:
  void serve() {
    while (true) {
      const int peer = ::accept(socket_, nullptr, nullptr);
      if (peer < 0) return;
      ++connections_;
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == request.npos) {
        const ssize_t got = ::recv(peer, buffer, sizeof buffer, 0);
        if (got <= 0) break;
        request.append(buffer, static_cast<size_t>(got));
      }
      const size_t first = request.find(' ') + 1;
      const std::string answer = answer_(request.substr(first, request.find(' ', first) - first));
      if (!answer.empty()) (void)::send(peer, answer.data(), answer.size(), MSG_NOSIGNAL);
      ::close(peer);
    }
  }

  std::function<std::string(const std::string&)> answer_;
  std::atomic<int> connections_ = 0;
  int socket_ = -1, port_ = 0;
  std::thread thread_;
};

std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body;
}
std::string moved(const std::string& to) {
  return "HTTP/1.1 302 Found\r\nLocation: " + to + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
}

TEST(Fetch, WhatAServerMayAnswer) {
  const Server server([](const std::string& target) -> std::string {
    if (target == "/image?x=1") return ok("bytes");
    if (target == "/moved") return moved("image?x=1");
    if (target == "/loop") return moved("/loop");
    if (target == "/away") return moved("http://elsewhere.example/image");
    if (target == "/inside") return moved("http://localhost:9/image");
    if (target == "/file") return moved("file:///etc/passwd");
    if (target == "/large") return ok(std::string(5000, 'x'));
    if (target == "/endless") return "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + std::string(5000, 'x');
    if (target == "/short") return "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nx";
    if (target == "/slow") std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    if (target == "/none") return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    return "";
  });
  UrlOptions options = server.options();
  options.max_bytes = 4000;
  EXPECT_EQ(read_image_url(server.url("/image?x=1"), options).value(), "bytes");
  EXPECT_EQ(read_image_url(server.url("/moved"), options).value(), "bytes");
  const auto says = [&](const std::string& target, const std::string& what) {
    const std::string message = refusal(server.url(target), options);
    EXPECT_NE(message.find(what), std::string::npos) << target << ": " << message;
  };
  says("/loop", "more than 3 redirects");
  says("/away", "not fetched from elsewhere.example:80");
  says("/inside", "not fetched from localhost:9");
  says("/file", "neither http nor https");
  says("/large", "more than 4000 bytes");
  says("/endless", "more than 4000 bytes");
  says("/short", "could not be fetched");
  says("/none", "answered 404");
  says("/slow", "could not be fetched");
}

TEST(Fetch, PrivateAddressesAreNeverConnectedTo) {
  const Server server([](const std::string&) { return ok("secret"); });
  UrlOptions options = server.options();
  options.private_addresses = false;
  EXPECT_NE(refusal(server.url("/"), options).find("the address is not public"), std::string::npos);
  // A name that leads to loopback is stopped after it is resolved.
  const std::string port = std::to_string(server.port());
  options.allowed_hosts = {"*:" + port};
  const std::string message = refusal("http://localhost:" + port + "/", options);
  EXPECT_NE(message.find("is not public"), std::string::npos) << message;
  EXPECT_NE(refusal("http://[::ffff:127.0.0.1]:" + port + "/", options).find("is not public"), std::string::npos);
  EXPECT_EQ(server.connections(), 0);
}

}  // namespace
}  // namespace weft
