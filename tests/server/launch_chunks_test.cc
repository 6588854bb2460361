// Where a launch may be cut.
#include "server/launch_chunks.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/core/dtype.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr int64_t kDim = 16;

// fp32, `heads` query and kv heads of 16, one sequence after the other, token-major; only shapes.
struct Shapes {
  explicit Shapes(std::vector<int64_t> lengths, int32_t heads = 2) {
    int64_t tokens = 0;
    for (const int64_t length : lengths) {
      Sequence sequence{};
      sequence.q_begin = sequence.kv_begin = tokens;
      sequence.q_len = sequence.kv_len = length;
      sequences.push_back(sequence);
      tokens += length;
    }
    problem.num_q_heads = problem.num_kv_heads = heads;
    problem.head_dim_qk = problem.head_dim_v = kDim;
    for (TensorView* view : {&problem.q, &problem.k, &problem.v, &problem.o}) {
      *view = {nullptr, tokens * heads * kDim, heads * kDim, kDim, TESSERA_DTYPE_FP32};
    }
    problem.sequences = sequences.data();
    problem.num_sequences = static_cast<int64_t>(sequences.size());
  }

  // All tensors (sequence, head, token, dim), each sequence of `tokens`.
  void MakeHeadMajor(int64_t tokens) {
    for (TensorView* view : {&problem.q, &problem.k, &problem.v, &problem.o}) {
      view->token_stride = kDim;
      view->head_stride = tokens * kDim;
    }
    for (size_t s = 0; s < sequences.size(); ++s) {
      sequences[s].q_begin = sequences[s].kv_begin = static_cast<int64_t>(s) * problem.num_q_heads * tokens;
    }
  }

  std::vector<Sequence> sequences;
  AttentionProblem problem{};
};

// Bytes of a token in one operand, and in all four.
constexpr int64_t TokenBytes(int32_t heads = 2) { return heads * kDim * 4; }

std::vector<int64_t> SequencesPerChunk(const std::vector<Chunk>& chunks) {
  std::vector<int64_t> counts;
  for (const Chunk& chunk : chunks) counts.push_back(chunk.num_sequences);
  return counts;
}

// Every byte of every operand belongs to one chunk, and every (sequence, kv head) too.
void ExpectPartition(const AttentionProblem& problem, const std::vector<Chunk>& chunks) {
  for (const Operand operand : kAllOperands) {
    int64_t end = 0;
    for (const Chunk& chunk : chunks) {
      EXPECT_EQ(chunk.ranges[operand].begin, end);
      EXPECT_GE(chunk.ranges[operand].bytes(), 0);
      end = chunk.ranges[operand].end;
    }
    EXPECT_EQ(end, RefOf(problem, operand).wanted ? RefOf(problem, operand).bytes() : 0);
  }
  int64_t pairs = 0;
  for (const Chunk& chunk : chunks) pairs += chunk.num_sequences * chunk.num_kv_heads;
  EXPECT_EQ(pairs, problem.num_sequences * problem.num_kv_heads);
}

TEST(LaunchChunksTest, LeavesASmallLaunchWhole) {
  const Shapes shapes({10, 10, 10});
  const auto chunks = SplitLaunch(shapes.problem);
  EXPECT_EQ(SequencesPerChunk(chunks), (std::vector<int64_t>{3}));
  ExpectPartition(shapes.problem, chunks);
}

TEST(LaunchChunksTest, CutsBetweenSequences) {
  const Shapes shapes({10, 10, 10, 10, 10, 10});
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 4 * 20 * TokenBytes(), .max_chunks = 8});
  EXPECT_EQ(SequencesPerChunk(chunks), (std::vector<int64_t>{2, 2, 2}));
  ExpectPartition(shapes.problem, chunks);
  EXPECT_EQ(chunks[1].ranges[kK].begin, 20 * TokenBytes());
  EXPECT_EQ(chunks[1].ranges[kK].end, 40 * TokenBytes());
}

TEST(LaunchChunksTest, MakesNoMoreThanAsked) {
  const Shapes shapes(std::vector<int64_t>(100, 3));
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 1, .max_chunks = 5});
  EXPECT_EQ(chunks.size(), 5u);
  ExpectPartition(shapes.problem, chunks);
}

TEST(LaunchChunksTest, LeavesNoCrumbs) {
  const Shapes shapes({20, 20, 1});
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 4 * 20 * TokenBytes(), .max_chunks = 8});
  EXPECT_EQ(SequencesPerChunk(chunks), (std::vector<int64_t>{1, 2}));
}

TEST(LaunchChunksTest, CutsALongSequenceByHeadsWhereTheyLieApart) {
  Shapes shapes({8, 8, 8}, 4);
  const ChunkLimits limits{.min_bytes = 4 * 4 * TokenBytes(4), .max_chunks = 6};
  EXPECT_EQ(SplitLaunch(shapes.problem, limits).size(), 3u) << "token-major: heads interleave";
  shapes.MakeHeadMajor(8);
  const auto chunks = SplitLaunch(shapes.problem, limits);
  ASSERT_EQ(chunks.size(), 6u);
  ExpectPartition(shapes.problem, chunks);
  EXPECT_EQ(chunks[3].first_sequence, 1);
  EXPECT_EQ(chunks[3].first_kv_head, 2);
  EXPECT_EQ(chunks[3].num_kv_heads, 2);
  EXPECT_EQ(chunks[3].ranges[kV].begin, (1 * 4 + 2) * 8 * kDim * 4);
}

