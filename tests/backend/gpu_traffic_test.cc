// The traffic model of a GPU against a finer and simpler simulation: blocks that start in launch order where
// one ends, walk their keys tile by tile and in step from the last to the first, and read through a cache.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <list>
#include <queue>
#include <random>
#include <unordered_map>
#include <vector>

#include "backend/core/ledger.h"
#include "gtest/gtest.h"
#include "tests/backend/seed.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::TestProblem;

enum class Eviction { kLeastRecentlyUsed, kRandom };

// Blocks of different sizes, by number.
class Cache {
 public:
  Cache(int64_t bytes, Eviction eviction, uint64_t seed)
      : capacity_(bytes), eviction_(eviction), random_(seed) {}

  // Whether the block was there; it is then, if it fits at all.
  bool Touch(int64_t block, int64_t bytes) {
    if (const auto found = entries_.find(block); found != entries_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second.place);
      return true;
    }
    if (bytes > capacity_) return false;
    while (used_ + bytes > capacity_) Evict();
    recent_.push_front(block);
    numbers_.push_back(block);
    entries_[block] = {recent_.begin(), numbers_.size() - 1, bytes};
    used_ += bytes;
    return false;
  }

 private:
  struct Entry {
    std::list<int64_t>::iterator place;
    size_t number;
    int64_t bytes;
  };

  void Evict() {
    const int64_t victim =
        eviction_ == Eviction::kRandom ? numbers_[random_() % numbers_.size()] : recent_.back();
    const Entry entry = entries_[victim];
    entries_.erase(victim);
    recent_.erase(entry.place);
    used_ -= entry.bytes;
    if (entry.number + 1 < numbers_.size()) {
      numbers_[entry.number] = numbers_.back();
      entries_[numbers_.back()].number = entry.number;
    }
    numbers_.pop_back();
  }

  const int64_t capacity_;
  const Eviction eviction_;
  std::mt19937_64 random_;
  int64_t used_ = 0;
  std::list<int64_t> recent_;     // most recent first
  std::vector<int64_t> numbers_;  // in no order: to draw one at random
  std::unordered_map<int64_t, Entry> entries_;
};

// Two partitions: each is home to every other block, and keeps what multiprocessors on its side read of the
// other's.
class PartitionedCache {
 public:
  PartitionedCache(int64_t bytes, Eviction eviction, uint64_t seed)
      : partitions_{Cache(bytes / 2, eviction, seed), Cache(bytes / 2, eviction, seed + 1)} {}

  // For a multiprocessor on `side`, 0 or 1. Whether the block was in a partition where it was looked for.
  bool Touch(int64_t block, int64_t bytes, int64_t side) {
    const int64_t home = block % 2;
    return (side != home && partitions_[side].Touch(block, bytes)) || partitions_[home].Touch(block, bytes);
  }

 private:
  std::array<Cache, 2> partitions_;
};

// One row tile of one (sequence, kv head) pair.
struct Block {
  int64_t pair;
  int64_t first_tile, end_tile;  // of keys
};

std::vector<Block> BlocksInLaunchOrder(const AttentionProblem& p, const Plan& plan) {
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  std::vector<Block> blocks;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const Sequence& s = p.sequences[n];
    const int64_t rows = s.q_len * group, tiles = (rows + plan.tile_q - 1) / plan.tile_q;
    for (int32_t head = 0; head < p.num_kv_heads; ++head) {
      for (int64_t tile = tiles - 1; tile >= 0; --tile) {
        const int64_t last_row = std::min((tile + 1) * plan.tile_q, rows) - 1;
        const int64_t begin = VisibleKeys(s, tile * plan.tile_q / group).begin;
        const int64_t end = VisibleKeys(s, last_row / group).end;
        blocks.push_back({n * p.num_kv_heads + head, begin / plan.tile_kv,
                          (std::max(begin, end) + plan.tile_kv - 1) / plan.tile_kv});
      }
    }
  }
  return blocks;
}

