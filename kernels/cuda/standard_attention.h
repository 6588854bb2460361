// Standard attention on NVIDIA GPUs: scores by cuBLAS, a masked softmax over them in memory, and a second
// product by cuBLAS. The honest baseline that the fused kernel is held against: tensor cores, every head of a
// sequence in one batch, a softmax that reads each score once.
//
// Scores are fp32, and the weights take their place in the inputs' dtype: 16-bit scores would save a third of
// the traffic and cost the accuracy that DESIGN 7.16 asks for. So would 16-bit weights that are normalised
// before they are rounded: rows of O are scaled instead, as they are copied from the product's fp32 sums.
//
// fp8 inputs are copied to bf16, which holds them exactly, and run as those do; their scales meet the scores
// in the softmax, and the values on their way to O.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_traits.h"
#include "tessera/attention.h"

namespace tessera::kernels::cuda {

inline constexpr int32_t kStandardMaxHeadDim = 1024;

struct StandardChoice {
  const char* kernel;   // the softmax kernel, as a profiler names it: the one that takes the most scores
  std::string refusal;  // why the problem cannot run; empty when it can
  int64_t launches;     // kernels of ours and calls of cuBLAS
  // The scores of a wave (sequences alike, run together: all of a batch while they are small, else one), of
  // 16-bit and fp8 inputs O in fp32, and whatever else is materialised; cuBLAS's own workspace.
  int64_t workspace_bytes;
  int64_t hbm_read_bytes, hbm_write_bytes;  // modelled
};

// For a valid problem with head dims up to kStandardMaxHeadDim and inputs of any dtype. Reads shapes
// only. O(number of sequences).
StandardChoice ChooseStandard(const tessera_attention_problem& problem, const DeviceTraits& traits);

// How an enqueue ended.
struct StandardStatus {
  cudaError_t cuda = cudaSuccess;
  const char* cublas = nullptr;  // null, or what cuBLAS says of its error
};

// Queues the launches on `stream` of the current device, which `blas` was made for. `workspace`:
// choice.workspace_bytes of device memory, 64-byte aligned. The same problem gives the same bits every time.
StandardStatus StandardAttention(const tessera_attention_problem& problem, const DeviceTraits& traits,
                                 Cublas& blas, void* workspace, cudaStream_t stream);

}  // namespace tessera::kernels::cuda
