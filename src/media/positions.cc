// Positions: see positions.h.
#include "media/positions.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace weft {

MropePositions mrope_positions(int64_t tokens, std::span<const FeatureSpan> spans,
                               std::span<const PreparedMedia> media) {
  MropePositions out;
  for (auto& axis : out.axes) axis.resize(tokens);
  int32_t next = 0;
  const auto text_until = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i, ++next) out.axes[0][i] = out.axes[1][i] = out.axes[2][i] = next;
  };
  int64_t done = 0;
  for (const FeatureSpan& span : spans) {
    const PreparedMedia& m = media[span.media];
    const int rows = m.grid_rows / m.merge, columns = m.grid_columns / m.merge;
    WEFT_CHECK(span.first == 0 && span.count == m.grid_frames * rows * columns && span.position >= done &&
               span.position + span.count <= tokens);
    text_until(done, span.position);
    int64_t i = span.position;
    int32_t largest = next;
    for (int frame = 0; frame < m.grid_frames; ++frame) {
      const int32_t time = next + static_cast<int32_t>(std::trunc(frame * m.time_step));
      for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column, ++i) {
          out.axes[0][i] = time;
          out.axes[1][i] = next + row;
          out.axes[2][i] = next + column;
        }
      }
      largest = std::max({largest, time, next + rows - 1, next + columns - 1});
    }
    next = largest + 1;
    done = i;
  }
  text_until(done, tokens);
  out.delta = static_cast<int32_t>(next - tokens);
  return out;
}

std::vector<RowRange> cross_attention_rows(int64_t tokens, std::span<const FeatureSpan> spans) {
  std::vector<RowRange> rows;
  for (const FeatureSpan& span : spans) rows.push_back({span.position, tokens});
  for (size_t i = rows.size(); i-- > 1;) {
    RowRange& before = rows[i - 1];
    before.end = before.first + 1 == rows[i].first ? rows[i].end : rows[i].first;
  }
  return rows;
}

}  // namespace weft
