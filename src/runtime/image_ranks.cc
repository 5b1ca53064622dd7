#include "runtime/image_ranks.h"

#include <algorithm>

#include "runtime/step_message.h"

namespace weft {

namespace {

// All but the pixels, which go to one rank, and the hash, which only rank 0 needs.
void write_image(const PreparedMedia& m, ByteWriter& to) {
  to.put(m.pixel_values.size());
  to.put(m.kind), to.put_all(m.shape), to.put_all(m.positions);
  for (const int value : {m.height, m.width, m.tile_rows, m.tile_columns, m.aspect_ratio_id, m.grid_frames, m.grid_rows,
                          m.grid_columns, m.merge})
    to.put(value);
  to.put(m.time_step), to.put(m.single);
}

PreparedMedia read_image(ByteReader& from) {
  PreparedMedia m;
  m.pixel_values.resize(from.take<size_t>());
  m.kind = from.take<MediaKind>(), m.shape = from.take_all<int64_t>(), m.positions = from.take_all<int>();
  for (int* value : {&m.height, &m.width, &m.tile_rows, &m.tile_columns, &m.aspect_ratio_id, &m.grid_frames,
                     &m.grid_rows, &m.grid_columns, &m.merge})
    *value = from.take<int>();
  m.time_step = from.take<double>(), m.single = from.take<bool>();
  return m;
}

size_t bytes_of(const std::vector<float>& values) { return values.size() * sizeof(float); }

}  // namespace

// ---- Rank 0 ---------------------------------------------------------------------------------------------------------

ImageEncoders::ImageEncoders(const Model& model, const RankTeam& ranks, TracedPlan* trace)
    : processes_(ranks.processes()), vision_(model, ranks.threads(), trace) {
  if (!processes_) return;
  for (auto& line : processes_->peer_lines()) peers_.push_back({.line = std::move(line)});
}

ImageEncoders::~ImageEncoders() {
  if (all_free()) return;
  ByteWriter message;
  message.put(MessageKind::drop_images);
  processes_->send(message.bytes());
  for (patience_.restart(); !all_free(); patience_.pause())
    for (Peer& peer : peers_)
      if (peer.media && look(peer)) peer.media.reset();
}

bool ImageEncoders::all_free() const {
  return std::ranges::none_of(peers_, [](const Peer& peer) { return peer.media != nullptr; });
}

void ImageEncoders::begin(int rank, std::shared_ptr<const PreparedMedia> media) {
  if (rank == 0) {
    own_ = std::move(media), own_begun_ = false;
    return;
  }
  ByteWriter message;
  message.put(MessageKind::image), message.put(rank);
  write_image(*media, message);
  Peer& to = peer(rank);
  to.media = std::move(media);
  to.line->receive(&to.report, sizeof to.report);
  processes_->send(message.bytes());
  to.line->send(to.media->pixel_values.data(), bytes_of(to.media->pixel_values));
}

// Whether the rank is done with its image.
bool ImageEncoders::look(Peer& peer) {
  peer.line->sent();
  while (peer.line->received("encoding an image")) {
    if (peer.features || (peer.report.ended && peer.report.rows == 0)) return true;
    if (!peer.report.ended) {
      peer.line->receive(&peer.report, sizeof peer.report);
      continue;
    }
    peer.features = std::make_shared<MediaFeatures>(MediaFeatures{peer.report.rows, peer.report.cols, {}});
    std::vector<float>& values = peer.features->values;
    values.resize(static_cast<size_t>(peer.report.rows) * static_cast<size_t>(peer.report.cols));
    peer.line->receive(values.data(), bytes_of(values));
  }
  return false;
}

std::vector<ImageEncoders::Encoded> ImageEncoders::work() {
  std::vector<Encoded> done;
  for (int rank = 1; rank < ranks(); ++rank) {
    Peer& other = peer(rank);
    if (!other.media || !look(other)) continue;
    done.push_back({rank, std::move(other.features)});
    other.features.reset(), other.media.reset();
  }
  if (own_) {
    if (auto features = run_own_piece()) done.push_back({0, std::move(features)});
    patience_.restart();
  } else if (!done.empty()) {
    patience_.restart();
  } else {
    patience_.pause();
  }
  return done;
}

// The features once they are done.
std::shared_ptr<const MediaFeatures> ImageEncoders::run_own_piece() {
  if (!own_begun_) vision_.begin(*own_), own_begun_ = true;
  if (vision_.run_piece()) return nullptr;
  own_.reset();
  return std::make_shared<const MediaFeatures>(vision_.take());
}

// ---- The others -----------------------------------------------------------------------------------------------------

ImageFollower::ImageFollower(const Model& model, ThreadTeam& team, ProcessRanks& processes)
    : rank_(processes.rank()), vision_(model, team, nullptr), line_(std::move(processes.peer_lines().front())) {}

ImageFollower::~ImageFollower() { wait_until_sent(); }

void ImageFollower::begin(ByteReader& from) {
  const int rank = from.take<int>();
  PreparedMedia media = read_image(from);
  if (rank != rank_) return;
  media_ = std::move(media);
  line_->receive(media_.pixel_values.data(), bytes_of(media_.pixel_values));
  patience_.restart();
  state_ = State::pixels_come;
}

void ImageFollower::drop() {
  if (state_ == State::free) return;
  while (state_ == State::pixels_come && !line_->received("waiting for an image")) patience_.pause();
  wait_until_sent();
  report({.ended = true});
  state_ = State::free;
}

bool ImageFollower::work() {
  if (state_ == State::free) return false;
  if (state_ == State::pixels_come) {
    if (!line_->received("waiting for an image")) return patience_.pause(), true;
    vision_.begin(media_);
    media_ = {};
    state_ = State::runs;
  }
  if (vision_.run_piece()) {
    if (line_->sent()) report({});  // else there is one that rank 0 has not taken
    return true;
  }
  wait_until_sent();  // the features of the image before have come to rank 0
  features_ = vision_.take();
  report({true, features_.rows, features_.cols});
  line_->send(features_.values.data(), bytes_of(features_.values));
  state_ = State::free;
  return true;
}

void ImageFollower::report(const ImageReport& report) {
  report_ = report;
  line_->send(&report_, sizeof report_);
}

void ImageFollower::wait_until_sent() {
  for (Patience patience; !line_->sent();) patience.pause();
}

}  // namespace weft