TEST(LaunchChunksTest, DoesNotCutThroughSequencesThatShareMemory) {
  Shapes shapes({10, 10, 10, 10});
  shapes.sequences[1].kv_begin = 0;  // the first two read the same keys
  const ChunkLimits limits{.min_bytes = 4 * 10 * TokenBytes(), .max_chunks = 8};
  auto chunks = SplitLaunch(shapes.problem, limits);
  EXPECT_EQ(SequencesPerChunk(chunks), (std::vector<int64_t>{2, 1, 1}));
  ExpectPartition(shapes.problem, chunks);
  shapes.sequences[3].kv_begin = 0;
  chunks = SplitLaunch(shapes.problem, limits);
  EXPECT_EQ(SequencesPerChunk(chunks), (std::vector<int64_t>{4}));
  ExpectPartition(shapes.problem, chunks);
}

TEST(LaunchChunksTest, TakesSequencesInAnyOrderForWhole) {
  Shapes shapes({10, 10, 10, 10});
  std::swap(shapes.sequences[0], shapes.sequences[3]);
  EXPECT_EQ(SplitLaunch(shapes.problem, {.min_bytes = 1, .max_chunks = 4}).size(), 1u);
}

TEST(LaunchChunksTest, PassesOverEmptySequences) {
  Shapes shapes({0, 10, 0, 0, 10, 0});
  for (Sequence& sequence : shapes.sequences) {
    if (sequence.q_len == 0) sequence.q_begin = sequence.kv_begin = 0;  // as the codec does
  }
  shapes.sequences[4].q_len = 0;
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 1, .max_chunks = 8});
  EXPECT_GE(chunks.size(), 2u);
  ExpectPartition(shapes.problem, chunks);
}

TEST(LaunchChunksTest, GivesAChunkItsScales) {
  Shapes shapes({8, 8, 8}, 4);
  AttentionProblem& p = shapes.problem;
  std::vector<float> scales;
  for (int i = 0; i < 3 * 4; ++i) scales.push_back(static_cast<float>(i + 1));
  p.q_scales = {scales.data(), 4, 1};
  p.k_scales = {scales.data(), 0, 1};  // of heads
  const Chunk chunk{
      .first_sequence = 1, .num_sequences = 2, .first_kv_head = 0, .num_kv_heads = 4, .ranges = {}};
  std::vector<Sequence> sequences;
  const AttentionProblem part = ProblemOf(p, chunk, sequences);
  EXPECT_EQ(ScaleOf(part.q_scales, 1, 2), ScaleOf(p.q_scales, 2, 2));
  EXPECT_EQ(ScaleOf(part.k_scales, 1, 2), ScaleOf(p.k_scales, 2, 2));
  EXPECT_EQ(part.v_scales.data, nullptr);

  shapes.MakeHeadMajor(8);
  const Chunk heads{
      .first_sequence = 2, .num_sequences = 1, .first_kv_head = 2, .num_kv_heads = 2, .ranges = {}};
  const AttentionProblem of_heads = ProblemOf(p, heads, sequences);
  EXPECT_EQ(ScaleOf(of_heads.q_scales, 0, 1), ScaleOf(p.q_scales, 2, 3));
  EXPECT_EQ(ScaleOf(of_heads.k_scales, 0, 0), ScaleOf(p.k_scales, 2, 2));
}

TEST(LaunchChunksTest, KeepsTheLseWithItsRows) {
  Shapes shapes({10, 10});
  shapes.problem.lse = {nullptr, 20 * 2, 2, 1};
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 1, .max_chunks = 2});
  ASSERT_EQ(chunks.size(), 2u);
  ExpectPartition(shapes.problem, chunks);
  EXPECT_EQ(chunks[1].ranges[kLse].begin, 10 * 2 * 4);
}

TEST(LaunchChunksTest, SurvivesStridesOfZeroAndHugeLengths) {
  Shapes shapes({10, 10});
  shapes.problem.k.token_stride = shapes.problem.k.head_stride = 0;
  for (Sequence& sequence : shapes.sequences) sequence.kv_len = int64_t{1} << 40;
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 1, .max_chunks = 8});
  EXPECT_EQ(chunks.size(), 1u);
  ExpectPartition(shapes.problem, chunks);
}

TEST(LaunchChunksTest, DescribesAChunkOfHeadsAsAProblem) {
  Shapes shapes({8}, 4);
  shapes.MakeHeadMajor(8);
  std::vector<float> q(4 * 8 * kDim);
  shapes.problem.q.data = q.data();
  std::vector<float> slopes(4), sinks(4);
  std::vector<uint16_t> mask(4 * 64);
  shapes.problem.alibi_slopes = slopes.data();
  shapes.problem.sinks = sinks.data();
  shapes.problem.mask_kind = TESSERA_MASK_ADDITIVE;
  shapes.problem.mask_dtype = TESSERA_DTYPE_BF16;
  shapes.sequences[0].mask = mask.data();
  shapes.sequences[0].mask_head_stride = 64;
  const auto chunks = SplitLaunch(shapes.problem, {.min_bytes = 1, .max_chunks = 2});
  ASSERT_EQ(chunks.size(), 2u);
  std::vector<Sequence> sequences;
  const AttentionProblem part = ProblemOf(shapes.problem, chunks[1], sequences);
  EXPECT_EQ(part.num_q_heads, 2);
  EXPECT_EQ(part.num_kv_heads, 2);
  EXPECT_EQ(part.q.data, q.data() + 2 * 8 * kDim);
  EXPECT_EQ(part.q.num_elements, 2 * 8 * kDim);
  EXPECT_EQ(part.alibi_slopes, slopes.data() + 2);
  EXPECT_EQ(part.sinks, sinks.data() + 2);
  EXPECT_EQ(part.sequences, sequences.data());
  EXPECT_EQ(part.sequences[0].mask, mask.data() + 2 * 64);
}

}  // namespace
}  // namespace tessera
