// SizeOf() and VisibleKeys(): exact against counting one by one, defined for any field values.
#include <algorithm>
#include <limits>
#include <random>

#include "backend/core/attention_problem.h"
#include "gtest/gtest.h"
#include "tests/backend/seed.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::DrawSeed;
using testing::TestProblem;

// The definition of tessera/attention.h, key by key.
bool IsVisible(const Sequence& s, int64_t i, int64_t j) {
  const int64_t diagonal = i + s.diagonal_offset;
  return (s.window_left < 0 || j >= diagonal - s.window_left) &&
         (s.window_right < 0 || j <= diagonal + s.window_right);
}

Sequence RandomSequence(std::mt19937_64& random) {
  const auto draw = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  Sequence s{};
  s.q_len = draw(0, 24);
  s.kv_len = draw(0, 24);
  s.diagonal_offset = draw(0, 1) == 0 ? s.kv_len - s.q_len : draw(-40, 40);
  s.window_left = draw(0, 2) == 0 ? -1 : draw(0, 30);
  s.window_right = draw(0, 2) == 0 ? -1 : draw(0, 1) * draw(0, 30);
  return s;
}

TEST(ProblemSizeTest, CountsVisibleScoresExactly) {
  const uint64_t seed = DrawSeed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20000; ++round) {
    const Sequence s = RandomSequence(random);
    int64_t visible = 0;
    for (int64_t i = 0; i < s.q_len; ++i) {
      const KeyRange keys = VisibleKeys(s, i);
      ASSERT_LE(keys.begin, keys.end);
      for (int64_t j = 0; j < s.kv_len; ++j) {
        ASSERT_EQ(IsVisible(s, i, j), keys.begin <= j && j < keys.end) << "query " << i << ", key " << j;
        visible += IsVisible(s, i, j) ? 1 : 0;
      }
    }
    AttentionProblem p{};
    p.num_q_heads = 3;
    p.head_dim_qk = 8;
    p.head_dim_v = 4;
    p.sequences = &s;
    p.num_sequences = 1;
    ASSERT_EQ(SizeOf(p).visible_scores, 3 * visible)
        << "round " << round << ": q_len " << s.q_len << ", kv_len " << s.kv_len << ", offset "
        << s.diagonal_offset << ", window " << s.window_left << ", " << s.window_right;
    ASSERT_EQ(SizeOf(p).flops, 2 * 3 * visible * 12);
  }
}

TEST(ProblemSizeTest, SumsOverTheBatch) {
  TestProblem problem({.q_heads = 4, .sequences = {{3, 5}, {2, 7}, {0, 9}}, .causal = true});
  const ProblemSize size = SizeOf(problem.problem);
  EXPECT_EQ(size.q_tokens, 5);
  EXPECT_EQ(size.kv_tokens, 21);
  EXPECT_EQ(size.scores, 4 * (15 + 14));
  EXPECT_EQ(size.visible_scores, 4 * ((3 + 4 + 5) + (6 + 7)));
}

TEST(ProblemSizeTest, SaturatesAndIgnoresNegativeLengths) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  TestProblem problem;
  problem.sequences[0].q_len = problem.sequences[0].kv_len = kMax;
  problem.sequences[1].q_len = -5;
  const ProblemSize size = SizeOf(problem.problem);
  EXPECT_EQ(size.q_tokens, kMax);
  EXPECT_EQ(size.kv_tokens, kMax);
  EXPECT_EQ(size.scores, kMax);
  EXPECT_EQ(size.visible_scores, kMax);
  EXPECT_EQ(size.flops, kMax);
}

TEST(ProblemSizeTest, LongCausalSequenceNeedsNoLoop) {
  TestProblem problem({.q_heads = 1, .kv_heads = 1, .sequences = {{1, 1}}, .causal = true});
  Sequence& s = problem.sequences[0];
  s.q_len = s.kv_len = int64_t{1} << 31;
  EXPECT_EQ(SizeOf(problem.problem).visible_scores, (s.q_len * (s.q_len + 1)) / 2);
}

// Fields from the whole of int64, with a liking for the values where things break.
class RandomFields {
 public:
  explicit RandomFields(uint64_t seed) : random_(seed) {}

  int64_t Int64() {
    static constexpr int64_t kEdges[] = {std::numeric_limits<int64_t>::min(),
                                         std::numeric_limits<int64_t>::min() + 1,
                                         std::numeric_limits<int64_t>::max(),
                                         std::numeric_limits<int64_t>::max() - 1,
                                         kMaxExtent,
                                         kMaxExtent + 1,
                                         -kMaxExtent,
                                         int64_t{1} << 32,
                                         -1,
                                         0,
                                         1,
                                         2};
    switch (random_() % 4) {
      case 0:
        return static_cast<int64_t>(random_());
      case 1:
        return static_cast<int64_t>(random_() >> (random_() % 64));
      case 2:
        return static_cast<int64_t>(random_() % 9);
      default:
        return kEdges[random_() % std::size(kEdges)];
    }
  }
  int32_t Int32() { return static_cast<int32_t>(Int64()); }

 private:
  std::mt19937_64 random_;
};

