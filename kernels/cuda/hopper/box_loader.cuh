// Loads what tensor maps describe, through the copy engine.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// By one thread, which does not wait for what it starts: the copies arrive at the barriers.
template <class Config>
class BoxLoader {
 public:
  __device__ BoxLoader(const HopperProblem& launch, Shared<Config>& shared)
      : launch(launch), shared(shared) {}

  // The rows of the tile; those past them keep what was there.
  __device__ void LoadQuery(const Posting& posting, int stage) const {
    using Tile = std::remove_reference_t<decltype(shared.q[0])>;
    const BlockWork& work = posting.work;
    const int32_t token = static_cast<int32_t>(work.sequence.q_begin) + work.Query(work.first_row);
    ptx::Barrier& full = shared.q_full[stage];
    ptx::ArriveExpecting(full, Tile::kSlabs * launch.problem.tile_rows * 128);
#pragma unroll
    for (int slab = 0; slab < Tile::kSlabs; ++slab) {
      ptx::CopyBox(shared.q[stage].Slab(slab), launch.q, full, ptx::kEvictFirst, slab * Tile::kSlabColumns, 0,
                   token, work.row_head);
    }
  }

  __device__ void LoadKeys(const Posting& posting, int32_t tile, int stage) const {
    LoadKv(shared.k[stage], launch.k, shared.k_full[stage], posting.work, tile * Config::kTileKv);
  }

  __device__ void LoadValues(const Posting& posting, int32_t tile, int stage) const {
    LoadKv(shared.v[stage], launch.v, ArrivalOfValues(shared, launch.problem, posting.walk, tile, stage),
           posting.work, tile * Config::kTileKv);
  }

  // Without data.
  __device__ void Arrive(ptx::Barrier& barrier) const { ptx::Arrive(barrier); }

 private:
  const HopperProblem& launch;
  Shared<Config>& shared;

  template <class Tile>
  __device__ static void LoadKv(Tile& tile, const CUtensorMap& map, ptx::Barrier& full, const BlockWork& work,
                                int32_t first_key) {
    const int32_t token = static_cast<int32_t>(work.sequence.kv_begin) + first_key;
    ptx::ArriveExpecting(full, Tile::kBytes);
#pragma unroll
    for (int slab = 0; slab < Tile::kSlabs; ++slab) {
      ptx::CopyBox(tile.Slab(slab), map, full, ptx::kEvictLast, slab * Tile::kSlabColumns, token,
                   work.kv_head);
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
