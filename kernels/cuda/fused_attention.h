// Fused attention on NVIDIA GPUs (compute capability 8.0 and later): tiles of scores live in registers, the
// softmax is online, and the N x N matrix never exists. One launch. After FlashAttention-2 (arXiv:2307.08691,
// Algorithm 1) and, on compute capability 9.0, FlashAttention-3 (arXiv:2407.08608, Algorithms 1 and 2).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "kernels/cuda/device_traits.h"
#include "tessera/attention.h"

namespace tessera::kernels::cuda {

inline constexpr int32_t kFusedMaxHeadDim = 256;

// The kernel for a problem, and how it cuts the work.
struct FusedChoice {
  const char* kernel;  // as a profiler names it; static storage; null: `refusal` says why there is none
  std::string refusal;
  int32_t tile_q, tile_kv;  // rows (queries times heads of a group) and keys
  int32_t stages;           // K/V tiles in flight
  int32_t shared_memory_bytes;
  int32_t blocks_per_multiprocessor;  // that run at once
  int64_t workspace_bytes;
  int64_t walked_bytes;  // of keys and values that are walked at once (MakeDeviceProblem's l2_bytes)
  int32_t held_tiles;    // row tiles that are a block's at any time, the one it works on included
};

// For a valid problem with head dims up to kFusedMaxHeadDim. fp8 inputs take compute capability 9.0. Reads
// shapes only.
FusedChoice ChooseFused(const tessera_attention_problem& problem, const DeviceTraits& traits);

// Queues the chosen kernel on `stream` of the current device, which must not have been refused. `workspace`:
// choice.workspace_bytes of device memory, 16-byte aligned. The same problem gives the same bits every time.
// Not for capture into a CUDA graph: each launch takes a counter that no other under way may share, and at most
// 4096 may be under way on a device.
cudaError_t FusedAttention(const tessera_attention_problem& problem, const DeviceTraits& traits,
                           void* workspace, cudaStream_t stream);

// Whether the kernels can run on the current device, by one for each dtype: an error where this build's code
// lacks that GPU, where its driver refuses the code, or where a block would need more registers than there
// are.
cudaError_t CheckFusedKernels();

}  // namespace tessera::kernels::cuda
