#include "comm/process_ranks.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>

#include "base/check.h"
#include "base/keep_going.h"
#include "comm/process_communicator.h"

namespace weft {
namespace {

constexpr int kSomeNumber = 0;

// How many processes the launcher has started with this one, as its environment says; 1: there is no launcher. PMIx by
// itself gives no number, but Slurm does beside it; kSomeNumber where nothing does.
int launched_processes() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const char* text = std::getenv(name)) return std::atoi(text);
  if (!std::getenv("PMIX_RANK") && !std::getenv("PMI_RANK")) return 1;
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return tasks ? std::atoi(tasks) : kSomeNumber;
}

// The same under WEFT_RANKS.
Result<int> processes_to_join() {
  const char* wanted = std::getenv("WEFT_RANKS");
  if (!wanted || !*wanted) return launched_processes();
  const std::string_view value = wanted;
  if (value == "off") return 1;
  if (value == "mpi") return kSomeNumber;
  return fail(Code::invalid_argument, "WEFT_RANKS is \"", value, "\"; it may be off or mpi");
}

// Texts without zero bytes, each with one behind it.
std::string joined(const ProcessRanks::Facts& facts) {
  std::string text;
  for (const auto& [name, value] : facts) text += name + '\0' + value + '\0';
  return text;
}

ProcessRanks::Facts taken_apart(const std::string& text) {
  ProcessRanks::Facts facts;
  for (size_t at = 0; at < text.size();) {
    const size_t name = text.find('\0', at), value = text.find('\0', name + 1);
    facts.emplace_back(text.substr(at, name - at), text.substr(name + 1, value - name - 1));
    at = value + 1;
  }
  return facts;
}

std::string value_of(const ProcessRanks::Facts& facts, const std::string& name) {
  for (const auto& [other, value] : facts)
    if (other == name) return value;
  return "(absent)";
}

// The first fact that the two disagree on, or empty.
std::string first_difference(const ProcessRanks::Facts& a, const ProcessRanks::Facts& b) {
  for (const auto& [first, second] : {std::pair(&a, &b), std::pair(&b, &a)})
    for (const auto& [name, value] : *first)
      if (value_of(*second, name) != value) return name;
  return "";
}

}  // namespace

int launched_rank() {
  const auto processes = processes_to_join();
  if (!processes.ok() || *processes == 1) return 0;
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"})
    if (const char* text = std::getenv(name)) return std::atoi(text);
  return 0;
}

Result<std::unique_ptr<ProcessRanks>> ProcessRanks::join(const Options& options) {
  WEFT_TRY(const int processes, processes_to_join());
  if (processes == 1) return std::unique_ptr<ProcessRanks>();
  WEFT_TRY(std::unique_ptr<ProcessLink> link, ProcessLink::open());
  if (processes != kSomeNumber && processes != link->size())
    return fail(Code::unsupported, "the launcher started ", processes, " processes, but MPI found ", link->size(),
                ": the launcher is not of the MPI that libweft_mpi.so was built with (with Slurm: srun --mpi=pmix)");
  return std::unique_ptr<ProcessRanks>(new ProcessRanks(std::move(link), options));
}

ProcessRanks::ProcessRanks(std::unique_ptr<ProcessLink> link, const Options& options)
    : options_(options), link_(std::move(link)), transfers_(*link_) {
  link_->set_hosts(share(link_->host(rank()), "starting"));
}

ProcessRanks::~ProcessRanks() {
  if (rank() == 0) close();
  if (!ending_together_ && size() > 1) link_->fail("it ends while the other ranks count on it");
}

std::vector<std::string> ProcessRanks::share(const std::string& mine, const char* doing) {
  const auto count = static_cast<size_t>(size());
  std::vector<uint64_t> bytes(count, mine.size());
  const uint64_t own = mine.size();
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    transfers_.send(r, kStartTag, &own, sizeof own);
    transfers_.receive(r, kStartTag, &bytes[static_cast<size_t>(r)], sizeof own);
  }
  transfers_.wait(doing, options_.start_timeout);
  std::vector<std::string> texts(count, mine);
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    std::string& text = texts[static_cast<size_t>(r)];
    text.resize(bytes[static_cast<size_t>(r)]);
    transfers_.send(r, kStartTag, mine.data(), mine.size());
    transfers_.receive(r, kStartTag, text.data(), text.size());
  }
  transfers_.wait(doing, options_.start_timeout);
  return texts;
}

Status ProcessRanks::compare(const Facts& facts) {
  const std::vector<std::string> all = share(joined(facts), "comparing the ranks");
  const Facts first = taken_apart(all[0]);
  for (int r = 1; r < size(); ++r) {
    const Facts theirs = taken_apart(all[static_cast<size_t>(r)]);
    const std::string name = first_difference(first, theirs);
    if (name.empty()) continue;
    ending_together_ = true;
    return fail(Code::invalid_argument, "the ranks differ: ", name, " is ", value_of(first, name), " on ",
                link_->named(0), " and ", value_of(theirs, name), " on ", link_->named(r));
  }
  return {};
}

