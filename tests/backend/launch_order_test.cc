// The order that the traffic model replays a launch in against the one that CUDA kernels draw tiles in: their
// code runs on the host as well, so no GPU is needed.
#include "backend/core/launch_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/row_tiling.h"
#include "tests/backend/seed.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using kernels::cuda::BlockWork;
using kernels::cuda::DeviceProblem;
using kernels::cuda::FillDeviceProblem;
using kernels::cuda::FindWork;
using testing::TestProblem;

constexpr int32_t kTileQ = 12;

TEST(LaunchOrderTest, IsThatOfTheKernels) {
  std::mt19937_64 random(testing::DrawSeed());
  const auto draw = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int round = 0; round < 500; ++round) {
    const auto kv_heads = static_cast<int32_t>(draw(1, 3));
    const auto group = static_cast<int32_t>(draw(1, 4));
    std::vector<testing::Lengths> lengths;
    for (int64_t n = draw(1, 8); n > 0; --n) lengths.push_back({draw(1, 60), draw(60, 90)});
    TestProblem shape({.q_heads = kv_heads * group,
                       .kv_heads = kv_heads,
                       .sequences = lengths,
                       .lse = false,
                       .causal = draw(0, 1) == 0});
    const AttentionProblem& p = shape.problem;
    const int64_t walked_bytes = draw(0, 8) * 90 * KeyBytes(p);
    Plan plan{};
    plan.tile_q = kTileQ;
    plan.tile_kv = 8;

    DeviceProblem device;
    std::vector<std::byte> tables =
        FillDeviceProblem(p, kernels::cuda::WholeGroups(p, kTileQ), walked_bytes, &device);
    if (!tables.empty()) device.tables = tables.data();
    LaunchOrder order(p, plan, walked_bytes);
    ASSERT_EQ(order.num_tiles(), device.num_blocks());
    RowTile tile;
    for (int32_t block = 0; block < device.num_blocks(); ++block) {
      const BlockWork work = FindWork(device, block);
      const int64_t last_row = std::min(work.first_row + kTileQ, work.num_rows) - 1;
      const Sequence& s = p.sequences[work.sequence.number];
      const KeyRange keys = KeysRead(s, ScheduleOf(p, s, plan), work.first_row, last_row);
      ASSERT_TRUE(order.Next(&tile));
      ASSERT_EQ(tile.pair, int64_t{work.sequence.number} * kv_heads + work.kv_head) << "block " << block;
      ASSERT_EQ(tile.keys.begin, keys.begin) << "block " << block;
      ASSERT_EQ(tile.keys.end, keys.end) << "block " << block;
    }
    EXPECT_FALSE(order.Next(&tile));
    EXPECT_FALSE(order.Next(&tile));
  }
}

}  // namespace
}  // namespace tessera
