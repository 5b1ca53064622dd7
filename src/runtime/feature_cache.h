// A cache of image features by the hash of the image's content, so that an image that is sent again is not encoded
// again. Beyond its byte limit the least recently used entries are dropped; requests that still hold their features
// keep them. Not thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>

#include "core/media_prompt.h"
#include "media/image.h"

namespace weft {

class FeatureCache {
 public:
  explicit FeatureCache(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // Null if the cache does not have it.
  std::shared_ptr<const MediaFeatures> find(const Digest& hash) {
    const auto found = entries_.find(hash);
    if (found == entries_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second.place);
    return found->second.features;
  }

  void insert(const Digest& hash, std::shared_ptr<const MediaFeatures> features) {
    if (entries_.contains(hash)) return;
    std::list<Digest> first{hash};  // what may run out of memory comes first
    const auto [entry, is_new] = entries_.emplace(hash, Entry{std::move(features), first.begin()});
    order_.splice(order_.begin(), first);
    bytes_ += bytes_of(*entry->second.features);
    while (bytes_ > max_bytes_ && entries_.size() > 1) {
      const auto oldest = entries_.find(order_.back());
      bytes_ -= bytes_of(*oldest->second.features);
      entries_.erase(oldest);
      order_.pop_back();
    }
  }

  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::shared_ptr<const MediaFeatures> features;
    std::list<Digest>::iterator place;
  };
  static int64_t bytes_of(const MediaFeatures& features) {
    return static_cast<int64_t>(features.values.size() * sizeof(float));
  }

  int64_t max_bytes_, bytes_ = 0;
  std::list<Digest> order_;  // most recent first
  std::map<Digest, Entry> entries_;
};

}  // namespace weft
