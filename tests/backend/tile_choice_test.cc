// ChooseTile(): the choice on a GPU-like and a CPU-like device, and what must hold for any problem.
#include "backend/core/tile_choice.h"

#include <algorithm>
#include <ostream>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/backend/seed.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::Shape;
using testing::TestProblem;

// A Hopper-like GPU: scores and accumulator live in registers, shared memory holds Q and the K/V stages.
TileLimits GpuLimits(int32_t element_bytes = 2) {
  return {.fast_memory_bytes = 227 * 1024,
          .compute_units = 132,
          .min_tile_q = 64,
          .max_tile_q = 192,
          .min_tile_kv = 32,
          .max_tile_kv = 256,
          .granularity_q = 64,
          .granularity_kv = 32,
          .efficient_tile_q = 64,
          .max_stages = 4,
          .max_splits = 128,
          .decode_tasks_per_unit = 1,
          .q_element_bytes = element_bytes,
          .kv_element_bytes = element_bytes,
          .score_element_bytes = 0,
          .accumulator_element_bytes = 0};
}

// A server CPU: 16 cores with 2 MiB of L2, everything packed to fp32.
TileLimits CpuLimits() {
  return {.fast_memory_bytes = 2 * 1024 * 1024,
          .compute_units = 16,
          .min_tile_q = 1,
          .max_tile_q = 256,
          .min_tile_kv = 16,
          .max_tile_kv = 512,
          .granularity_q = 1,
          .granularity_kv = 16,
          .efficient_tile_q = 64,
          .max_stages = 1,
          .max_splits = 16,
          .decode_tasks_per_unit = 8,
          .q_element_bytes = 4,
          .kv_element_bytes = 4,
          .score_element_bytes = 4,
          .accumulator_element_bytes = 4};
}

Shape Equal(int32_t heads, int32_t kv_heads, int32_t dim, std::vector<testing::Lengths> lengths) {
  return {.q_heads = heads,
          .kv_heads = kv_heads,
          .head_dim_qk = dim,
          .head_dim_v = dim,
          .sequences = std::move(lengths),
          .memory = false};
}

