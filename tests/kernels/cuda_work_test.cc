// The order in which CUDA kernels draw their tiles, and which rows and keys a tile has: code of the kernels
// that runs on the host as well, so no GPU is needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/row_tiling.h"
#include "tests/kernels/cuda_batch.h"

namespace tessera::kernels::cuda {
namespace {

constexpr int32_t kTileQ = 128, kKvHeads = 2;
// Of a head's keys and values for one token: bf16, head dim 128.
constexpr int64_t kTokenBytes = 512;

struct Lengths {
  const char* name;
  std::vector<std::pair<int64_t, int64_t>> of_sequences;  // queries, keys
};

std::vector<Lengths> AllLengths() {
  std::vector<std::pair<int64_t, int64_t>> many;
  for (int64_t n = 0; n < 100; ++n) many.emplace_back(n * 37 % 90, n * 53 % 200);
  return {{"uniform", {{300, 300}, {300, 300}, {300, 300}}},
          {"ragged", {{17, 40}, {700, 700}, {130, 9}, {129, 400}, {1, 1}}},
          {"with_empty", {{0, 900}, {64, 64}, {0, 0}, {200, 64}, {0, 1}, {5, 0}, {0, 0}}},
          {"decode", {{1, 100}, {1, 7}, {1, 3000}, {1, 500}}},
          {"many", many},  // more than the parameters hold
          {"all_empty", {{0, 10}, {0, 0}}},
          {"none", {}}};
}

using OrderCase = std::tuple<int32_t, bool, int64_t, Lengths>;  // group, packed, L2 bytes, lengths

std::string OrderName(const testing::TestParamInfo<OrderCase>& info) {
  const auto& [group, packed, l2_bytes, lengths] = info.param;
  return std::string(lengths.name) + "_group" + std::to_string(group) + (packed ? "_packed" : "_whole") +
         "_l2_" + std::to_string(l2_bytes);
}

class TileOrderTest : public testing::TestWithParam<OrderCase> {
 protected:
  static CudaBatch Batch() {
    const auto& [group, packed, l2_bytes, lengths] = GetParam();
    CudaBatch batch(group * kKvHeads, kKvHeads);
    for (const auto& [queries, keys] : lengths.of_sequences) batch.Add(queries, keys);
    return batch;
  }
  static RowTiling Tiling(const CudaBatch& batch) {
    return std::get<1>(GetParam()) ? PackRows(batch.problem, kTileQ) : WholeGroups(batch.problem, kTileQ);
  }
  static int64_t L2Bytes() { return std::get<2>(GetParam()); }