TEST(ProblemSizeTest, AnyFieldValuesAreDefined) {
  RandomFields random(DrawSeed());
  for (int round = 0; round < 200000; ++round) {
    Sequence s{};
    for (int64_t* field : {&s.q_begin, &s.q_len, &s.kv_begin, &s.kv_len, &s.diagonal_offset, &s.window_left,
                           &s.window_right, &s.mask_head_stride, &s.mask_q_stride, &s.mask_kv_stride}) {
      *field = random.Int64();
    }
    TestProblem valid({.sequences = {{2, 2}}});
    AttentionProblem p = valid.problem;
    p.sequences = &s;
    p.num_q_heads = random.Int32();
    p.head_dim_qk = random.Int32();
    p.head_dim_v = random.Int32();
    const ProblemSize size = SizeOf(p);
    for (int64_t value : {size.q_tokens, size.kv_tokens, size.scores, size.visible_scores, size.flops}) {
      ASSERT_GE(value, 0);
    }
    ASSERT_LE(size.visible_scores, size.scores);
    const KeyRange keys = VisibleKeys(s, random.Int64());
    ASSERT_LE(keys.begin, keys.end);
    ASSERT_LE(keys.end - keys.begin, std::max<int64_t>(s.kv_len, 0));
  }
}

// The last address of the formulas in tessera/attention.h, in plain int64: UBSan would tell of an overflow.
void ExpectInsideTensors(const AttentionProblem& p, const Sequence& s) {
  const auto last = [](int64_t begin, int64_t length, int64_t token_stride, int64_t heads,
                       int64_t head_stride, int64_t row) {
    return (begin + length - 1) * token_stride + (heads - 1) * head_stride + row - 1;
  };
  if (s.q_len > 0) {
    EXPECT_LT(last(s.q_begin, s.q_len, p.q.token_stride, p.num_q_heads, p.q.head_stride, p.head_dim_qk),
              p.q.num_elements);
    EXPECT_LT(last(s.q_begin, s.q_len, p.o.token_stride, p.num_q_heads, p.o.head_stride, p.head_dim_v),
              p.o.num_elements);
    EXPECT_LT(last(s.q_begin, s.q_len, p.lse.token_stride, p.num_q_heads, p.lse.head_stride, 1),
              p.lse.num_elements);
  }
  if (s.kv_len > 0) {
    EXPECT_LT(last(s.kv_begin, s.kv_len, p.k.token_stride, p.num_kv_heads, p.k.head_stride, p.head_dim_qk),
              p.k.num_elements);
    EXPECT_LT(last(s.kv_begin, s.kv_len, p.v.token_stride, p.num_kv_heads, p.v.head_stride, p.head_dim_v),
              p.v.num_elements);
  }
  if (s.mask != nullptr) {
    EXPECT_LE(p.num_q_heads * s.mask_head_stride + s.q_len * s.mask_q_stride + s.kv_len * s.mask_kv_stride,
              kMaxExtent);
  }
}

// Each round spoils some fields of a valid problem. Whatever Validate accepts must keep its promise.
TEST(ProblemFuzzTest, ValidateNeverOverflows) {
  const uint64_t seed = DrawSeed();
  RandomFields random(seed);
  std::mt19937_64 choose(seed + 1);
  int accepted = 0;
  for (int round = 0; round < 200000; ++round) {
    TestProblem problem;
    AttentionProblem& p = problem.problem;
    std::vector<int64_t*> fields = {&p.lse.num_elements, &p.lse.token_stride, &p.lse.head_stride,
                                    &p.num_sequences};
    for (TensorView* t : {&p.q, &p.k, &p.v, &p.o}) {
      fields.insert(fields.end(), {&t->num_elements, &t->token_stride, &t->head_stride});
    }
    for (Sequence& s : problem.sequences) {
      fields.insert(fields.end(),
                    {&s.q_begin, &s.q_len, &s.kv_begin, &s.kv_len, &s.diagonal_offset, &s.window_left,
                     &s.window_right, &s.mask_head_stride, &s.mask_q_stride, &s.mask_kv_stride});
    }
    const std::vector<int32_t*> small_fields = {&p.num_q_heads, &p.num_kv_heads, &p.head_dim_qk,
                                                &p.head_dim_v};
    for (uint64_t spoilt = choose() % 4; spoilt > 0; --spoilt) {
      if (choose() % 6 == 0) {
        *small_fields[choose() % small_fields.size()] = random.Int32();
      } else {
        *fields[choose() % fields.size()] = random.Int64();
      }
    }
    // More sequences than there are would be read past their end by anyone.
    p.num_sequences = std::min<int64_t>(p.num_sequences, 2);
    if (choose() % 3 == 0) {
      p.mask_kind = TESSERA_MASK_BOOLEAN;
      p.mask_dtype = TESSERA_DTYPE_BOOL;
      for (Sequence& s : problem.sequences) s.mask = &problem;
    }
    SizeOf(p);
    if (!Validate(p).ok()) continue;
    ++accepted;
    for (int64_t n = 0; n < p.num_sequences; ++n) ExpectInsideTensors(p, p.sequences[n]);
  }
  std::cout << accepted << " of 200000 problems accepted" << std::endl;
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace tessera
