#include "checkpoint/quant/packed_fields.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace weft {
namespace {

uint32_t load_word(const std::byte* at, int bytes) {
  if (bytes == 1) return static_cast<uint32_t>(*at);
  uint32_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// Where field j of a word of `count` fields begins.
template <PackedFields::Order order>
int shift_of(int j, int count, int bits) {
  constexpr int kAwq[8] = {0, 16, 4, 20, 8, 24, 12, 28};
  if constexpr (order == PackedFields::Order::awq) return kAwq[j];
  return (order == PackedFields::Order::high_first ? count - 1 - j : j) * bits;
}

// Fields [first, last) of a line whose words hold whole fields, `step` apart in `out`.
template <int bits, PackedFields::Order order>
void unpack_words(const PackedFields& f, const std::byte* line, int64_t first, int64_t last, uint8_t* out,
                  int64_t step) {
  const int count = f.word_bytes * 8 / bits;
  for (int64_t i = first; i < last;) {
    const uint32_t word = load_word(line + i / count * f.word_stride, f.word_bytes);
    for (int j = static_cast<int>(i % count); j < count && i < last; ++j, ++i, out += step)
      *out = static_cast<uint8_t>((word >> shift_of<order>(j, count, bits) & ((1u << bits) - 1)) ^ f.flip);
  }
}

// Fields of any width in words of 32 bits, of which one may reach into the next word.
void unpack_stream(const PackedFields& f, const std::byte* line, int64_t first, int64_t last, uint8_t* out,
                   int64_t step) {
  const uint32_t mask = (1u << f.bits) - 1;
  for (int64_t i = first; i < last; ++i, out += step) {
    const int64_t bit = i * f.bits, word = bit / 32;
    const int shift = static_cast<int>(bit % 32);
    uint64_t bits = load_word(line + word * f.word_stride, 4);
    if (shift + f.bits > 32) bits |= static_cast<uint64_t>(load_word(line + (word + 1) * f.word_stride, 4)) << 32;
    *out = static_cast<uint8_t>((static_cast<uint32_t>(bits >> shift) & mask) ^ f.flip);
  }
}

using Unpack = void (*)(const PackedFields&, const std::byte*, int64_t, int64_t, uint8_t*, int64_t);

Unpack choose(const PackedFields& f) {
  using Order = PackedFields::Order;
  if (f.order == Order::awq) return unpack_words<4, Order::awq>;
  if (f.order == Order::high_first) return unpack_words<4, Order::high_first>;
  switch (f.bits) {
    case 2: return unpack_words<2, Order::low_first>;
    case 4: return unpack_words<4, Order::low_first>;
    case 8: return unpack_words<8, Order::low_first>;
    default: return unpack_stream;
  }
}

}  // namespace

Status PackedFields::read(int64_t first_row, int64_t count, int64_t first_col, int64_t width, uint8_t* out,
                          int64_t ld) const {
  WEFT_CHECK(first_row >= 0 && count >= 0 && first_row + count <= rows && first_col >= 0 && width >= 0 &&
             first_col + width <= cols)
      << tensor.name << " fields " << first_row << " + " << count << ", " << first_col << " + " << width;
  if (count == 0 || width == 0) return {};
  std::span<const std::byte> part = tensor.data;
  if (rows_lie_together())
    part = part.subspan(static_cast<size_t>(first_row * line_stride), static_cast<size_t>(count * line_stride));
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin(part));
  const Unpack unpack = choose(*this);
  const std::byte* data = tensor.data.data();
  if (along_rows) {
    for (int64_t c = first_col; c < first_col + width; ++c)
      unpack(*this, data + c * line_stride, first_row, first_row + count, out + (c - first_col), ld);
  } else {
    for (int64_t r = first_row; r < first_row + count; ++r)
      unpack(*this, data + r * line_stride, first_col, first_col + width, out + (r - first_row) * ld, 1);
  }
  return {};
}

}  // namespace weft
