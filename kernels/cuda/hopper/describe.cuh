// The Hopper kernels as the dispatch sees them.
#pragma once

#include "kernels/cuda/fused_kernel.h"
#include "kernels/cuda/hopper/hopper_problem.h"
#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// The kernel that runs FusedHopper<Config>.
template <class Config>
FusedKernel Describe(const char* name, void (*function)(HopperProblem), Logits logits, float key_tile_us = 0,
                     float row_tile_us = 0) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(function),
          .family = KernelFamily::kHopper,
          .logits = logits,
          .head_dim_qk = Config::kDimQk,
          .head_dim_v = Config::kDimV,
          .key_tile_us = key_tile_us,
          .row_tile_us = row_tile_us,
          .tile_q = Config::kTileQ,
          .tile_kv = Config::kTileKv,
          .stages = Config::kStages,
          .threads = Config::kThreads,
          .shared_memory_bytes = sizeof(Shared<Config>),
          .blocks_per_multiprocessor = 1,
          .held_tiles = Config::kPostings};
}

}  // namespace tessera::kernels::cuda::hopper
