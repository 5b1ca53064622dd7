#include "runtime/image_encoders.h"

#include <algorithm>

#include "runtime/step_message.h"

namespace weft {

namespace {

// All but the pixels, which go to one process, and the hash, which the others do not need.
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

// ---- The first process
// ---------------------------------------------------------------------------------------------------------

ImageEncoders::ImageEncoders(const Model& model, const RankTeam& ranks, TracedPlan* trace)
    : ranks_(ranks.processes()), vision_(model, ranks.threads(), trace) {
  if (!ranks_) return;
  for (auto& line : ranks_->peer_lines()) peers_.push_back({.line = std::move(line)});
}

ImageEncoders::~ImageEncoders() {
  if (all_free()) return;
  ByteWriter message;
  message.put(MessageKind::drop_images);
  ranks_->send(message.bytes());
  for (patience_.restart(); !all_free(); patience_.pause())
    for (Peer& peer : peers_)
      if (peer.media && look(peer)) peer.media.reset();
}

bool ImageEncoders::all_free() const {
  return std::ranges::none_of(peers_, [](const Peer& peer) { return peer.media != nullptr; });
}

void ImageEncoders::begin(int process, std::shared_ptr<const PreparedMedia> media) {
  if (process == 0) {
    own_ = std::move(media), own_begun_ = false;
    return;
  }
  ByteWriter message;
  message.put(MessageKind::image), message.put(process);
  write_image(*media, message);
  Peer& to = peer(process);
  to.media = std::move(media);
  to.line->receive(&to.report, sizeof to.report);
  ranks_->send(message.bytes());
  to.line->send(to.media->pixel_values.data(), bytes_of(to.media->pixel_values));
}

// Whether it is done with its image.
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

// Pixels on their way out, or features on their way back.
bool ImageEncoders::anything_travels() {
  return std::ranges::any_of(peers_, [](Peer& peer) { return peer.media && (peer.features || !peer.line->sent()); });
}

void ImageEncoders::collect(std::vector<Encoded>& done) {
  for (int process = 1; process < processes(); ++process) {
    Peer& other = peer(process);
    if (!other.media || !look(other)) continue;
    done.push_back({process, std::move(other.features)});
    other.features.reset(), other.media.reset();
  }
}

std::vector<ImageEncoders::Encoded> ImageEncoders::work() {
  // On many networks both ends have to drive a large transfer on; with one look for each piece it would crawl.
  constexpr double kTravel = 20e-3;
  std::vector<Encoded> done;
  collect(done);
  for (Patience travel; done.empty() && anything_travels() && travel.waited() < kTravel; collect(done)) travel.pause();
  if (!done.empty()) return patience_.restart(), done;  // so that these processes get their next images first
  if (!own_) return patience_.pause(), done;
  patience_.restart();
  if (auto features = run_own_piece()) done.push_back({0, std::move(features)});
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

ImageFollower::ImageFollower(const Model& model, ThreadTeam& team, ProcessRanks& ranks)
    : process_(ranks.rank()), vision_(model, team, nullptr), line_(std::move(ranks.peer_lines().front())) {}

ImageFollower::~ImageFollower() { wait_until_sent(); }

void ImageFollower::begin(ByteReader& from) {
  if (from.take<int>() != process_) return;
  media_ = read_image(from);
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
    if (line_->sent()) report({});  // else there is one that has not been taken
    return true;
  }
  wait_until_sent();  // the features of the image before have been taken
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