Status ProcessRanks::agree(const Status& mine) {
  // A code and a message, or nothing.
  const std::string own = mine.ok() ? "" : static_cast<char>(mine.error().code()) + mine.error().message();
  const std::vector<std::string> all = share(own, "the other ranks start");
  const auto failed = [](const std::string& text) { return !text.empty(); };
  const auto first = std::find_if(all.begin(), all.end(), failed);
  if (first != all.end()) {
    ending_together_ = true, open_ = false;
    stop_heartbeat();
    const auto more = std::count_if(first + 1, all.end(), failed);
    const std::string others = more == 0 ? "" : " (and " + std::to_string(more) + " more)";
    return Error(static_cast<Code>(first->front()),
                 link_->named(static_cast<int>(first - all.begin())) + others + ": " + first->substr(1));
  }
  open_ = true;
  if (rank() == 0 && size() > 1 && !heartbeat_.joinable())
    heartbeat_ = std::thread([this] { keep_going("the signs of life to other ranks", [&] { show_life(); }); });
  return {};
}

int ProcessRanks::next_tag(int count) {
  WEFT_CHECK(next_tag_ + count - 1 <= kLastGroupTag) << "too many groups of ranks";
  return std::exchange(next_tag_, next_tag_ + count);
}

std::unique_ptr<Delivery> ProcessRanks::delivery(int lanes) {
  return std::make_unique<Delivery>(*link_, lanes, next_tag(1), options_.deadline);
}

std::vector<std::unique_ptr<PeerLine>> ProcessRanks::peer_lines() {
  const int tag = next_tag(1);
  std::vector<std::unique_ptr<PeerLine>> lines;
  for (int peer = rank() == 0 ? 1 : 0; peer < (rank() == 0 ? size() : 1); ++peer)
    lines.push_back(std::make_unique<PeerLine>(*link_, peer, tag, options_.deadline));
  return lines;
}

std::unique_ptr<Communicator> ProcessRanks::communicator(std::vector<int> members, int threads) {
  const int tag = next_tag(kGroupTags);
  if (std::find(members.begin(), members.end(), rank()) == members.end()) return nullptr;
  return make_process_communicator(*link_, std::move(members), threads, tag, options_.deadline);
}

void ProcessRanks::send_frame(Transfers& transfers, const Frame& frame) {
  const size_t bytes = offsetof(Frame, first) + std::min<size_t>(frame.head.bytes, kFrameRoom);
  for (int r = 1; r < size(); ++r) transfers.send(r, kControlTag, &frame, bytes);
}

void ProcessRanks::send(std::span<const std::byte> message) {
  WEFT_CHECK(rank() == 0 && open_) << "only rank 0 sends, after agree() and before close()";
  if (outgoing_.size() < kOutgoing) outgoing_.push_back(std::make_unique<Outgoing>(*link_));
  Outgoing& next = *outgoing_[next_outgoing_++ % kOutgoing];
  next.transfers.wait("sending a step", options_.deadline);
  const size_t in_frame = std::min(message.size(), kFrameRoom);
  next.frame.head = {Kind::message, message.size()};
  if (in_frame > 0) std::memcpy(next.frame.first, message.data(), in_frame);
  next.rest.assign(message.begin() + static_cast<ptrdiff_t>(in_frame), message.end());
  send_frame(next.transfers, next.frame);
  for (int r = 1; r < size(); ++r) next.transfers.send(r, kControlRestTag, next.rest.data(), next.rest.size());
  next.transfers.finished();
}

bool ProcessRanks::has_message() {
  WEFT_CHECK(rank() != 0) << "rank 0 receives nothing";
  if (!open_ || asked_ == Asked::come) return true;
  if (asked_ == Asked::no) {
    transfers_.receive_some(0, kControlTag, &frame_, sizeof frame_, &frame_bytes_);
    patience_.restart();
    asked_ = Asked::yes;
  }
  if (!transfers_.finished(patience_, "waiting for a step", options_.deadline)) return false;
  asked_ = frame_.head.kind == Kind::alive ? Asked::no : Asked::come;
  return asked_ == Asked::come;
}

std::optional<std::span<const std::byte>> ProcessRanks::receive() {
  for (patience_.restart(); !has_message();) patience_.pause();
  if (!open_) return std::nullopt;
  asked_ = Asked::no;
  if (frame_.head.kind == Kind::closed) {
    open_ = false;
    ending_together_ = true;
    return std::nullopt;
  }
  if (frame_.head.bytes <= kFrameRoom) return std::span<const std::byte>(frame_.first, frame_.head.bytes);
  message_.resize(frame_.head.bytes);
  std::memcpy(message_.data(), frame_.first, kFrameRoom);
  transfers_.receive(0, kControlRestTag, message_.data() + kFrameRoom, message_.size() - kFrameRoom);
  transfers_.wait("receiving a step", options_.deadline);
  return std::span<const std::byte>(message_);
}

void ProcessRanks::close() {
  if (!open_) return;
  stop_heartbeat();
  open_ = false;
  ending_together_ = true;
  for (const auto& message : outgoing_) message->transfers.wait("sending a step", options_.deadline);
  frame_.head = {Kind::closed, 0};
  send_frame(transfers_, frame_);
  transfers_.wait("closing", options_.deadline);
}

void ProcessRanks::stop_heartbeat() {
  if (!heartbeat_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  heartbeat_.join();
}

// Signs go out whether there are steps or not: one or two small messages a second cost nothing, and ranks that are busy
// take them with the next step.
void ProcessRanks::show_life() {
  const auto interval = std::chrono::duration<double>(std::min(1.0, options_.deadline / 4));
  Transfers signs(*link_);
  const Frame sign{{Kind::alive, 0}, {}};
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, interval, [this] { return stopping_; }))
    if (signs.finished()) send_frame(signs, sign);  // else a rank has not taken the one before; its deadline will tell
  lock.unlock();
  signs.wait("closing", options_.deadline);
}

}  // namespace weft