// K and V bytes from memory when `slots` blocks run at once. Lengths are multiples of the tiles.
int64_t SimulatedKvBytes(const AttentionProblem& p, const Plan& plan, int64_t slots, PartitionedCache& cache,
                         uint64_t seed) {
  const std::vector<Block> blocks = BlocksInLaunchOrder(p, plan);
  const int64_t element = DTypeSize(p.q.dtype);
  const int64_t kv_bytes = int64_t{plan.tile_kv} * (p.head_dim_qk + p.head_dim_v) * element;
  const int64_t q_bytes = plan.tile_q * p.head_dim_qk * element;
  const int64_t o_bytes = plan.tile_q * p.head_dim_v * element;
  // Numbers of cached blocks.
  constexpr int64_t kPairStride = int64_t{1} << 32, kQuery = int64_t{1} << 62, kOutput = int64_t{1} << 61;
  // One K/V tile of one block; at equal times that of the block launched first.
  struct Step {
    int64_t time, block, tile, side;
    bool operator>(const Step& other) const {
      return time != other.time ? time > other.time : block > other.block;
    }
  };
  std::priority_queue<Step, std::vector<Step>, std::greater<>> steps;
  int64_t next = 0, bytes = 0;
  const auto start = [&](int64_t time, int64_t side) {
    if (next == static_cast<int64_t>(blocks.size())) return;
    cache.Touch(kQuery + next, q_bytes, next % 2);
    steps.push({time, next, blocks[next].end_tile - 1, side});
    ++next;
  };
  std::mt19937_64 random(seed);
  for (int64_t slot = 0; slot < slots; ++slot) start(0, static_cast<int64_t>(random() % 2));
  while (!steps.empty()) {
    const Step step = steps.top();
    steps.pop();
    const Block& block = blocks[step.block];
    if (step.tile >= block.first_tile) {
      if (!cache.Touch(block.pair * kPairStride + step.tile, kv_bytes, step.side)) bytes += kv_bytes;
      steps.push({step.time + 1, step.block, step.tile - 1, step.side});
    } else {
      cache.Touch(kOutput + step.block, o_bytes, step.block % 2);
      start(step.time, step.side);
    }
  }
  return bytes;
}

struct Launch {
  const char* name;
  int32_t q_heads, kv_heads;
  std::vector<testing::Lengths> sequences;
  int64_t window_left, window_right;
};

constexpr int64_t kSlots = 33, kTileQ = 16, kTileKv = 8, kDim = 8, kElement = 2;
// Bytes of K and V that the tiles of a wave are spread over along a causal diagonal: what a partition must
// hold at least. An H200, either of whose partitions is about 1.8 times as large, is this launch with
// everything 8 times larger.
constexpr int64_t kSkewBytes = kSlots * kTileQ * 2 * kDim * kElement;

// Modelled and simulated reads, in units of reading everything once.
struct Reads {
  double model, least_recently_used, random;
};

Reads ReadsOf(const Launch& launch, int64_t cache_bytes, uint64_t seed) {
  TestProblem problem({.q_heads = launch.q_heads,
                       .kv_heads = launch.kv_heads,
                       .head_dim_qk = kDim,
                       .head_dim_v = kDim,
                       .sequences = launch.sequences,
                       .dtype = TESSERA_DTYPE_BF16,
                       .lse = false});
  for (Sequence& s : problem.sequences) {
    s.window_left = launch.window_left;
    s.window_right = launch.window_right;
  }
  const AttentionProblem& p = problem.problem;
  Plan plan{};
  plan.tile_q = kTileQ;
  plan.tile_kv = kTileKv;
  plan.num_splits = 1;
  const int64_t q = SizeOf(p).q_tokens * p.num_q_heads * kDim * kElement;
  const auto once = static_cast<double>(q + SizeOf(p).kv_tokens * p.num_kv_heads * 2 * kDim * kElement);
  // The mean: which side of the cache a slot reads by is drawn, and 33 slots are few.
  const auto simulated = [&](Eviction eviction) {
    constexpr uint64_t kRuns = 8;
    double reads = 0;
    for (uint64_t run = seed; run < seed + kRuns; ++run) {
      PartitionedCache cache(cache_bytes, eviction, run);
      reads += static_cast<double>(q + SimulatedKvBytes(p, plan, kSlots, cache, run)) / once;
    }
    return reads / kRuns;
  };
  const ModelledTraffic traffic = FusedTraffic(p, plan, cache_bytes, {.concurrent_tiles = kSlots});
  return {static_cast<double>(traffic.read_bytes) / once, simulated(Eviction::kLeastRecentlyUsed),
          simulated(Eviction::kRandom)};
}

// What a GPU evicts is not known: the model must lie between the two, or near the nearer.
void ExpectNear(const Launch& launch, double cache_in_skews, uint64_t seed) {
  const Reads reads = ReadsOf(launch, static_cast<int64_t>(2 * cache_in_skews * kSkewBytes), seed);
  EXPECT_GE(reads.model, 0.85 * std::min(reads.least_recently_used, reads.random))
      << launch.name << ", cache " << cache_in_skews;
  EXPECT_LE(reads.model, 1.15 * std::max(reads.least_recently_used, reads.random))
      << launch.name << ", cache " << cache_in_skews;
}

const std::vector<testing::Lengths> kRagged = {{1024, 1024}, {512, 512}, {256, 256}, {64, 64}, {32, 32}};

