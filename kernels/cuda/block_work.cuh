// What one block of a launch works on: a tile of rows of one (sequence, kv head) pair, and the keys that
// those rows see. A row is one query of one of the heads that share the kv head: row = query * group + head
// of group.
#pragma once

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {

struct BlockWork {
  DeviceSequence sequence;
  int32_t kv_head;
  int32_t first_row;  // of the tile
  int32_t num_rows;   // of the whole sequence; the tile may reach past them

  // Rows past the end stand for the last one: they are computed and not stored.
  __device__ int32_t Query(int32_t row) const { return first_query + Divide(Offset(row)); }
  __device__ int32_t Head(int32_t row) const {
    const int32_t offset = Offset(row);
    return kv_head * group + offset - Divide(offset) * group;
  }

  __device__ BlockWork(const DeviceSequence& sequence, int32_t group, int32_t kv_head, int32_t first_row)
      : sequence(sequence),
        kv_head(kv_head),
        first_row(first_row),
        num_rows(sequence.q_len * group),
        group(group),
        first_query(first_row / group),
        reciprocal(0xffffffffu / static_cast<uint32_t>(group) + 1) {}

 private:
  int32_t group;
  int32_t first_query;  // of the tile
  uint32_t reciprocal;  // 2^32 / group, rounded up

  // From the first head of first_query on; below kMaxGroup plus the rows of a tile.
  __device__ int32_t Offset(int32_t row) const { return min(row, num_rows - 1) - first_query * group; }
  // By group, exact since the offset times the group stays below 2^32.
  __device__ int32_t Divide(int32_t offset) const {
    return group == 1 ? offset : static_cast<int32_t>(__umulhi(static_cast<uint32_t>(offset), reciprocal));
  }
};

// Blocks are laid out by sequence, then kv head, then row tile: neighbours walk the same keys, which L2 then
// serves. A causal mask gives the last rows the most keys: they come first.
__device__ inline BlockWork FindWork(const DeviceProblem& p, int32_t block, int32_t tile_q) {
  const DeviceSequence* const sequences = p.sequences();
  int32_t low = 0, high = p.num_sequences;  // the sequence is in [low, high)
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (int64_t{sequences[middle].first_tile} * p.num_kv_heads <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const DeviceSequence& sequence = sequences[low];
  const int32_t tiles = (sequence.q_len * p.group + tile_q - 1) / tile_q;
  const int32_t rest = static_cast<int32_t>(block - int64_t{sequence.first_tile} * p.num_kv_heads);
  return BlockWork(sequence, p.group, rest / tiles, (tiles - 1 - rest % tiles) * tile_q);
}

// The keys of a row tile, cut into tiles of `tile_kv`.
struct KeyWalk {
  int32_t first_tile, end_tile;  // tiles in which the window shows a key to some row
  int32_t full_begin, full_end;  // keys that it shows to every row

  __device__ bool IsFull(int32_t tile, int32_t tile_kv) const {
    return tile * tile_kv >= full_begin && (tile + 1) * tile_kv <= full_end;
  }
};

__device__ inline KeyWalk WalkOf(const BlockWork& work, int32_t tile_q, int32_t tile_kv) {
  const DeviceSequence& s = work.sequence;
  const int32_t first_query = work.Query(work.first_row);
  const int32_t last_query = work.Query(work.first_row + tile_q - 1);
  const int32_t begin = max(first_query + s.first_shift, 0);
  const int32_t end = min(last_query + s.last_shift + 1, s.kv_len);
  KeyWalk walk;
  walk.full_begin = max(last_query + s.first_shift, 0);
  walk.full_end = min(first_query + s.last_shift + 1, s.kv_len);
  walk.first_tile = begin / tile_kv;
  walk.end_tile = begin < end ? (end + tile_kv - 1) / tile_kv : walk.first_tile;
  return walk;
}

}  // namespace tessera::kernels::cuda
