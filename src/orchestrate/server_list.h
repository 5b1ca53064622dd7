// The servers of a deployment: which there are, which of them can be used, how busy they are, and which one a request
// goes to. Servers may join and leave at any time (set_members); answers that a leaving one has begun go on.
//
// What is known of a server comes from outside, by take_info() and the like: there are no sockets and no clock here.
// All functions may be called by any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/named_enum.h"
#include "base/result.h"
#include "core/option_kinds.h"
#include "orchestrate/cached_blocks.h"
#include "orchestrate/router.h"
#include "orchestrate/server_info.h"
#include "server/http_calls.h"

namespace weft {

struct ServerEntry {
  ServerAddress address;
  // What it is to be used for; absent: what it says itself. A server of role both can be used for either.
  std::optional<ServerRole> role;
  bool operator==(const ServerEntry&) const = default;
};

// starting: not asked yet. differs: it answers, but what it serves is not what the others serve, or is of no use in the
// role that it was given; it gets no requests.
enum class ServerState : uint8_t { starting, up, down, differs };
template <>
inline constexpr auto kNames<ServerState> = names_of_all<ServerState>("starting", "up", "down", "differs");

// What is known of a server at the moment.
struct ServerStatus {
  ServerEntry entry;
  std::string url;
  ServerState state = ServerState::starting;
  std::string reason;  // why it is not up
  std::optional<ServerInfo> info;
  ServerRole role = ServerRole::both;  // in force
  int in_flight = 0;                   // requests of this front
  double load = 0;                     // see Candidate
  uint64_t requests = 0, failures = 0;
  size_t cached_blocks = 0;
  uint64_t lost_events = 0;
};

// What a request wants of a server.
struct RequestNeeds {
  bool generation = true;         // else any server does
  int64_t prompt_tokens = 0;      // about
  std::vector<BlockName> blocks;  // of the prompt; empty: not known
  int tokens_per_block = 0;
  std::set<std::string> avoid;  // URLs of servers that have failed it
};

class ServerList {
 public:
  ServerList(RouterKind generation, RouterKind context) : generation_router_(generation), context_router_(context) {}
  ServerList(const ServerList&) = delete;
  ServerList& operator=(const ServerList&) = delete;

  // From now on these are the servers, each address once (of several entries the first counts). One that was there
  // before keeps what is known of it.
  void set_members(std::vector<ServerEntry> members);
  std::vector<ServerStatus> status() const;
  // Whether a server for generations is up; else an error that says of each why not.
  Status ready() const;

  // ---- What was found out about a server. Addresses that are no members' are ignored.
  // It is asked now. Requests of this front that it has meanwhile are not others' work, whenever it counts them.
  void asking(const std::string& url);
  void take_info(const std::string& url, ServerInfo info);
  void take_failure(const std::string& url, const std::string& why);  // it cannot be used
  // The event to ask the server for next; nothing if its events are of no use.
  std::optional<uint64_t> wanted_event(const std::string& url) const;
  // An answer with events, of the server's `instance`. Returns whether it brought any.
  Result<bool> take_events(const std::string& url, const Json& answer);

  // ---- Choosing.
 private:
  struct Member;

 public:
  // A request's hold on the server that it goes to, and on the one that computes its prompt. Not longer than the list.
  class Ticket {
   public:
    ~Ticket();
    const ServerAddress& address() const;
    const std::string& url() const { return url_; }
    // Transfer addresses of servers that may compute the prompt, the best first.
    const std::vector<std::string>& context_servers() const { return context_servers_; }
    int64_t cached_tokens() const { return cached_tokens_; }  // of the prompt, as far as known
    // The answer has begun, so the prompt has been computed.
    void prompt_done();
    // The server did not answer; with `down` it gets no requests before it has been asked how it is.
    void failed(const std::string& why, bool down);

   private:
    friend class ServerList;
    ServerList* list_ = nullptr;
    std::shared_ptr<Member> server_, context_;  // the latter may be null
    std::string url_;
    std::vector<std::string> context_servers_;
    double answer_work_ = 0, prompt_work_ = 0, context_work_ = 0;
    int64_t cached_tokens_ = 0;
  };
  // Null: no server is up for it.
  std::unique_ptr<Ticket> choose(const RequestNeeds& needs);
  // One that is up, for a question that is no request; nothing if there is none.
  std::optional<ServerAddress> least_loaded() const;
  // Whether the blocks of a prompt make a difference to choose().
  bool wants_blocks() const;
  // Why there is none, with each server's reason.
  std::string why_none(bool generation) const;

 private:
  using Members = std::vector<std::shared_ptr<Member>>;

  std::shared_ptr<Member> find(const std::string& url) const;
  void compare();
  Members usable(const RequestNeeds& needs) const;
  Members context_servers() const;
  static Candidate candidate(const Member& member, const RequestNeeds& needs);
  static size_t pick(RouterKind kind, const Members& members, const RequestNeeds& needs, uint64_t turn);
  void choose_context(const RequestNeeds& needs, Ticket& ticket);

  const RouterKind generation_router_, context_router_;
  mutable std::mutex mutex_;
  Members members_;        // in the order of set_members()
  std::string reference_;  // what servers must serve to be used
  bool settled_ = false;   // all have been asked once
  uint64_t turn_ = 0, context_turn_ = 0;
};

}  // namespace weft
