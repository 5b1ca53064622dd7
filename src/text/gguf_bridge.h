// A vocabulary of GGUF as the bridge takes it. For the .cc files of this folder.
#pragma once

#include <string>
#include <vector>

#include "base/bridge_call.h"
#include "text/tokenizer.h"

namespace weft::bridge {

// Strings in one buffer with their ends.
struct Flat {
  std::string text;
  std::vector<uint64_t> ends;
  explicit Flat(const std::vector<std::string>& strings) {
    size_t size = 0;
    for (const std::string& s : strings) size += s.size();
    text.reserve(size);
    ends.reserve(strings.size());
    for (const std::string& s : strings) {
      text += s;
      ends.push_back(text.size());
    }
  }
  WeftStrings view() const { return {text.data(), ends.data(), ends.size()}; }
};

// Points into the vocabulary, which must outlive it.
struct BorrowedVocabulary {
  explicit BorrowedVocabulary(const GgufVocabulary& vocabulary) : tokens(vocabulary.tokens), merges(vocabulary.merges) {
    const auto id_or_absent = [](const std::optional<int32_t>& id) { return id ? *id : int64_t{-1}; };
    const auto flag_or_absent = [](const std::optional<bool>& flag) { return flag ? int32_t{*flag} : -1; };
    raw.model = vocabulary.model.data(), raw.model_size = vocabulary.model.size();
    raw.pre = vocabulary.pre.data(), raw.pre_size = vocabulary.pre.size();
    raw.tokens = tokens.view(), raw.merges = merges.view();
    raw.scores = vocabulary.scores.data(), raw.score_count = vocabulary.scores.size();
    raw.types = vocabulary.token_types.data(), raw.type_count = vocabulary.token_types.size();
    raw.bos = id_or_absent(vocabulary.bos_id), raw.eos = id_or_absent(vocabulary.eos_id);
    raw.unknown = id_or_absent(vocabulary.unknown_id), raw.separator = id_or_absent(vocabulary.separator_id);
    raw.cls = id_or_absent(vocabulary.cls_id), raw.mask = id_or_absent(vocabulary.mask_id);
    raw.add_bos = flag_or_absent(vocabulary.add_bos), raw.add_eos = flag_or_absent(vocabulary.add_eos);
    raw.add_space_prefix = flag_or_absent(vocabulary.add_space_prefix);
    raw.remove_extra_spaces = flag_or_absent(vocabulary.remove_extra_spaces);
    raw.charsmap = vocabulary.charsmap.data(), raw.charsmap_size = vocabulary.charsmap.size();
  }
  BorrowedVocabulary(const BorrowedVocabulary&) = delete;
  BorrowedVocabulary& operator=(const BorrowedVocabulary&) = delete;

  const Flat tokens, merges;
  WeftGgufVocabulary raw{};
};

}  // namespace weft::bridge
