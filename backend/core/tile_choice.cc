#include "backend/core/tile_choice.h"

#include <algorithm>

#include "backend/core/saturating.h"

namespace tessera {
namespace {

// What decides about tiles, reduced from the batch.
struct Work {
  int64_t group;         // query heads that share a kv head
  int64_t longest_rows;  // most rows that one kv head of one sequence has: q_len * group
  int64_t q_row_bytes;   // fast memory per row of a Q tile, scores aside: Q and the output accumulator
  int64_t kv_row_bytes;  // per key of a K/V tile, in each stage
};

Work WorkOf(const AttentionProblem& p, const TileLimits& limits) {
  Work work{};
  work.group = p.num_q_heads / p.num_kv_heads;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    work.longest_rows = std::max(work.longest_rows, SaturatingMultiply(p.sequences[n].q_len, work.group));
  }
  work.q_row_bytes = int64_t{p.head_dim_qk} * limits.q_element_bytes +
                     int64_t{p.head_dim_v} * limits.accumulator_element_bytes;
  work.kv_row_bytes = (int64_t{p.head_dim_qk} + p.head_dim_v) * limits.kv_element_bytes;
  return work;
}

int64_t TileBytes(const Work& work, const TileLimits& limits, int64_t tile_q, int64_t tile_kv,
                  int64_t stages) {
  return SaturatingAdd(SaturatingMultiply(tile_q, work.q_row_bytes),
                       SaturatingAdd(SaturatingProduct(stages, tile_kv, work.kv_row_bytes),
                                     SaturatingProduct(tile_q, tile_kv, limits.score_element_bytes)));
}

// The largest extent in [least, most] (both multiples of `granularity`) of which each unit takes `unit_bytes`
// of `budget`; `least` when nothing fits.
int64_t LargestExtent(int64_t budget, int64_t unit_bytes, int64_t granularity, int64_t least, int64_t most) {
  if (unit_bytes <= 0) return most;
  return std::clamp(RoundDown(std::max<int64_t>(budget, 0) / unit_bytes, granularity), least, most);
}

// The shortest tile that holds `length`, within the kernel's range.
int64_t Cover(int64_t length, int64_t granularity, int64_t least, int64_t most) {
  return length >= most ? most : std::clamp(RoundUp(length, granularity), least, most);
}

int64_t ChooseTileQ(const Work& work, const TileLimits& limits, int64_t stages) {
  const int64_t most = Cover(work.longest_rows, limits.granularity_q, limits.min_tile_q, limits.max_tile_q);
  const int64_t budget =
      limits.fast_memory_bytes - SaturatingProduct(stages, limits.min_tile_kv, work.kv_row_bytes);
  const int64_t row_bytes = work.q_row_bytes + int64_t{limits.min_tile_kv} * limits.score_element_bytes;
  return LargestExtent(budget, row_bytes, limits.granularity_q, limits.min_tile_q, most);
}

int64_t ChooseTileKv(const Work& work, const TileLimits& limits, int64_t tile_q, int64_t stages,
                     int64_t keys) {
  const int64_t most = Cover(keys, limits.granularity_kv, limits.min_tile_kv, limits.max_tile_kv);
  const int64_t budget = limits.fast_memory_bytes - SaturatingMultiply(tile_q, work.q_row_bytes);
  const int64_t key_bytes = stages * work.kv_row_bytes + tile_q * limits.score_element_bytes;
  return LargestExtent(budget, key_bytes, limits.granularity_kv, limits.min_tile_kv, most);
}

// The most keys that one tile of `tile_q` query rows walks through.
int64_t KeysPerTile(const AttentionProblem& p, int64_t tile_q) {
  int64_t most = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const Sequence& s = p.sequences[n];
    if (s.q_len == 0) continue;
    int64_t keys = std::max<int64_t>(VisibleKeys(s, s.q_len - 1).end - VisibleKeys(s, 0).begin, 0);
    if (s.window_left >= 0 && s.window_right >= 0) {
      keys = std::min(keys, std::min(tile_q, s.q_len) + s.window_left + s.window_right);
    }
    most = std::max(most, keys);
  }
  return most;
}

