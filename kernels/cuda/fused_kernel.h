// One compiled fused kernel, as the dispatch sees it.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {

// `function` is void(const __grid_constant__ DeviceProblem), launched with
// problem.num_blocks() blocks on tiles of WholeGroups(problem, tile_q).
struct FusedKernel {
  const char* name;  // as a profiler shows it
  const void* function;
  int32_t head_dim;  // serves head dims up to this
  bool features;     // takes soft-cap, ALiBi, dense masks and any scale; else none, and scale > 0
  int32_t tile_q, tile_kv, stages;
  int32_t threads;
  int32_t shared_memory_bytes;
  int32_t blocks_per_multiprocessor;
};

// The kernels for one input dtype, by rising head_dim and then in order of preference.
struct FusedKernels {
  const FusedKernel* begin_;
  const FusedKernel* end_;
  const FusedKernel* begin() const { return begin_; }
  const FusedKernel* end() const { return end_; }
};
FusedKernels Bf16Kernels();
FusedKernels Fp16Kernels();
FusedKernels Fp32Kernels();

}  // namespace tessera::kernels::cuda
