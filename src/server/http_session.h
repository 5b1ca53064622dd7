// One connection of the HTTP server, and what all connections share. Over Boost.Asio, for http_server.cc.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <chrono>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "server/handler_pool.h"
#include "server/http.h"
#include "server/http_answer.h"
#include "server/http_limits.h"
#include "server/http_parse.h"

namespace weft {

class HttpSession;

// What the sessions of a server share, and outlives them. Answers may outlive it.
struct HttpWorld {
  HttpWorld(HttpLimits limits, HttpHandlers handlers);
  // On a thread for answers. False: the server has ended, and nothing is run any more.
  bool answer(std::function<void()> work);
  // On the server's thread, unless the server has ended.
  void post(std::function<void()> work);
  void close();  // from now on nothing is run
  // On a thread of a pool: runs the handler, whatever it throws.
  void run_handler(const std::shared_ptr<HttpAnswer>& answer) const noexcept;

  const HttpLimits limits;
  const HttpHandlers handlers;
  // On the server's thread:
  size_t body_bytes = 0;                              // of all requests being read or answered
  std::unordered_map<std::string, size_t> bodies_of;  // the same of each client that has any
  bool draining = false;
  bool accepting = false;
  std::list<HttpSession*> idle;  // those that wait for a request, the longest idle first
  bool freed_much = false;       // memory of a large request since the last time that memory was given back
  std::atomic<int64_t> timeouts{0}, overdue{0};  // requests that came too slowly; handlers that had their time
  boost::asio::io_context io{1};                 // its thread is the server's
  HandlerPool pool, watch;                       // of HttpPlace
  boost::asio::thread_pool answerers;

 private:
  std::mutex closing_;
  bool closed_ = false;
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(boost::asio::ip::tcp::socket socket, std::string peer, const std::shared_ptr<HttpWorld>& world);

  // Serves the connection to its end.
  boost::asio::awaitable<void> run();
  // The server drains: an idle connection ends now, a busy one after its response.
  void begin_drain();
  // The time for draining is over: ends what is still running.
  void end_drain();
  // Ends an idle session unless a request has just come. It is not of the idle ones any more, if so.
  bool evict();
  bool evicted() const { return evicted_; }
  const std::string& peer() const { return peer_; }

 private:
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;
  using Error = boost::system::error_code;
  class Idle;
  class BodyAccount;
  class Answering;

  Awaitable<bool> next_request();
  Awaitable<bool> wait_for_request();
  std::chrono::milliseconds body_time(size_t bytes) const;
  Awaitable<bool> read_body(HttpParser& parser, BodyAccount& account);
  Awaitable<bool> answer(HttpAnswer::Form form, HttpRequest request, std::optional<HttpResponse> refusal);
  std::shared_ptr<HttpAnswer> make_answer(HttpAnswer::Form form);
  HandlerPool* hand_over(const std::shared_ptr<HttpAnswer>& answer);
  Awaitable<bool> send_answer(const std::shared_ptr<HttpAnswer>& answer, HandlerPool* pool, bool probed);
  Awaitable<bool> write(const std::string& bytes);
  void check_time(HttpAnswer& answer, HandlerPool* pool, std::chrono::steady_clock::time_point begin);
  bool look_at_client(HttpAnswer& answer, bool& probed);
  Awaitable<bool> refuse(HttpResponse response);
  Awaitable<bool> refuse(int status, const std::string& message);
  Awaitable<bool> refuse(const Error& error, const HttpParser& parser, const char* late);
  Awaitable<void> linger();
  void begin_deadline(std::chrono::milliseconds time);
  void end_deadline();

  HttpWorld& world_;
  const std::weak_ptr<HttpWorld> weak_world_;
  const std::string peer_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_, deadline_;
  unsigned deadline_round_ = 0;
  bool late_ = false;                   // the deadline is over, and reading has been cancelled
  std::shared_ptr<HttpAnswer> answer_;  // while one is being made
  bool idle_ = false;                   // waits for a request
  bool begun_ = false;                  // something of an answer to the request has been sent
  bool ended_idle_ = false, refused_ = false, evicted_ = false;
};

}  // namespace weft
