// The Hopper kernels as the dispatch sees them.
#pragma once

#include "kernels/cuda/fused_kernel.h"
#include "kernels/cuda/hopper/hopper_problem.h"
#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// The kernel that runs FusedHopper<Config>.
template <class Config>
FusedKernel Describe(const char* name, void (*function)(HopperProblem), Logits logits,
                     int32_t min_mean_keys = 0) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(function),
          .family = KernelFamily::kHopper,
          .logits = logits,
          .head_dim_qk = Config::kDimQk,
          .head_dim_v = Config::kDimV,
          .min_mean_keys = min_mean_keys,
          .tile_q = Config::kTileQ,
          .tile_kv = Config::kTileKv,
          .stages = Config::kStages,
          .threads = Config::kThreads,
          .shared_memory_bytes = sizeof(Shared<Config>),
          .blocks_per_multiprocessor = 1};
}

}  // namespace tessera::kernels::cuda::hopper
