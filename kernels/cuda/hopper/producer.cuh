// The producer of a Hopper kernel: one warp that brings Q, K and V into shared memory.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// Draws the launch's row tiles and posts them, ahead of those who work on them. By one thread.
template <class Config>
__device__ void Schedule(const HopperProblem& launch, Shared<Config>& shared) {
  const DeviceProblem& problem = launch.problem;
  const int32_t num_blocks = problem.num_blocks();
  RingPosition<kPostings> at;
  int32_t block = static_cast<int32_t>(blockIdx.x);
  for (;;) {
    const bool valid = block < num_blocks;
    ptx::Wait(shared.posting_empty[at.index], at.parity ^ 1);
    Posting& posting = shared.posting(at.index);
    posting.valid = valid;
    if (valid) {
      // A launch draws num_blocks times, failing draws included, so that the last draw turns the counter
      // back.
      const int32_t next = static_cast<int32_t>(gridDim.x + atomicInc(launch.next_block, num_blocks - 1));
      const BlockWork work = FindWork(problem, block);
      posting.work = work;
      posting.walk = WalkOf(work, problem.tile_rows, Config::kTileKv);
      // Rows that see no key walk one tile, all hidden: so every row tile has a product to end with.
      posting.walk.end_tile = max(posting.walk.end_tile, posting.walk.first_tile + 1);
      block = next;
    }
    ptx::Arrive(shared.posting_full[at.index]);
    at.Advance();
    if (!valid) return;
  }
}

// Brings the posted row tiles' Q, K and V. By one thread.
template <class Config>
class Producer {
 public:
  __device__ Producer(const HopperProblem& launch, Shared<Config>& shared) : launch(launch), shared(shared) {}

  __device__ void Run() {
    for (;;) {
      ptx::Wait(shared.posting_full[posting_at.index], posting_at.parity);
      const Posting& posting = shared.posting(posting_at.index);
      ptx::Wait(shared.q_empty[q_at.index], q_at.parity ^ 1);
      if (!posting.valid) return ptx::Arrive(shared.q_full[q_at.index]);
      const int32_t key_head = posting.work.kv_head;
      const int32_t first_key = static_cast<int32_t>(posting.work.sequence.kv_begin);
      const int32_t end_tile = posting.walk.end_tile, first_tile = posting.walk.first_tile;
      LoadQuery(posting);
      LoadKeys(first_key, key_head, end_tile - 1);
      for (int32_t tile = end_tile - 1; tile >= first_tile; --tile) {
        if (tile > first_tile) LoadKeys(first_key, key_head, tile - 1);
        LoadValues(first_key, key_head, tile);
      }
      posting_at.Advance();
    }
  }

 private:
  const HopperProblem& launch;
  Shared<Config>& shared;
  RingPosition<kPostings> posting_at;
  RingPosition<Config::kQueryStages> q_at;
  RingPosition<Config::kStages> k_at, v_at;

  __device__ void LoadQuery(const Posting& posting) {
    using Tile = std::remove_reference_t<decltype(shared.q[0])>;
    ptx::Barrier& full = shared.q_full[q_at.index];
    ptx::ArriveExpecting(full, Tile::kSlabs * launch.problem.tile_rows * 128);
    const int32_t token =
        static_cast<int32_t>(posting.work.sequence.q_begin) + posting.work.Query(posting.work.first_row);
#pragma unroll
    for (int slab = 0; slab < Tile::kSlabs; ++slab) {
      ptx::CopyBox(shared.q[q_at.index].Slab(slab), launch.q, full, ptx::kEvictFirst,
                   slab * Tile::kSlabColumns, 0, token, posting.work.row_head);
    }
    q_at.Advance();
  }

  __device__ void LoadKeys(int32_t first_key, int32_t head, int32_t tile) {
    ptx::Wait(shared.k_empty[k_at.index], k_at.parity ^ 1);
    LoadKv(shared.k[k_at.index], launch.k, shared.k_full[k_at.index], first_key + tile * Config::kTileKv,
           head);
    k_at.Advance();
  }

  __device__ void LoadValues(int32_t first_key, int32_t head, int32_t tile) {
    ptx::Wait(shared.v_empty[v_at.index], v_at.parity ^ 1);
    LoadKv(shared.v[v_at.index], launch.v, shared.v_full[v_at.index], first_key + tile * Config::kTileKv,
           head);
    v_at.Advance();
  }

  template <class Tile>
  __device__ static void LoadKv(Tile& tile, const CUtensorMap& map, ptx::Barrier& full, int32_t token,
                                int32_t head) {
    ptx::ArriveExpecting(full, Tile::kBytes);
#pragma unroll
    for (int slab = 0; slab < Tile::kSlabs; ++slab) {
      ptx::CopyBox(tile.Slab(slab), map, full, ptx::kEvictLast, slab * Tile::kSlabColumns, token, head);
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
