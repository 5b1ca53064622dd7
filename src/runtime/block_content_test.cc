// What ranks have of a block, put together and taken apart again, against kernels that write all of it at once.
#include "runtime/block_content.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "kernels/kernels.h"

namespace weft {
namespace {

struct Shape {
  CacheSpec::Kind kind;
  int layers, heads, k_dim, v_dim, tokens_per_block;
  DType dtype;
};

class BlockContent : public ::testing::TestWithParam<Shape> {
 protected:
  LayerGroup whole() const {
    const Shape& s = GetParam();
    LayerGroup group;
    group.spec = {s.kind, s.heads, s.k_dim, s.v_dim, 0, DType::f32};
    group.layers = s.layers;
    return group;
  }
  LayerGroup share(int first_layer, int layers, int first_head, int heads) const {
    LayerGroup group = whole();
    group.first_layer = first_layer, group.layers = layers, group.first_kv_head = first_head;
    group.spec.kv_heads = heads;
    return group;
  }
  size_t bytes(const LayerGroup& group) const { return bytes(group, GetParam().dtype); }  // of a rank's block
  size_t bytes(const LayerGroup& group, DType dtype) const {
    CacheSpec spec = group.spec;
    spec.dtype = dtype;
    return kernels::cache_layer_bytes(spec, GetParam().tokens_per_block) * static_cast<size_t>(group.layers);
  }
  BlockPart all() const { return whole_block(whole(), GetParam().tokens_per_block); }
  std::vector<std::byte> content(const BlockPart& part) const {
    return std::vector<std::byte>(part_bytes(whole(), GetParam().dtype, part));
  }
  // Appends the tokens of one block to the layers and heads of a share, as a step would.
  std::vector<std::byte> filled(const LayerGroup& group) const { return filled(group, GetParam().dtype); }
  std::vector<std::byte> filled(const LayerGroup& group, DType dtype) const {
    const Shape& s = GetParam();
    std::vector<std::byte> block(bytes(group, dtype));
    CacheSpec spec = group.spec;
    spec.dtype = dtype;
    const size_t layer_bytes = kernels::cache_layer_bytes(spec, s.tokens_per_block);
    const bool latent = s.kind == CacheSpec::Kind::latent;
    for (int layer = 0; layer < group.layers; ++layer) {
      std::vector<float> k, v;
      for (int t = 0; t < s.tokens_per_block; ++t)
        for (int h = 0; h < spec.kv_heads; ++h) {
          const auto number = [&](int i, int what) {
            std::minstd_rand random(static_cast<unsigned>(
                ((((group.first_layer + layer) * 64 + t) * 64 + group.first_kv_head + h) * 512 + i) * 2 + what + 1));
            random();
            return static_cast<float>(random() % 2001) / 1000 - 1;
          };
          for (int i = 0; i < s.k_dim; ++i) k.push_back(number(i, 0));
          for (int i = 0; !latent && i < s.v_dim; ++i) v.push_back(number(i, 1));
        }
      const kernels::CacheView view{block.data() + layer * layer_bytes,
                                    block.size(),
                                    s.tokens_per_block,
                                    dtype,
                                    spec.kv_heads,
                                    s.k_dim,
                                    s.v_dim,
                                    latent};
      const int32_t table = 0;
      const kernels::SequenceView sequence{.rows = s.tokens_per_block};
      const kernels::AppendArgs args{k.data(),
                                     latent ? nullptr : v.data(),
                                     spec.kv_heads * s.k_dim,
                                     spec.kv_heads * s.v_dim,
                                     view,
                                     &table,
                                     &sequence,
                                     1};
      kernels::cpu_table()->run(args, s.tokens_per_block, {0, 1});
    }
    return block;
  }
};

TEST_P(BlockContent, OfRanksIsThatOfOne) {
  const Shape& s = GetParam();
  std::vector<std::byte> wanted = content(all());
  copy_block_out(filled(whole()).data(), whole(), whole(), s.dtype, s.tokens_per_block, all(), wanted);
  for (const int stages : {1, 2})
    for (int parts = 1; parts <= s.heads; ++parts) {
      std::vector<std::byte> joined = content(all());
      std::vector<LayerGroup> shares;
      for (int stage = 0; stage < stages; ++stage)
        for (int part = 0; part < parts; ++part) {
          const int first_layer = s.layers * stage / stages, last_layer = s.layers * (stage + 1) / stages;
          const int first_head = s.heads * part / parts, last_head = s.heads * (part + 1) / parts;
          shares.push_back(share(first_layer, last_layer - first_layer, first_head, last_head - first_head));
          copy_block_out(filled(shares.back()).data(), shares.back(), whole(), s.dtype, s.tokens_per_block, all(),
                         joined);
        }
      EXPECT_EQ(joined, wanted) << stages << " stages of " << parts << " ranks";
      for (const LayerGroup& own : shares) {
        std::vector<std::byte> block(bytes(own));
        copy_block_in(wanted, own, whole(), s.dtype, s.tokens_per_block, all(), block.data());
        EXPECT_EQ(block, filled(own)) << stages << " stages of " << parts << " ranks";
      }
    }
}

// A layer's tile of the content is where the comment of block_content.h says, and parts put together are the whole.
TEST_P(BlockContent, ComesInParts) {
  const Shape& s = GetParam();
  const std::vector<std::byte> block = filled(whole());
  std::vector<std::byte> wanted = content(all());
  copy_block_out(block.data(), whole(), whole(), s.dtype, s.tokens_per_block, all(), wanted);
  const int tiles = block_tiles(s.tokens_per_block);
  const size_t unit = tile_bytes(whole(), s.dtype);
  std::vector<std::byte> again(block.size());
  for (int layer = 0; layer < s.layers; ++layer)
    for (int t = 0; t < tiles; ++t) {
      const BlockPart part{layer, 1, t, 1};
      std::vector<std::byte> piece = content(part);
      copy_block_out(block.data(), whole(), whole(), s.dtype, s.tokens_per_block, part, piece);
      EXPECT_TRUE(std::equal(piece.begin(), piece.end(),
                             wanted.begin() + static_cast<ptrdiff_t>(unit * static_cast<size_t>(layer * tiles + t))));
      copy_block_in(piece, whole(), whole(), s.dtype, s.tokens_per_block, part, again.data());
    }
  EXPECT_EQ(again, block);
}

// From float32 the very bits that kernels write in the other type; to float32 and back what was there.
TEST_P(BlockContent, IsConverted) {
  const Shape& s = GetParam();
  const auto content_of = [&](DType type) {
    std::vector<std::byte> all(part_bytes(whole(), type, this->all()));
    copy_block_out(filled(whole(), type).data(), whole(), whole(), type, s.tokens_per_block, this->all(), all);
    return all;
  };
  const int tiles = s.layers * block_tiles(s.tokens_per_block);
  const std::vector<std::byte> floats = content_of(DType::f32);
  for (const DType type : {DType::bf16, DType::i8}) {
    EXPECT_EQ(convert_tiles(floats, whole(), DType::f32, type, tiles), content_of(type)) << name(type);
  }
  const std::vector<std::byte> halves = content_of(DType::bf16);
  const std::vector<std::byte> widened = convert_tiles(halves, whole(), DType::bf16, DType::f32, tiles);
  EXPECT_EQ(convert_tiles(widened, whole(), DType::f32, DType::bf16, tiles), halves);
  // Codes times scales: no value is further from the float than half a step of the largest, 1 / 127.
  const std::vector<std::byte> codes = convert_tiles(content_of(DType::i8), whole(), DType::i8, DType::f32, tiles);
  ASSERT_EQ(codes.size(), floats.size());
  for (size_t i = 0; i < floats.size(); i += sizeof(float)) {
    float want = 0, got = 0;
    std::memcpy(&want, floats.data() + i, sizeof want), std::memcpy(&got, codes.data() + i, sizeof got);
    ASSERT_NEAR(got, want, 0.51 / 127) << "number " << i / sizeof(float);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlockContent,
                         ::testing::Values(Shape{CacheSpec::Kind::full, 3, 4, 8, 8, 32, DType::f32},
                                           Shape{CacheSpec::Kind::full, 2, 4, 12, 12, 16, DType::bf16},
                                           Shape{CacheSpec::Kind::window, 4, 3, 16, 16, 16, DType::bf16},
                                           Shape{CacheSpec::Kind::full, 2, 2, 24, 16, 64, DType::i8},
                                           Shape{CacheSpec::Kind::latent, 3, 1, 24, 16, 32, DType::f32},
                                           Shape{CacheSpec::Kind::latent, 2, 1, 24, 16, 32, DType::i8}));

}  // namespace
}  // namespace weft