// Independent pieces of work before any split: q tiles of all (sequence, kv head) pairs.
int64_t CountTasks(const AttentionProblem& p, const Work& work, int64_t tile_q) {
  int64_t tiles = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    tiles = SaturatingAdd(tiles, CeilDiv(SaturatingMultiply(p.sequences[n].q_len, work.group), tile_q));
  }
  return SaturatingMultiply(tiles, p.num_kv_heads);
}

// How full the compute units are on average while `tasks` equal tasks run in waves.
double Occupancy(int64_t tasks, int64_t units) {
  return static_cast<double>(tasks) / static_cast<double>(CeilDiv(tasks, units) * units);
}

// The fewest splits that fill the units nearly as well as any number of splits up to `most` does: further
// ones would buy less than their partials cost.
int64_t ChooseSplits(int64_t tasks, int64_t units, int64_t most) {
  constexpr double kNearly = 0.9;
  double best = 0;
  for (int64_t splits = 1; splits <= most; ++splits) best = std::max(best, Occupancy(tasks * splits, units));
  int64_t splits = 1;
  while (Occupancy(tasks * splits, units) < kNearly * best) ++splits;
  return splits;
}

// The largest tile_q that still makes a task for every unit; no smaller than `least` and one query's rows, so
// that the heads of a group go on sharing the keys they read.
int64_t ShrinkTileQ(const AttentionProblem& p, const Work& work, const TileLimits& limits, int64_t tile_q,
                    int64_t least) {
  const int64_t floor = std::min(
      tile_q, Cover(std::max(work.group, least), limits.granularity_q, limits.min_tile_q, limits.max_tile_q));
  while (tile_q > floor && CountTasks(p, work, tile_q) < limits.compute_units) {
    tile_q -= limits.granularity_q;
  }
  return std::max(tile_q, floor);
}

}  // namespace

TileChoice ChooseTile(const AttentionProblem& problem, const TileLimits& limits) {
  constexpr int64_t kTilesPerSplit = 4, kKeysPerDecodeSplit = 1024;
  const Work work = WorkOf(problem, limits);

  // Two stages let one K/V tile load while another is worked on; more follow where memory is left.
  const bool fits_two =
      TileBytes(work, limits, limits.min_tile_q, limits.min_tile_kv, 2) <= limits.fast_memory_bytes;
  int64_t stages = fits_two ? std::min(limits.max_stages, 2) : 1;
  int64_t tile_q =
      ShrinkTileQ(problem, work, limits, ChooseTileQ(work, limits, stages), limits.efficient_tile_q);
  const int64_t keys = KeysPerTile(problem, tile_q);
  int64_t tile_kv = ChooseTileKv(work, limits, tile_q, stages, keys);

  int64_t splits = 1;
  const int64_t tasks = CountTasks(problem, work, tile_q);
  if (tasks > 0 && tasks < limits.compute_units) {
    const int64_t most = std::min({keys / (kTilesPerSplit * limits.min_tile_kv), int64_t{limits.max_splits},
                                   int64_t{limits.compute_units}});
    splits = ChooseSplits(tasks, limits.compute_units, most);
  }
  if (tasks > 0 && work.longest_rows <= limits.min_tile_q) {
    const int64_t shortest = std::max(kKeysPerDecodeSplit, kTilesPerSplit * limits.min_tile_kv);
    const int64_t most = std::min(keys / shortest, int64_t{limits.max_splits});
    const int64_t units = SaturatingMultiply(limits.compute_units, limits.decode_tasks_per_unit);
    if (tasks < units) splits = std::max(splits, ChooseSplits(tasks, units, most));
  }
  if (splits > 1) {
    // Each split gets its tiles, if need be shorter ones.
    tile_kv = std::min(tile_kv, RoundDown(keys / (kTilesPerSplit * splits), limits.granularity_kv));
  } else if (tasks > 0 && tasks < limits.compute_units) {
    tile_q = ShrinkTileQ(problem, work, limits, tile_q, limits.min_tile_q);
  }
  while (stages < limits.max_stages && stages * tile_kv < keys &&
         TileBytes(work, limits, tile_q, tile_kv, stages + 1) <= limits.fast_memory_bytes) {
    ++stages;
  }
  return {static_cast<int32_t>(tile_q), static_cast<int32_t>(tile_kv), static_cast<int32_t>(stages),
          static_cast<int32_t>(splits), TileBytes(work, limits, tile_q, tile_kv, stages)};
}

}  // namespace tessera
