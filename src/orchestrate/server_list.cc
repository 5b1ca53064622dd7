// See the header.
#include "orchestrate/server_list.h"

#include <algorithm>

namespace weft {

namespace {

// An answer's tokens are not known beforehand; so many count as work that is ahead.
constexpr double kAnswerTokens = 64;
// Work of a request of others that a server tells of.
constexpr double kForeignTokens = 256;

bool generates(ServerRole role) { return role != ServerRole::context; }

// A shortened digest, for messages.
std::string shown(const std::string& identity) { return identity.substr(0, 12); }

}  // namespace

struct ServerList::Member {
  ServerEntry entry;
  std::string url;
  ServerState state = ServerState::starting;
  std::string reason = "it has not been asked yet";
  std::optional<ServerInfo> info;  // as last told
  bool answers = false;            // it did when it was last asked
  CachedBlocks blocks;
  double work = 0;  // of this front's requests, in tokens
  int in_flight = 0;
  int had = 0;          // requests of this front that it had at some time since it was asked
  int64_t foreign = 0;  // requests of others when it was last asked
  uint64_t requests = 0, failures = 0;

  ServerRole role() const { return entry.role.value_or(info ? info->role : ServerRole::both); }
  double load() const { return work + kForeignTokens * static_cast<double>(foreign); }
  void enter() { ++in_flight, ++had, ++requests; }
  // What has to be the same everywhere.
  std::string served() const { return info->identity + " " + info->model; }
  std::string fault() const;
};

// What makes the server useless in its role; empty: nothing.
std::string ServerList::Member::fault() const {
  if (!entry.role || info->role == ServerRole::both || info->role == *entry.role) return "";
  return std::string("it is listed as a server of role ") + name_of(*entry.role) + ", but was started with --role " +
         name_of(info->role);
}

// ---- members, and what is known of them

void ServerList::set_members(std::vector<ServerEntry> entries) {
  const std::lock_guard lock(mutex_);
  Members members;
  for (ServerEntry& entry : entries) {
    const std::string url = entry.address.text();
    if (std::ranges::any_of(members, [&](const auto& member) { return member->url == url; })) continue;
    std::shared_ptr<Member> member = find(url);
    if (!member) {
      member = std::make_shared<Member>();
      member->url = url;
    }
    member->entry = std::move(entry);
    members.push_back(std::move(member));
  }
  members_ = std::move(members);
  compare();
}

std::shared_ptr<ServerList::Member> ServerList::find(const std::string& url) const {
  const auto found = std::ranges::find_if(members_, [&](const auto& member) { return member->url == url; });
  return found == members_.end() ? nullptr : *found;
}

std::vector<ServerStatus> ServerList::status() const {
  const std::lock_guard lock(mutex_);
  std::vector<ServerStatus> all;
  for (const auto& m : members_)
    all.push_back({m->entry, m->url, m->state, m->state == ServerState::up ? "" : m->reason, m->info, m->role(),
                   m->in_flight, m->load(), m->requests, m->failures, m->blocks.size(), m->blocks.lost()});
  return all;
}

void ServerList::asking(const std::string& url) {
  const std::lock_guard lock(mutex_);
  if (const auto member = find(url)) member->had = member->in_flight;
}

void ServerList::take_info(const std::string& url, ServerInfo info) {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Member> member = find(url);
  if (!member) return;
  if (member->info && member->info->instance != info.instance) member->blocks.restart();
  member->foreign = std::max<int64_t>(0, info.running + info.waiting - member->had);
  info.transfer = reachable_address(info.transfer, member->entry.address.host);
  member->info = std::move(info);
  member->answers = true;
  compare();
}

void ServerList::take_failure(const std::string& url, const std::string& why) {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Member> member = find(url);
  if (!member) return;
  member->answers = false, member->state = ServerState::down, member->reason = why;
  compare();
}

// With the mutex. Those servers are used that serve what most of them serve; at a tie what was served so far, or, until
// all have been asked once, what the first of the list serves. One that is down counts with what it served last: when
// all good ones are down, another kind must not take their place.
void ServerList::compare() {
  const auto votes = [](const Member& member) { return member.info && member.fault().empty(); };
  std::map<std::string, int> counts;
  for (const auto& member : members_)
    if (votes(*member)) ++counts[member->served()];
  int most = settled_ && counts.contains(reference_) ? counts[reference_] : 0;
  for (const auto& member : members_)
    if (votes(*member) && counts[member->served()] > most)
      most = counts[member->served()], reference_ = member->served();
  const auto example =
      std::ranges::find_if(members_, [&](const auto& m) { return votes(*m) && m->served() == reference_; });
  settled_ |=
      std::ranges::none_of(members_, [](const auto& m) { return m->state == ServerState::starting && !m->answers; });
  for (const auto& member : members_) {
    if (!member->answers) continue;
    member->state = ServerState::up, member->reason.clear();
    if (std::string fault = member->fault(); !fault.empty())
      member->state = ServerState::differs, member->reason = std::move(fault);
    if (member->state != ServerState::up || member->served() == reference_) continue;
    const ServerInfo &own = *member->info, &other = *(*example)->info;
    member->state = ServerState::differs;
    member->reason =
        own.model != other.model ? "it serves " + own.model : "it computes with identity " + shown(own.identity);
    member->reason += own.model != other.model ? ", " + (*example)->url + " serves " + other.model
                                               : ", " + (*example)->url + " with " + shown(other.identity);
  }
}

std::optional<uint64_t> ServerList::wanted_event(const std::string& url) const {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Member> member = find(url);
  if (!member || member->state != ServerState::up || member->info->kv_cache_events == 0) return std::nullopt;
  const RouterKind kind = member->role() == ServerRole::context ? context_router_ : generation_router_;
  if (kind != RouterKind::kv_cache_aware) return std::nullopt;
  return member->blocks.event();
}

Result<bool> ServerList::take_events(const std::string& url, const Json& answer) {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Member> member = find(url);
  if (!member || !member->info) return false;
  const Json* instance = answer.find("instance");
  if (!instance || !instance->is_string() || instance->as_string() != member->info->instance) {
    member->blocks.restart();  // it has started anew, and its next /server_info says so
    return false;
  }
  const uint64_t before = member->blocks.event();
  WEFT_RETURN_IF_ERROR(member->blocks.apply(answer));
  return member->blocks.event() != before;
}

// ---- choosing

Status ServerList::ready() const {
  {
    const std::lock_guard lock(mutex_);
    if (!usable({}).empty()) return {};
  }
  return fail(Code::unavailable, why_none(true));
}

ServerList::Members ServerList::usable(const RequestNeeds& needs) const {
  Members found;
  for (const auto& member : members_)
    if (member->state == ServerState::up && (!needs.generation || generates(member->role())) &&
        !needs.avoid.contains(member->url))
      found.push_back(member);
  return found;
}

ServerList::Members ServerList::context_servers() const {
  Members found;
  for (const auto& member : members_)
    if (member->state == ServerState::up && member->role() == ServerRole::context && !member->info->transfer.empty())
      found.push_back(member);
  return found;
}

Candidate ServerList::candidate(const Member& member, const RequestNeeds& needs) {
  const int64_t cached = member.blocks.leading(needs.blocks) * needs.tokens_per_block;
  return {member.load(), cached};
}

size_t ServerList::pick(RouterKind kind, const Members& members, const RequestNeeds& needs, uint64_t turn) {
  std::vector<Candidate> candidates;
  for (const auto& member : members) candidates.push_back(candidate(*member, needs));
  return choose_server(kind, candidates, turn);
}

bool ServerList::wants_blocks() const {
  const std::lock_guard lock(mutex_);
  return (generation_router_ == RouterKind::kv_cache_aware && usable({}).size() > 1) ||
         (context_router_ == RouterKind::kv_cache_aware && context_servers().size() > 1);
}

std::optional<ServerAddress> ServerList::least_loaded() const {
  const std::lock_guard lock(mutex_);
  const Members servers = usable({.generation = false});
  if (servers.empty()) return std::nullopt;
  return servers[pick(RouterKind::load_balancing, servers, {}, turn_)]->entry.address;
}

std::unique_ptr<ServerList::Ticket> ServerList::choose(const RequestNeeds& needs) {
  const std::lock_guard lock(mutex_);
  const Members servers = usable(needs);
  if (servers.empty()) return nullptr;
  const RouterKind kind = needs.generation ? generation_router_ : RouterKind::load_balancing;
  auto ticket = std::make_unique<Ticket>();
  ticket->list_ = this;
  ticket->server_ = servers[pick(kind, servers, needs, turn_)];
  if (needs.avoid.empty()) ++turn_;  // another try takes nobody's turn
  ticket->url_ = ticket->server_->url;
  ticket->cached_tokens_ = candidate(*ticket->server_, needs).cached_tokens;
  ticket->answer_work_ = kAnswerTokens;
  const int64_t missing = std::max<int64_t>(0, needs.prompt_tokens - ticket->cached_tokens_);
  if (needs.generation) choose_context(needs, *ticket);
  if (!ticket->context_) ticket->prompt_work_ = static_cast<double>(missing);
  ticket->server_->enter();
  ticket->server_->work += ticket->answer_work_ + ticket->prompt_work_;
  return ticket;
}

// With the mutex: the one that computes the prompt, and another for the case that it cannot.
void ServerList::choose_context(const RequestNeeds& needs, Ticket& ticket) {
  Members servers = context_servers();
  if (servers.empty()) return;
  const uint64_t turn = context_turn_++;
  const size_t first = pick(context_router_, servers, needs, turn);
  ticket.context_ = servers[first];
  ticket.context_servers_.push_back(ticket.context_->info->transfer);
  const int64_t cached = candidate(*ticket.context_, needs).cached_tokens;
  ticket.context_work_ = static_cast<double>(std::max<int64_t>(0, needs.prompt_tokens - cached));
  ticket.context_->work += ticket.context_work_;
  ticket.context_->enter();
  servers.erase(servers.begin() + static_cast<ptrdiff_t>(first));
  if (!servers.empty())
    ticket.context_servers_.push_back(servers[pick(context_router_, servers, needs, turn)]->info->transfer);
}

std::string ServerList::why_none(bool generation) const {
  const std::lock_guard lock(mutex_);
  std::string text = generation ? "no server for generations is up" : "no server is up";
  const char* separator = ": ";
  for (const auto& member : members_) {
    if (generation && !generates(member->role())) continue;
    text += separator + member->url + ": " + name_of(member->state);
    if (member->state != ServerState::up) text += " (" + member->reason + ")";
    separator = ", ";
  }
  return text;
}

// ---- tickets

const ServerAddress& ServerList::Ticket::address() const { return server_->entry.address; }

void ServerList::Ticket::prompt_done() {
  const std::lock_guard lock(list_->mutex_);
  server_->work -= std::exchange(prompt_work_, 0);
  if (!context_) return;
  context_->work -= std::exchange(context_work_, 0);
  --context_->in_flight;
  context_.reset();
}

void ServerList::Ticket::failed(const std::string& why, bool down) {
  {
    const std::lock_guard lock(list_->mutex_);
    ++server_->failures;
  }
  if (down) list_->take_failure(url_, why);
}

ServerList::Ticket::~Ticket() {
  if (!list_) return;
  prompt_done();
  const std::lock_guard lock(list_->mutex_);
  server_->work -= answer_work_;
  --server_->in_flight;
}

}  // namespace weft