TEST(GpuTrafficTest, AgreesWithSimulatedCache) {
  const std::vector<Launch> launches = {
      {"full, long", 4, 4, {{1024, 1024}}, -1, -1},
      {"full, grouped heads", 8, 2, {{1024, 1024}}, -1, -1},
      {"full, many heads", 16, 16, {{256, 256}}, -1, -1},
      {"full, batch", 16, 16, {{64, 64}, {64, 64}, {64, 64}, {64, 64}}, -1, -1},
      {"full, ragged", 4, 4, kRagged, -1, -1},
      {"causal, long", 4, 4, {{1024, 1024}}, -1, 0},
      {"causal, longer", 4, 4, {{2048, 2048}}, -1, 0},
      {"causal, grouped heads", 8, 2, {{1024, 1024}}, -1, 0},
      {"causal, many heads", 16, 16, {{256, 256}}, -1, 0},
      {"causal, batch", 16, 16, {{64, 64}, {64, 64}, {64, 64}, {64, 64}}, -1, 0},
      {"causal, ragged", 4, 4, kRagged, -1, 0},
      {"last chunk of a prompt", 4, 4, {{256, 2048}}, -1, 0},
      {"window", 4, 4, {{1024, 1024}}, 127, 0},
      {"decoding", 32, 8, {{1, 1024}, {1, 1024}, {1, 1024}}, -1, 0},
  };
  const uint64_t seed = testing::DrawSeed();
  for (const Launch& launch : launches) {
    for (const double cache_in_skews : {1.5, 1.8, 2.2, 6.0}) ExpectNear(launch, cache_in_skews, seed);
  }
}

TEST(GpuTrafficTest, SmallCacheIsReadOncePerWave) {
  // 64 tiles of each of 4 heads in waves of 33: 8 waves, of which 3 are cut by the end of a head.
  const Launch launch{"full, long", 4, 4, {{1024, 1024}}, -1, -1};
  const double kv_reads = (8 + 3) / 4.0;
  // Either partition holds a quarter of a head: the tiles of a wave are as far from each other as their
  // speeds make them, and no wave finds what the one before it began with.
  const Reads reads = ReadsOf(launch, 2 * 32 * kTileKv * 2 * kDim * kElement, testing::DrawSeed());
  EXPECT_NEAR(reads.least_recently_used, (kv_reads * 2 + 1) / 3, 1e-9);
  // Speeds part a few tiles by more than the cache holds.
  EXPECT_NEAR(reads.model, (kv_reads * 2 + 1) / 3, 0.03 * reads.model);
}

TEST(GpuTrafficTest, TilesOutOfStepNeedRoomForAllTheirKeys) {
  const Launch launch{"causal, long", 4, 4, {{1024, 1024}}, -1, 0};
  EXPECT_GT(ReadsOf(launch, kSkewBytes, testing::DrawSeed()).model, 5);
}

TEST(GpuTrafficTest, LargeCacheIsReadOnce) {
  for (const int64_t window_right : {-1, 0}) {
    const Launch launch{"", 4, 4, kRagged, -1, window_right};
    EXPECT_EQ(ReadsOf(launch, int64_t{1} << 30, testing::DrawSeed()).model, 1);
  }
}

// A dry run may name any valid lengths: the model must neither walk them nor overflow.
TEST(GpuTrafficTest, HugeDryRunIsQuickAndSaturates) {
  TestProblem problem(
      {.q_heads = 4, .kv_heads = 2, .head_dim_qk = 8, .head_dim_v = 8, .sequences = {{1, 1}}});
  Sequence& s = problem.sequences[0];
  s.q_len = s.kv_len = kMaxExtent;
  Plan plan{};
  plan.tile_q = plan.tile_kv = 1;
  plan.num_splits = 1;
  for (const int64_t window_right : {-1, 0}) {
    for (const int64_t window_left : {-1, 1000}) {
      s.diagonal_offset = 0;
      s.window_left = window_left;
      s.window_right = window_right;
      const ModelledTraffic traffic =
          FusedTraffic(problem.problem, plan, int64_t{60} << 20, {.concurrent_tiles = 264});
      EXPECT_GE(traffic.read_bytes, kMaxExtent);
      EXPECT_LE(traffic.read_bytes, std::numeric_limits<int64_t>::max());
      EXPECT_EQ(
          FusedTraffic(problem.problem, plan, 0, {.concurrent_tiles = std::numeric_limits<int64_t>::max()})
              .write_bytes,
          traffic.write_bytes);
    }
  }
  problem.problem.num_q_heads = problem.problem.num_kv_heads = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(FusedTraffic(problem.problem, plan, 0, {.concurrent_tiles = 264}).read_bytes,
            std::numeric_limits<int64_t>::max());
}

}  // namespace
}  // namespace tessera