  const CudaBatch batch_ = Batch();
  const RowTiling tiling_ = Tiling(batch_);
  const HostLaunch launch_{batch_, tiling_, L2Bytes()};
  const DeviceProblem& problem_ = launch_.problem;
};

TEST_P(TileOrderTest, VisitsEveryRowOnce) {
  ASSERT_EQ(IndexLimit(batch_.problem, tiling_), "");
  int64_t tokens = 0;  // sequences lie behind one another
  for (const tessera_sequence& s : batch_.sequences) tokens += s.q_len;
  std::vector<int> visits(static_cast<size_t>(tokens * problem_.num_q_heads));
  for (int32_t block = 0; block < problem_.num_blocks(); ++block) {
    const BlockWork work = FindWork(problem_, block);
    const int32_t end = std::min(work.first_row + problem_.tile_rows, work.num_rows);
    ASSERT_EQ(work.first_row % problem_.tile_rows, 0);
    ASSERT_LT(work.first_row, end);
    for (int32_t row = work.first_row; row < end; ++row) {
      ASSERT_LT(work.Query(row), work.sequence.q_len);
      ASSERT_EQ(work.Head(row) / problem_.group, work.kv_head);
      const int64_t token = work.sequence.q_begin + work.Query(row);
      ++visits.at(static_cast<size_t>(token * problem_.num_q_heads + work.Head(row)));
    }
  }
  EXPECT_EQ(visits, std::vector<int>(visits.size(), 1));
}

TEST_P(TileOrderTest, TilesOfAGroupFallInLengthAndShareTheL2) {
  for (int32_t block = 0; block < problem_.num_blocks();) {
    const DeviceSequence& run = problem_.sequences()[FindTile(problem_, block).sequence];
    const int32_t run_end =
        (run.first_tile + static_cast<int32_t>(tiling_.Tiles(run.q_len)) * run.run_length) *
        problem_.num_row_heads;
    // The blocks of the next group.
    const int32_t tiles = static_cast<int32_t>(tiling_.Tiles(run.q_len));
    const int32_t end = std::min(run_end, block + tiles * run.group_pairs);
    std::set<std::array<int32_t, 2>> pairs, kv_heads;
    int32_t first_row = (tiles - 1) * problem_.tile_rows;
    int64_t keys = 0;
    for (; block < end; ++block) {
      const TileIndex tile = FindTile(problem_, block);
      ASSERT_LE(tile.first_row, first_row) << "block " << block;
      first_row = tile.first_row;
      pairs.insert({tile.sequence, tile.row_head});
      const BlockWork work = WorkOf(problem_, tile);
      kv_heads.insert({tile.sequence, work.kv_head});
      keys = std::max<int64_t>(keys, work.sequence.kv_len);
    }
    EXPECT_EQ(first_row, 0);
    if (L2Bytes() == 0) {
      EXPECT_EQ(pairs.size(), 1u);
    } else if (kv_heads.size() > 1) {
      EXPECT_LE(static_cast<int64_t>(kv_heads.size()) * keys * kTokenBytes, L2Bytes());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, TileOrderTest,
                         testing::Combine(testing::Values(1, 3, 4, 7, 8, 71, 128, 300), testing::Bool(),
                                          testing::Values<int64_t>(0, 300 * 3 * kTokenBytes, 1 << 30),
                                          testing::ValuesIn(AllLengths())),
                         OrderName);

TEST(TileOrderTest, WalksPairsTogetherThatFitTheL2InEvenGroups) {
  CudaBatch batch(10, 5);  // 2 query heads on each of 5 kv heads
  batch.Add(128, 1000);
  batch.Add(128, 1000);
  const RowTiling one_head{1, 128}, both_heads{2, 128};
  const int64_t head_bytes = 1000 * kTokenBytes;
  const auto group_pairs = [&](const RowTiling& tiling, int64_t l2_bytes) {
    return HostLaunch(batch, tiling, l2_bytes).problem.sequences()[0].group_pairs;
  };
  EXPECT_EQ(group_pairs(both_heads, 0), 1);
  EXPECT_EQ(group_pairs(both_heads, -1), 1);
  EXPECT_EQ(group_pairs(both_heads, 1), 1);
  EXPECT_EQ(group_pairs(one_head, 1), 2);  // both query heads need the same keys
  EXPECT_EQ(group_pairs(both_heads, 3 * head_bytes - 1), 2);
  EXPECT_EQ(group_pairs(both_heads, 3 * head_bytes), 3);  // 10 in groups of 3, 3, 3, 1
  EXPECT_EQ(group_pairs(both_heads, 9 * head_bytes), 5);  // not 9 and 1
  EXPECT_EQ(group_pairs(one_head, 9 * head_bytes), 10);
  EXPECT_EQ(group_pairs(both_heads, 99 * head_bytes), 10);
}

TEST(TileOrderTest, StartsTheLongestTilesOfAllPairsFirst) {
  CudaBatch batch(2, 2);
  batch.Add(256, 256);
  batch.Add(256, 256);
  for (tessera_sequence& s : batch.sequences) s.window_right = 0;
  const HostLaunch launch(batch, {1, 128}, 1 << 30);
  ASSERT_EQ(launch.problem.num_blocks(), 8);
  std::vector<std::array<int32_t, 3>> order;
  for (int32_t block = 0; block < 8; ++block) {
    const TileIndex tile = FindTile(launch.problem, block);
    order.push_back({tile.sequence, tile.row_head, tile.first_row});
  }
  const std::vector<std::array<int32_t, 3>> expected = {{0, 0, 128}, {0, 1, 128}, {1, 0, 128}, {1, 1, 128},
                                                        {0, 0, 0},   {0, 1, 0},   {1, 0, 0},   {1, 1, 0}};
  EXPECT_EQ(order, expected);
}

TEST(BlockWorkTest, DividesExactly) {
  DeviceSequence sequence{};
  for (int32_t rows_per_query : {1, 2, 3, 7, 71, 127, 128, 129, 255, 256, 300, 32767}) {
    sequence.q_len = static_cast<int32_t>(kMaxPosition / kMaxGroup) - 1;
    const int32_t num_rows = sequence.q_len * rows_per_query;
    for (int32_t first_row : {0, 1, rows_per_query - 1, rows_per_query, num_rows / 2, num_rows - 200}) {
      first_row = std::max(first_row, 0);
      const BlockWork work(sequence, rows_per_query, /*row_head=*/5, /*kv_head=*/0, first_row);
      for (int32_t row = first_row; row < first_row + 256; ++row) {
        const int32_t at = std::min(row, num_rows - 1);
        ASSERT_EQ(work.Query(row), at / rows_per_query) << row << " of " << rows_per_query;
        ASSERT_EQ(work.Head(row), 5 * rows_per_query + at % rows_per_query)
            << row << " of " << rows_per_query;
      }
    }
  }
}

struct WindowCase {
  const char* name;
  int64_t q_len, kv_len, diagonal, left, right;
};

class KeyWalkTest : public testing::TestWithParam<WindowCase> {
 protected:
  // By the definition in tessera/attention.h.
  static bool Sees(int64_t query, int64_t key) {
    const WindowCase& c = GetParam();
    return key < c.kv_len && (c.left < 0 || key >= query + c.diagonal - c.left) &&
           (c.right < 0 || key <= query + c.diagonal + c.right);
  }

  static void CheckTile(const BlockWork& work, int32_t tile_rows, int32_t tile_kv) {
    const KeyWalk walk = WalkOf(work, tile_rows, tile_kv);
    ASSERT_LE(0, walk.first_tile);
    ASSERT_LE(walk.first_tile, walk.full_first_tile);
    ASSERT_LE(walk.full_first_tile, walk.full_end_tile);
    ASSERT_LE(walk.full_end_tile, walk.end_tile);
    const int32_t last_row = std::min(work.first_row + tile_rows, work.num_rows) - 1;
    const int32_t first = work.Query(work.first_row), last = work.Query(last_row);
    const bool has_full = walk.full_first_tile < walk.full_end_tile;
    for (int32_t tile = 0; tile < 3 + GetParam().kv_len / tile_kv; ++tile) {
      bool some = false, all = true, right_cut = false;
      for (int32_t key = tile * tile_kv; key < (tile + 1) * tile_kv; ++key) {
        for (int32_t query = first; query <= last; ++query) {
          const bool sees = Sees(query, key);
          some |= sees;
          all &= sees;
          right_cut |=
              !sees && (key >= GetParam().kv_len ||
                        (GetParam().right >= 0 && key > query + GetParam().diagonal + GetParam().right));
        }
      }
      ASSERT_EQ(tile >= walk.first_tile && tile < walk.end_tile, some) << "tile " << tile;
      ASSERT_EQ(walk.IsFull(tile), all) << "tile " << tile;
      if (!some || all) continue;
      if (has_full) {
        ASSERT_EQ(tile >= walk.full_end_tile, right_cut) << "tile " << tile;
      } else {
        ASSERT_GE(tile, walk.full_end_tile) << "tile " << tile;
      }
    }
  }

  // Whatever a part leaves out or calls full must be so for each of its rows.
  static void CheckPart(const BlockWork& work, int32_t first_row, int32_t rows, int32_t tile_rows,
                        int32_t tile_kv) {
    KeyWalk walk = WalkOf(work, tile_rows, tile_kv);
    walk.end_tile = std::max(walk.end_tile, walk.first_tile + 1);
    const KeyWalk part = PartOf(walk, work, first_row, rows, tile_kv);
    ASSERT_LT(part.first_tile, part.end_tile);
    ASSERT_GE(part.first_tile, walk.first_tile);
    ASSERT_LE(part.first_tile, walk.first_tile + 1);
    ASSERT_LE(part.end_tile, walk.end_tile);
    ASSERT_GE(part.end_tile, walk.end_tile - 1);
    const int32_t first = work.Query(work.first_row + first_row);
    const int32_t last = work.Query(work.first_row + first_row + rows - 1);
    for (int32_t tile = walk.first_tile; tile < walk.end_tile; ++tile) {
      bool some = false, all = true;
      for (int32_t key = tile * tile_kv; key < (tile + 1) * tile_kv; ++key) {
        for (int32_t query = first; query <= last; ++query) {
          some |= Sees(query, key);
          all &= Sees(query, key);
        }
      }
      ASSERT_TRUE((tile >= part.first_tile && tile < part.end_tile) || !some) << "tile " << tile;
      ASSERT_TRUE(!part.IsFull(tile) || all) << "tile " << tile;
    }
  }
};

TEST_P(KeyWalkTest, AgreesWithTheDefinitionOfTheWindow) {
  const WindowCase& c = GetParam();
  for (const auto& [rows_per_query, tile_rows] : {std::pair(1, 32), std::pair(3, 30), std::pair(5, 32)}) {
    CudaBatch batch(rows_per_query, 1);
    batch.Add(c.q_len, c.kv_len);
    tessera_sequence& s = batch.sequences[0];
    s.diagonal_offset = c.diagonal;
    s.window_left = c.left;
    s.window_right = c.right;
    const HostLaunch launch(batch, {rows_per_query, tile_rows}, 0);
    for (int32_t block = 0; block < launch.problem.num_blocks(); ++block) {
      const BlockWork work = FindWork(launch.problem, block);
      for (int32_t tile_kv : {16, 24}) {
        SCOPED_TRACE("rows_per_query " + std::to_string(rows_per_query) + ", tile_kv " +
                     std::to_string(tile_kv) + ", first_row " + std::to_string(work.first_row));
        ASSERT_NO_FATAL_FAILURE(CheckTile(work, tile_rows, tile_kv));
        for (int32_t first_row = 0; first_row < tile_rows; first_row += 8) {
          const int32_t rows = std::min(8, tile_rows - first_row);
          ASSERT_NO_FATAL_FAILURE(CheckPart(work, first_row, rows, tile_rows, tile_kv));
        }
      }
    }
  }
}

constexpr int64_t kFar = int64_t{1} << 39;
INSTANTIATE_TEST_SUITE_P(
    Windows, KeyWalkTest,
    testing::Values(
        WindowCase{"full", 100, 150, 0, -1, -1}, WindowCase{"full_aligned", 64, 96, 0, -1, -1},
        WindowCase{"causal_square", 150, 150, 0, -1, 0},
        WindowCase{"causal_bottom_right", 70, 200, 130, -1, 0},
        WindowCase{"causal_top_left", 70, 200, 0, -1, 0},
        WindowCase{"causal_top_left_more_queries", 200, 70, 0, -1, 0},
        WindowCase{"causal_bottom_right_more_queries", 200, 70, -130, -1, 0},
        WindowCase{"window_left", 150, 150, 0, 20, 0}, WindowCase{"window_wide", 150, 400, 250, 200, 0},
        WindowCase{"window_both_sides", 150, 150, 0, 60, 70},
        WindowCase{"window_right_only", 150, 150, 0, -1, 9}, WindowCase{"window_of_one_key", 90, 90, 0, 0, 0},
        WindowCase{"left_only", 150, 150, 0, 40, -1}, WindowCase{"left_of_the_keys", 50, 50, -kFar, 10, 0},
        WindowCase{"right_of_the_keys", 50, 50, kFar, 10, 0},
        WindowCase{"far_but_wide", 50, 50, kFar, kFar + 5, 0}, WindowCase{"no_keys", 50, 0, 0, -1, 0},
        WindowCase{"no_keys_no_window", 50, 0, 0, -1, -1}, WindowCase{"one_query", 1, 333, 332, -1, 0},
        WindowCase{"one_query_window", 1, 333, 332, 100, 0}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(KeyWalkTest, HoldsThePositionsAtTheLimits) {
  DeviceSequence s{};
  s.q_len = s.kv_len = static_cast<int32_t>(kMaxPosition - 1);
  s.first_shift = static_cast<int32_t>(-kMaxPosition);
  s.last_shift = static_cast<int32_t>(kMaxPosition);
  const int32_t last_row = (s.q_len - 1) / 128 * 128;
  const KeyWalk all = WalkOf(BlockWork(s, 1, 0, 0, last_row), 128, 128);
  EXPECT_EQ(all.end_tile, (s.kv_len + 127) / 128);
  EXPECT_EQ(all.full_end_tile, s.kv_len / 128);
  s.first_shift = s.last_shift;
  const KeyWalk none = WalkOf(BlockWork(s, 1, 0, 0, last_row), 128, 128);
  EXPECT_EQ(none.first_tile, 0);
  EXPECT_EQ(none.end_tile, 0);
}

struct PackCase {
  int32_t group;
  std::vector<int64_t> q_lens;
  int32_t tile_q, rows_per_query, tile_rows;
};

TEST(PackRowsTest, TakesTheFewestTilesAndThenTheMostHeads) {
  const PackCase cases[] = {
      {1, {1000}, 128, 1, 128},       {4, {8192}, 128, 4, 128},  // as many tiles either way
      {4, {1, 1, 1}, 128, 4, 128},                               // one tile for four heads
      {3, {128}, 128, 1, 128},                                   // 3 tiles of 128 rows; packed, 4 of 126
      {3, {126}, 128, 3, 126},                                   // 3 tiles either way
      {3, {1, 1}, 128, 3, 126},                                  // one tile
      {6, {129}, 128, 6, 126},         // 7 tiles of 21 queries, instead of 12 of one head
      {7, {8192}, 128, 1, 128},        // 126 rows would waste
      {71, {1}, 128, 71, 71},          //
      {71, {8192}, 128, 1, 128},       //
      {128, {1}, 128, 128, 128},       //
      {300, {1}, 128, 100, 100},       // the most that a tile holds
      {300, {1}, 192, 150, 150},       //
      {1024, {1}, 1024, 256, 1024},    // no box has more
      {8, {}, 128, 8, 128},            // nothing to do
      {4, {0, 0}, 192, 4, 192},        //
      {7, {1, 8192}, 128, 1, 128},     // the long sequence decides
      {5, {1, 1, 1, 1}, 192, 5, 190},  //
  };
  for (const PackCase& c : cases) {
    CudaBatch batch(c.group * kKvHeads, kKvHeads);
    for (int64_t q_len : c.q_lens) batch.Add(q_len, q_len);
    const RowTiling tiling = PackRows(batch.problem, c.tile_q);
    EXPECT_EQ(tiling.rows_per_query, c.rows_per_query) << "group " << c.group;
    EXPECT_EQ(tiling.tile_rows, c.tile_rows) << "group " << c.group;
  }
}

}  // namespace
}  // namespace tessera::kernels::cuda
