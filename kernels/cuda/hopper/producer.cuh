// The producer of a Hopper kernel: one warp that brings Q, K and V into shared memory.
#pragma once

#include "kernels/cuda/hopper/box_loader.cuh"
#include "kernels/cuda/hopper/output_writer.cuh"
#include "kernels/cuda/hopper/row_loader.cuh"
#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// The next row tile, or more than there are. A launch draws as often as it has row tiles, failing draws
// included, and each block takes its first by its number: so the last draw turns the counter back.
__device__ inline uint32_t Draw(const HopperProblem& launch) {
  return gridDim.x + atomicInc(launch.next_block, static_cast<uint32_t>(launch.problem.num_blocks()) - 1);
}

// Posts row tile `block`, or that there are no more. By one thread.
template <class Config>
__device__ void Post(const HopperProblem& launch, uint32_t block, Posting& posting) {
  const DeviceProblem& problem = launch.problem;
  // Unsigned: the last draws go past num_blocks by up to the size of the grid.
  posting.valid = block < static_cast<uint32_t>(problem.num_blocks());
  if (!posting.valid) return;
  posting.work = FindWork(problem, static_cast<int32_t>(block));
  posting.walk = WalkOf(posting.work, problem.tile_rows, Config::kTileKv);
  // Rows that see no key walk one tile, all hidden: so every row tile has a product to end with.
  posting.walk.end_tile = max(posting.walk.end_tile, posting.walk.first_tile + 1);
  posting.ClearSpoilt();
}

// Adds what consumer warpgroup `warpgroup` walks. By one thread, behind Post.
template <class Config>
__device__ void PostOwnWalk(const HopperProblem& launch, int warpgroup, Posting& posting) {
  // Of rows past the tile nothing is asked, but some row there must be.
  const int32_t rows = launch.problem.tile_rows, first_row = min(warpgroup * 64, rows - 1);
  posting.own[warpgroup] =
      PartOf(posting.walk, posting.work, first_row, min(64, rows - first_row), Config::kTileKv);
}

// Draws the launch's row tiles, no sooner than there is room, and posts them ahead of those who work on
// them; writes the output of those that are done. By one warp.
template <class Config>
__device__ void Schedule(const HopperProblem& launch, Shared<Config>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  OutputWriter<Config> writer(launch, shared);
  RingPosition<Config::kPostings> at;
  for (int32_t step = 0, end = INT32_MAX; step < end; ++step, at.Advance()) {
    ptx::Wait(shared.posting_empty[at.index], at.parity ^ 1);
    Posting& posting = shared.posting(at.index);
    if constexpr (Config::kStagesOutput) {
      if (step >= Config::kPostings) writer.Write(posting);
    }
    if (end != INT32_MAX) continue;  // all are posted, the last are still to be written
    if (lane == 0) Post<Config>(launch, step == 0 ? blockIdx.x : Draw(launch), posting);
    __syncwarp();
    if constexpr (Config::kOwnWalks) {
      if (lane < Config::kConsumers && posting.valid) PostOwnWalk<Config>(launch, lane, posting);
    }
    ptx::Arrive(shared.posting_full[at.index]);
    if (!posting.valid) end = Config::kStagesOutput ? step + Config::kPostings : step + 1;
  }
}

// Brings the posted row tiles' Q, K and V. By the threads that Loader is for.
template <class Config, class Loader>
class Producer {
 public:
  __device__ Producer(const HopperProblem& launch, Shared<Config>& shared)
      : shared(shared), loader(launch, shared) {}

  __device__ void Run() {
    for (;;) {
      ptx::Wait(shared.posting_full[posting_at.index], posting_at.parity);
      const Posting& posting = shared.posting(posting_at.index);
      ptx::Wait(shared.q_empty[q_at.index], q_at.parity ^ 1);
      if (!posting.valid) return loader.Arrive(shared.q_full[q_at.index]);
      loader.LoadQuery(posting, q_at.index);
      q_at.Advance();
      const int32_t end_tile = posting.walk.end_tile, first_tile = posting.walk.first_tile;
      // Keys are a tile ahead of values, as consumers ask for them.
      for (int32_t tile = end_tile; tile >= first_tile; --tile) {
        if (tile > first_tile) LoadKeys(posting, tile - 1);
        if (tile < end_tile) LoadValues(posting, tile);
      }
      posting_at.Advance();
    }
  }

 private:
  Shared<Config>& shared;
  Loader loader;
  RingPosition<Config::kPostings> posting_at;
  RingPosition<Config::kQueryStages> q_at;
  RingPosition<Config::kStages> k_at;
  RingPosition<Config::kValueStages> v_at;

  __device__ void LoadKeys(const Posting& posting, int32_t tile) {
    ptx::Wait(shared.k_empty[k_at.index], k_at.parity ^ 1);
    loader.LoadKeys(posting, tile, k_at.index);
    k_at.Advance();
  }

  __device__ void LoadValues(const Posting& posting, int32_t tile) {
    ptx::Wait(shared.v_empty[v_at.index], v_at.parity ^ 1);
    loader.LoadValues(posting, tile, v_at.index);
    v_at.Advance();
  }
};

// By one warp.
template <class Config>
__device__ void Produce(const HopperProblem& launch, Shared<Config>& shared) {
  if (!launch.use_copy_engine) {
    Producer<Config, RowLoader<Config>>(launch, shared).Run();
  } else if (threadIdx.x % 32 == 0) {
    Producer<Config, BoxLoader<Config>>(launch, shared).Run();
  }
}

}  // namespace tessera::kernels::cuda::hopper
