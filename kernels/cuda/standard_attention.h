// Standard attention on NVIDIA GPUs: scores by a cuBLAS GEMM, a masked softmax over them in memory, and a
// second GEMM. The honest baseline that the fused kernel is held against: tensor cores, every head of a
// sequence in one batched call, the softmax one pass over rows held on chip.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_traits.h"
#include "tessera/attention.h"

namespace tessera::kernels::cuda {

inline constexpr int32_t kStandardMaxHeadDim = 1024;

struct StandardChoice {
  const char* kernel;  // the softmax kernel, as a profiler names it; null: `refusal` says why there is none
  const char* refusal;
  int32_t launches;                         // kernels of ours and GEMM calls
  int64_t workspace_bytes;                  // the scores, and whatever else is materialised
  int64_t hbm_read_bytes, hbm_write_bytes;  // modelled
};

// For a valid problem with head dims up to kStandardMaxHeadDim and fp32, fp16 or bf16 inputs. Reads shapes
// only.
StandardChoice ChooseStandard(const tessera_attention_problem& problem, const DeviceTraits& traits);

// Queues the launches on `stream` of the current device. `blas` was made for that device and is used by one
// thread at a time.
cudaError_t StandardAttention(const tessera_attention_problem& problem, const DeviceTraits& traits,
                              Cublas& blas, void* workspace, cudaStream_t stream);

}  // namespace tessera::kernels::cuda
