// Configuration and shared memory of the Hopper kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/hopper/hopper_problem.h"
#include "kernels/cuda/hopper/ptx.cuh"

namespace tessera::kernels::cuda::hopper {

// What a multiprocessor of compute capability 9.0 lets a block have.
inline constexpr int kMaxSharedBytes = 227 << 10;

// A tile (kRows, kColumns) of 16-bit elements as tensor cores and copy engine see it: slabs of 64 columns,
// each (kRows, 64), its rows of 128 bytes swizzled: 16-byte chunk c of row r lies at c ^ r % 8.
template <typename Element, int kRows, int kColumns>
struct alignas(1024) SlabTile {
  static constexpr int kSlabColumns = 128 / sizeof(Element);
  static constexpr int kSlabs = (kColumns + kSlabColumns - 1) / kSlabColumns;
  static constexpr int kSlabBytes = kRows * 128;
  static constexpr int kBytes = kSlabs * kSlabBytes;

  std::byte data[kBytes];

  __device__ std::byte* Slab(int slab) { return data + slab * kSlabBytes; }
  __device__ uint4* Chunk(int row, int chunk) {
    return reinterpret_cast<uint4*>(data + chunk / 8 * kSlabBytes + row * 128 + ((chunk % 8 ^ row % 8) << 4));
  }
};

inline constexpr int kMaxConsumers = 3;

// What the scheduler tells the others about a row tile.
struct Posting {
  BlockWork work;
  KeyWalk walk;                // at least one tile
  KeyWalk own[kMaxConsumers];  // with kOwnWalks: a consumer warpgroup's part of it (PartOf)
  bool valid;                  // false: there are no more row tiles
  // The inspector's word to the epilogue: keys whose V it has cleared although some row may see them.
  int32_t spoilt_begin, spoilt_end;

  __device__ void ClearSpoilt() {
    spoilt_begin = INT32_MAX;
    spoilt_end = 0;
  }
};

// What a logit policy needs of it.
template <class Logits>
struct StorageOf {
  struct Type {};
};
template <class Logits>
requires requires { typename Logits::Storage; }
struct StorageOf<Logits> {
  using Type = typename Logits::Storage;
};

template <class Config>
struct Shared {
  using Element = typename Config::Element;
  SlabTile<Element, Config::kTileQ, Config::kDimQk> q[Config::kQueryStages];
  SlabTile<Element, Config::kTileKv, Config::kDimQk> k[Config::kStages];
  SlabTile<Element, Config::kTileKv, Config::kDimV> v[Config::kStages];
  [[no_unique_address]] typename StorageOf<typename Config::Logits>::Type logits;

  // Of each pair: full when data is there (one arrival of the producer and the bytes), empty when every
  // consumer warp is done with it.
  ptx::Barrier q_full[Config::kQueryStages], q_empty[Config::kQueryStages];
  ptx::Barrier k_full[Config::kStages], k_empty[Config::kStages];
  ptx::Barrier v_full[Config::kStages], v_empty[Config::kStages];
  // Tiles of V that the inspector is to see arrive here, and are full once it has.
  ptx::Barrier v_loaded[Config::kStages];
  ptx::Barrier posting_full[Config::kPostings], posting_empty[Config::kPostings];
  alignas(16) std::byte postings[Config::kPostings * sizeof(Posting)];

  __device__ Posting& posting(int slot) { return reinterpret_cast<Posting*>(postings)[slot]; }
};

// Whether a tile of V passes through the inspector (inspector.cuh): where some key is hidden from some row.
template <class Config>
__device__ bool IsInspected(const DeviceProblem& problem, const KeyWalk& walk, int32_t tile) {
  return Config::Logits::Masks(problem) || !walk.IsFull(tile);
}

// Where a tile of V is to arrive.
template <class Config>
__device__ ptx::Barrier& ArrivalOfValues(Shared<Config>& shared, const DeviceProblem& problem,
                                         const KeyWalk& walk, int32_t tile, int stage) {
  if constexpr (requires { shared.v_loaded; }) {
    if (IsInspected<Config>(problem, walk, tile)) return shared.v_loaded[stage];
  }
  return shared.v_full[stage];
}

// A place in a ring of kStages buffers, and the parity of the barriers' phase there.
template <int kStages>
struct RingPosition {
  int index = 0;
  uint32_t parity = 0;

  __device__ void Advance() {
    if (++index == kStages) {
      index = 0;
      parity ^= 1;
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