struct Case {
  const char* name;
  Shape shape;
  TileLimits limits;
  int32_t tile_q, tile_kv, stages, num_splits;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

const Case kCases[] = {
    // Q takes 192 x 128 x 2 = 48 KiB; two stages of K and V at 512 bytes a key leave 179 KiB for 160 + keys.
    {"gpu_bf16_d128_prefill_4k", Equal(16, 16, 128, {{4096, 4096}}), GpuLimits(), 192, 160, 2, 1},
    {"gpu_bf16_d64_prefill_4k", Equal(16, 16, 64, {{4096, 4096}}), GpuLimits(), 192, 256, 3, 1},
    {"gpu_bf16_d256_prefill_4k", Equal(16, 16, 256, {{4096, 4096}}), GpuLimits(), 192, 64, 2, 1},
    {"gpu_fp32_d256_prefill_4k", Equal(16, 16, 256, {{4096, 4096}}), GpuLimits(4), 64, 32, 2, 1},
    // Minimal tiles exceed the memory: they are taken all the same, single-buffered, and reported.
    {"gpu_fp32_d1024_prefill_4k", Equal(16, 16, 1024, {{4096, 4096}}), GpuLimits(4), 64, 32, 1, 1},
    // 8 query heads per kv head: 8 rows of a query share a tile. 8 tiles for 132 units, and keys for many
    // splits.
    {"gpu_bf16_d128_decode_gqa8_32k", Equal(64, 8, 128, {{1, 32768}}), GpuLimits(), 64, 192, 2, 15},
    // 32 x 8 tiles: enough work without splits.
    {"gpu_bf16_d128_decode_gqa8_batch32", Equal(64, 8, 128, std::vector<testing::Lengths>(32, {1, 4096})),
     GpuLimits(), 64, 192, 2, 1},
    // 256 keys: two splits of 4 minimal tiles are all there is.
    {"gpu_bf16_d128_decode_256", Equal(1, 1, 128, {{1, 256}}), GpuLimits(), 64, 32, 4, 2},
    {"gpu_bf16_d128_no_longer_than_needed", Equal(256, 256, 128, {{70, 40}}), GpuLimits(), 128, 64, 2, 1},

    // 256 rows of Q and O take 256 KiB, scores 1 KiB a key, K and V 1 KiB a key: 512 keys fit in 1.25 MiB.
    {"cpu_d128_prefill_4k", Equal(16, 16, 128, {{4096, 4096}}), CpuLimits(), 256, 512, 1, 1},
    // One head: 16 tiles of 256 rows are just enough.
    {"cpu_d128_one_head_4k", Equal(1, 1, 128, {{4096, 4096}}), CpuLimits(), 256, 512, 1, 1},
    // 4 tiles of 256 rows for 16 cores: rows shrink until there are 16, before any key is split.
    {"cpu_d64_one_head_1k", Equal(1, 1, 64, {{1024, 1024}}), CpuLimits(), 68, 512, 1, 1},
    // 4 tiles of 64 rows for 16 cores, 1024 keys: 4 splits of 4 tiles, so the tiles shrink to 64 keys.
    {"cpu_d64_one_head_256_rows_1k", Equal(1, 1, 64, {{256, 1024}}), CpuLimits(), 64, 64, 1, 4},
    {"cpu_d128_decode_gqa4_8k", Equal(8, 2, 128, {{1, 8192}}), CpuLimits(), 4, 256, 1, 8},
    // One row a head: 8 tasks a core.
    {"cpu_d128_decode_32k", Equal(16, 16, 128, {{1, 32768}}), CpuLimits(), 1, 512, 1, 8},
    // Keys for one split only: rows are dealt out instead.
    {"cpu_d128_short", Equal(1, 1, 128, {{64, 64}}), CpuLimits(), 4, 64, 1, 1},
    {"cpu_d128_nothing", Equal(4, 2, 128, {}), CpuLimits(), 1, 16, 1, 1},
    {"cpu_d128_no_keys", Equal(4, 2, 128, {{5, 0}}), CpuLimits(), 2, 16, 1, 1},
};

class TileChoiceTest : public ::testing::TestWithParam<Case> {};

TEST_P(TileChoiceTest, Chooses) {
  const Case& c = GetParam();
  const TestProblem problem(c.shape);
  const TileChoice choice = ChooseTile(problem.problem, c.limits);
  EXPECT_EQ(choice.tile_q, c.tile_q);
  EXPECT_EQ(choice.tile_kv, c.tile_kv);
  EXPECT_EQ(choice.stages, c.stages);
  EXPECT_EQ(choice.num_splits, c.num_splits);
}

INSTANTIATE_TEST_SUITE_P(All, TileChoiceTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

int64_t TileBytes(const AttentionProblem& p, const TileLimits& l, const TileChoice& c) {
  const int64_t dims = int64_t{p.head_dim_qk} + p.head_dim_v;
  return int64_t{c.tile_q} * p.head_dim_qk * l.q_element_bytes +
         int64_t{c.stages} * c.tile_kv * dims * l.kv_element_bytes +
         int64_t{c.tile_q} * c.tile_kv * l.score_element_bytes +
         int64_t{c.tile_q} * p.head_dim_v * l.accumulator_element_bytes;
}

// What the header promises, for problems and limits drawn at random.
TEST(TileChoicePropertyTest, HoldsForAnyProblem) {
  std::mt19937_64 random(testing::DrawSeed());
  const auto draw = [&random](int64_t low, int64_t high) {
    return static_cast<int32_t>(std::uniform_int_distribution<int64_t>(low, high)(random));
  };
  const auto length = [&] { return int64_t{draw(0, 1) == 0 ? draw(0, 20) : draw(0, 100000)}; };
  int splits_seen = 0;
  for (int round = 0; round < 20000; ++round) {
    const int32_t kv_heads = draw(1, 8);
    Shape shape = {.q_heads = kv_heads * draw(1, 8),
                   .kv_heads = kv_heads,
                   .head_dim_qk = draw(1, 600),
                   .head_dim_v = draw(1, 600),
                   .causal = draw(0, 1) == 0,
                   .memory = false};
    shape.sequences.clear();
    for (int n = draw(0, 5); n > 0; --n) shape.sequences.push_back({length(), length()});
    TestProblem problem(shape);
    for (Sequence& s : problem.sequences) s.window_left = draw(0, 2) == 0 ? draw(0, 5000) : -1;
    const AttentionProblem& p = problem.problem;

    TileLimits limits{};
    limits.fast_memory_bytes = draw(1 << 10, 1 << 22);
    limits.compute_units = draw(1, 200);
    limits.granularity_q = draw(1, 16);
    limits.granularity_kv = draw(1, 16);
    limits.min_tile_q = limits.granularity_q * draw(1, 4);
    limits.efficient_tile_q = draw(0, 200);
    limits.max_tile_q = limits.min_tile_q + limits.granularity_q * draw(0, 30);
    limits.min_tile_kv = limits.granularity_kv * draw(1, 4);
    limits.max_tile_kv = limits.min_tile_kv + limits.granularity_kv * draw(0, 30);
    limits.max_stages = draw(1, 5);
    limits.max_splits = draw(1, 130);
    limits.decode_tasks_per_unit = draw(1, 8);
    limits.q_element_bytes = draw(1, 4);
    limits.kv_element_bytes = draw(1, 4);
    limits.score_element_bytes = draw(0, 4);
    limits.accumulator_element_bytes = draw(0, 4);
    const TileChoice c = ChooseTile(p, limits);

    ASSERT_EQ(c.tile_q % limits.granularity_q, 0);
    ASSERT_EQ(c.tile_kv % limits.granularity_kv, 0);
    ASSERT_TRUE(limits.min_tile_q <= c.tile_q && c.tile_q <= limits.max_tile_q) << c.tile_q;
    ASSERT_TRUE(limits.min_tile_kv <= c.tile_kv && c.tile_kv <= limits.max_tile_kv) << c.tile_kv;
    ASSERT_TRUE(1 <= c.stages && c.stages <= limits.max_stages) << c.stages;
    ASSERT_TRUE(1 <= c.num_splits && c.num_splits <= limits.max_splits) << c.num_splits;
    ASSERT_EQ(c.fast_memory_bytes, TileBytes(p, limits, c));
    const TileChoice minimal = {limits.min_tile_q, limits.min_tile_kv, 1, 1, 0};
    if (c.fast_memory_bytes > limits.fast_memory_bytes) {
      ASSERT_GT(TileBytes(p, limits, minimal), limits.fast_memory_bytes);
      ASSERT_EQ(c.fast_memory_bytes, TileBytes(p, limits, minimal));
    }
    const int64_t group = p.num_q_heads / p.num_kv_heads;
    int64_t tasks = 0, longest_rows = 0, longest_kv = 0;
    for (const Sequence& s : problem.sequences) {
      tasks += (s.q_len * group + c.tile_q - 1) / c.tile_q * kv_heads;
      longest_rows = std::max(longest_rows, s.q_len * group);
      longest_kv = std::max(longest_kv, s.kv_len);
    }
    ASSERT_LT(c.tile_q, std::max<int64_t>(limits.min_tile_q + 1, longest_rows + limits.granularity_q));
    ASSERT_LT(c.tile_kv, std::max<int64_t>(limits.min_tile_kv + 1, longest_kv + limits.granularity_kv));
    if (c.num_splits > 1) {
      ++splits_seen;
      const bool decoding = longest_rows <= limits.min_tile_q;
      ASSERT_LT(tasks, limits.compute_units * (decoding ? limits.decode_tasks_per_unit : 1));
      ASSERT_GE(longest_kv, int64_t{4} * c.num_splits * c.tile_kv);
    }
  }
  EXPECT_GT(splits_seen, 0);
}

TEST(TileChoicePropertyTest, WindowBoundsTheKeysOfATile) {
  TestProblem problem(Equal(1, 1, 128, {{1, 100000}}));
  problem.sequences[0].window_left = 40;
  problem.sequences[0].window_right = 0;
  const TileChoice choice = ChooseTile(problem.problem, CpuLimits());
  EXPECT_EQ(choice.tile_kv, 48);  // 41 keys
  EXPECT_EQ(choice.num_splits, 1);
}

}  // namespace
}  // namespace tessera
