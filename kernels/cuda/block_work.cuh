// What one block of a launch works on: a tile of rows (row_tiling.h) of one (sequence, row head) pair, and
// the keys that those rows see. Runs on the host too, for tests.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {

// The place of a tile: small enough to be handed from one warp to another.
struct TileIndex {
  int32_t sequence;  // in problem.sequences()
  int32_t row_head;
  int32_t first_row;
};

// std::min and std::max are host code to nvcc, options aside.
__host__ __device__ inline int32_t Min(int32_t a, int32_t b) { return a < b ? a : b; }
__host__ __device__ inline int32_t Max(int32_t a, int32_t b) { return a > b ? a : b; }

// The upper half of the product.
__host__ __device__ inline uint32_t MultiplyHigh(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __umulhi(a, b);  // the product below would take registers in pairs
#else
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
#endif
}

struct BlockWork {
  DeviceSequence sequence;
  int32_t row_head, kv_head;
  int32_t first_row;  // of the tile
  int32_t num_rows;   // of the whole sequence; the tile may reach past them

  // Rows past the end stand for the last one: they are computed and not stored.
  __host__ __device__ int32_t Query(int32_t row) const { return first_query + Divide(Offset(row)); }
  __host__ __device__ int32_t Head(int32_t row) const {
    const int32_t offset = Offset(row);
    return row_head * rows_per_query + offset - Divide(offset) * rows_per_query;
  }

  __host__ __device__ BlockWork(const DeviceSequence& sequence, int32_t rows_per_query, int32_t row_head,
                                int32_t kv_head, int32_t first_row)
      : sequence(sequence),
        row_head(row_head),
        kv_head(kv_head),
        first_row(first_row),
        num_rows(sequence.q_len * rows_per_query),
        rows_per_query(rows_per_query),
        first_query(first_row / rows_per_query),
        reciprocal(0xffffffffu / static_cast<uint32_t>(rows_per_query) + 1) {}

 private:
  int32_t rows_per_query;
  int32_t first_query;  // of the tile
  uint32_t reciprocal;  // 2^32 / rows_per_query, rounded up

  // From the first head of first_query on; below kMaxGroup plus the rows of a tile.
  __host__ __device__ int32_t Offset(int32_t row) const {
    return Min(row, num_rows - 1) - first_query * rows_per_query;
  }
  // By rows_per_query; exact since the offset times the divisor stays below 2^32.
  __host__ __device__ int32_t Divide(int32_t offset) const {
    if (rows_per_query == 1) return offset;
    return static_cast<int32_t>(MultiplyHigh(static_cast<uint32_t>(offset), reciprocal));
  }
};

// The tile of block `block`, in [0, num_blocks()). Blocks are laid out by run, then by group of (sequence,
// row head) pairs, then by row tile, then by pair: those that run at the same time walk keys which L2 serves.
// A causal mask gives the last rows the most keys: they come first.
__host__ __device__ inline TileIndex FindTile(const DeviceProblem& p, int32_t block) {
  const DeviceSequence* const sequences = p.sequences();
  int32_t low = 0, high = p.num_sequences;  // the run's last sequence is in [low, high)
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (int64_t{sequences[middle].first_tile} * p.num_row_heads <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const DeviceSequence& run = sequences[low];
  const int32_t tiles = (run.q_len * p.rows_per_query + p.tile_rows - 1) / p.tile_rows;
  const int32_t in_run = static_cast<int32_t>(block - int64_t{run.first_tile} * p.num_row_heads);
  const int32_t group = in_run / (run.group_pairs * tiles);
  const int32_t in_group = in_run - group * run.group_pairs * tiles;
  const int32_t first_pair = group * run.group_pairs;
  const int32_t pairs = Min(run.group_pairs, run.run_length * p.num_row_heads - first_pair);
  const int32_t pair = first_pair + in_group % pairs;
  return {run.run_begin + pair / p.num_row_heads, pair % p.num_row_heads,
          (tiles - 1 - in_group / pairs) * p.tile_rows};
}

__host__ __device__ inline BlockWork WorkOf(const DeviceProblem& p, const TileIndex& tile) {
  return BlockWork(p.sequences()[tile.sequence], p.rows_per_query, tile.row_head,
                   tile.row_head * p.rows_per_query / p.group, tile.first_row);
}

__host__ __device__ inline BlockWork FindWork(const DeviceProblem& p, int32_t block) {
  return WorkOf(p, FindTile(p, block));
}

// The keys of a row tile, cut into tiles of `tile_kv`. From the last tile to the first come those that the
// window cuts on the right, those that it leaves full, and those that it cuts on the left only. Without a
// window on the left there are none of the last kind; where no tile is full, all are of the first kind. Rows
// that see no key have an empty walk at tile 0.
struct KeyWalk {
  int32_t first_tile, end_tile;            // tiles in which the window shows a key to some row
  int32_t full_first_tile, full_end_tile;  // tiles that it shows whole, to every row; within the above

  __host__ __device__ bool IsFull(int32_t tile) const {
    return tile >= full_first_tile && tile < full_end_tile;
  }
};

// Of `num_rows` rows from `first_row` on.
__host__ __device__ inline KeyWalk WalkOf(const BlockWork& work, int32_t first_row, int32_t num_rows,
                                          int32_t tile_kv) {
  const DeviceSequence& s = work.sequence;
  const int32_t first_query = work.Query(first_row);
  const int32_t last_query = work.Query(first_row + num_rows - 1);
  // Keys that the window shows to some row,
  const int32_t begin = Max(first_query + s.first_shift, 0);
  const int32_t end = Min(last_query + s.last_shift + 1, s.kv_len);
  // and to every row.
  const int32_t full_begin = Min(Max(last_query + s.first_shift, 0), s.kv_len);
  const int32_t full_end = Min(first_query + s.last_shift + 1, s.kv_len);
  if (begin >= end) return KeyWalk{};
  KeyWalk walk;
  walk.first_tile = begin / tile_kv;
  walk.end_tile = (end + tile_kv - 1) / tile_kv;
  walk.full_first_tile = (full_begin + tile_kv - 1) / tile_kv;
  walk.full_end_tile = full_end / tile_kv;
  if (walk.full_first_tile >= walk.full_end_tile) walk.full_first_tile = walk.full_end_tile = walk.first_tile;
  return walk;
}

// Of the rows of a tile.
__host__ __device__ inline KeyWalk WalkOf(const BlockWork& work, int32_t tile_rows, int32_t tile_kv) {
  return WalkOf(work, work.first_row, tile_rows, tile_kv);
}

// The part of a tile's walk that its `num_rows` rows from `first_row` of the tile on need: without the last
// tile of keys, or the first, where these show them nothing. At least one tile.
__host__ __device__ inline KeyWalk PartOf(const KeyWalk& walk, const BlockWork& work, int32_t first_row,
                                          int32_t num_rows, int32_t tile_kv) {
  KeyWalk part = WalkOf(work, work.first_row + first_row, num_rows, tile_kv);
  if (part.first_tile >= part.end_tile)
    return {walk.first_tile, walk.end_tile, walk.first_tile, walk.first_tile};
  part.first_tile = Min(part.first_tile, walk.first_tile + 1);
  part.end_tile = Max(part.end_tile, walk.end_tile - 1);
  return part;
}

}  // namespace tessera::kernels::cuda
