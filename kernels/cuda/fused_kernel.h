// One compiled fused kernel, as the dispatch sees it.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {

// What makes a logit of q.k.
enum class Logits : uint8_t {
  kPlain,      // a positive scale
  kSoftCap,    // a positive scale, soft-cap
  kAlibi,      // a positive scale, ALiBi
  kDenseMask,  // any scale, a boolean or additive mask
  kAny,        // any scale, and any of the above together
};

enum class KernelFamily : uint8_t {
  // void(const __grid_constant__ DeviceProblem), problem.num_blocks() blocks, tiles of WholeGroups(tile_q).
  kPortable,
  // void(const __grid_constant__ HopperProblem), a persistent block on each multiprocessor, tiles of
  // PackRows(tile_q). Compute capability 9.0 only.
  kHopper,
};

struct FusedKernel {
  const char* name;  // as a profiler shows it
  const void* function;
  KernelFamily family;
  Logits logits;
  int32_t head_dim_qk, head_dim_v;  // serves head dims up to these
  // What a multiprocessor takes for a tile of keys, and besides for a tile of rows: measured, in
  // microseconds. Only compared between kernels of equal head dims; 0 where there is nothing to choose.
  float key_tile_us, row_tile_us;
  int32_t tile_q, tile_kv, stages;
  int32_t threads;
  int32_t shared_memory_bytes;
  int32_t blocks_per_multiprocessor;
  int32_t held_tiles = 1;  // of rows, that are a block's at any time, the one it works on included
};

// The kernels for one input dtype, by rising head dims and then in order of preference.
struct FusedKernels {
  const FusedKernel* begin_;
  const FusedKernel* end_;
  const FusedKernel* begin() const { return begin_; }
  const FusedKernel* end() const { return end_; }
};
FusedKernels Bf16Kernels();
FusedKernels Fp16Kernels();
FusedKernels Fp32Kernels();
FusedKernels HopperBf16Kernels();
FusedKernels HopperFp16Kernels();
FusedKernels HopperFp8Kernels();

}  // namespace tessera::kernels::cuda
