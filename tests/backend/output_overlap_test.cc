// FindOutputOverlap() against marking every element that is written.
#include "backend/core/output_overlap.h"

#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/backend/seed.h"

namespace tessera {
namespace {

bool WritesSomethingTwice(const OutputLayout& layout, const std::vector<tessera_sequence>& sequences) {
  std::set<int64_t> written;
  for (const tessera_sequence& s : sequences) {
    for (int64_t t = s.q_begin; t < s.q_begin + s.q_len; ++t) {
      for (int64_t h = 0; h < layout.heads; ++h) {
        for (int64_t d = 0; d < layout.row_elements; ++d) {
          if (!written.insert(t * layout.token_stride + h * layout.head_stride + d).second) return true;
        }
      }
    }
  }
  return false;
}

class OutputOverlapTest : public ::testing::Test {
 protected:
  int64_t Draw(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  std::vector<tessera_sequence> DrawSequences(int64_t tokens) {
    std::vector<tessera_sequence> sequences(static_cast<size_t>(Draw(1, 4)));
    for (tessera_sequence& s : sequences) {
      s.q_begin = Draw(0, tokens - 1);
      s.q_len = Draw(0, 3);
    }
    return sequences;
  }

  std::optional<std::pair<int64_t, int64_t>> Find(const OutputLayout& layout,
                                                  const std::vector<tessera_sequence>& sequences) {
    return FindOutputOverlap(layout, sequences.data(), static_cast<int64_t>(sequences.size()));
  }

  std::mt19937_64 random_{testing::DrawSeed()};
};

TEST_F(OutputOverlapTest, NeverMissesACollision) {
  for (int round = 0; round < 50000; ++round) {
    const OutputLayout layout{Draw(0, 9), Draw(0, 9), Draw(1, 3), Draw(1, 3)};
    const auto sequences = DrawSequences(12);
    if (Find(layout, sequences)) continue;
    ASSERT_FALSE(WritesSomethingTwice(layout, sequences))
        << "token_stride " << layout.token_stride << ", head_stride " << layout.head_stride;
  }
}

TEST_F(OutputOverlapTest, IsExactForHeadsInsideTokens) {
  int overlaps = 0;
  for (int round = 0; round < 50000; ++round) {
    OutputLayout layout{0, 0, Draw(1, 3), Draw(1, 3)};
    layout.head_stride = layout.row_elements + Draw(0, 2);
    layout.token_stride = layout.heads * layout.head_stride + Draw(0, 2);
    const auto sequences = DrawSequences(14);
    const bool found = Find(layout, sequences).has_value();
    overlaps += found ? 1 : 0;
    ASSERT_EQ(found, WritesSomethingTwice(layout, sequences));
  }
  EXPECT_GT(overlaps, 0);
}

TEST_F(OutputOverlapTest, IsExactForTokensInsideHeads) {
  int overlaps = 0;
  for (int round = 0; round < 50000; ++round) {
    OutputLayout layout{0, 0, Draw(2, 3), Draw(1, 3)};
    layout.token_stride = layout.row_elements;
    layout.head_stride = 3 * layout.token_stride + Draw(0, 7);  // sequences of up to 3 tokens
    const auto sequences = DrawSequences(40);
    const bool found = Find(layout, sequences).has_value();
    overlaps += found ? 1 : 0;
    ASSERT_EQ(found, WritesSomethingTwice(layout, sequences))
        << "heads " << layout.heads << ", row " << layout.row_elements << ", head_stride "
        << layout.head_stride;
  }
  EXPECT_GT(overlaps, 0);
}

TEST_F(OutputOverlapTest, NamesBothSequences) {
  std::vector<tessera_sequence> sequences(4);
  for (int64_t n = 0; n < 4; ++n) sequences[static_cast<size_t>(n)] = {.q_begin = 10 * (3 - n), .q_len = 10};
  const OutputLayout layout{.token_stride = 8, .head_stride = 4, .heads = 2, .row_elements = 4};
  EXPECT_FALSE(Find(layout, sequences));
  sequences[1].q_len = 11;  // tokens 20 .. 30; sequence 0 begins at 30
  const auto overlap = Find(layout, sequences);
  ASSERT_TRUE(overlap);
  EXPECT_EQ(*overlap, (std::pair<int64_t, int64_t>{0, 1}));
}

}  // namespace
}  // namespace tessera
