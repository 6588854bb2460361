// The dispatch: which compiled kernel a problem runs on.
#include "kernels/cuda/fused_attention.h"

#include <algorithm>

#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/fused_kernel.h"

namespace tessera::kernels::cuda {
namespace {

// Below this a scale can be turned to base 2 without overflow.
constexpr float kLargestPlainScale = 1e38f;
// What CUDA itself takes of a block's shared memory.
constexpr int64_t kReservedSharedBytes = 1024;
// Of the L2 that the keys and values may take which blocks share; Q, O and what is on its way need the rest.
constexpr int64_t kL2Share = 2;

FusedKernels KernelsFor(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return Fp32Kernels();
    case TESSERA_DTYPE_FP16:
      return Fp16Kernels();
    case TESSERA_DTYPE_BF16:
      return Bf16Kernels();
    default:
      return {nullptr, nullptr};
  }
}

// Whether a logit is more than a positive scale times q.k. (With a positive scale the largest score is the
// largest logit, and the softmax takes the scale along for nothing.)
bool HasLogitFeatures(const tessera_attention_problem& p) {
  const bool plain_scale = p.scale > 0 && p.scale < kLargestPlainScale;
  return !plain_scale || p.softcap > 0 || p.alibi_slopes != nullptr || p.mask_kind != TESSERA_MASK_NONE;
}

// The kernel for the narrowest head dim that holds the problem, by preference; null when there is none. Where
// none fits the shared memory that blocks can have on this GPU, the one that comes closest.
const FusedKernel* FindKernel(const tessera_attention_problem& p, const DeviceTraits& traits) {
  const int32_t head_dim = std::max(p.head_dim_qk, p.head_dim_v);
  const FusedKernel* found = nullptr;
  for (const FusedKernel& kernel : KernelsFor(p.q.dtype)) {
    if (kernel.head_dim < head_dim || kernel.features != HasLogitFeatures(p)) continue;
    if (kernel.shared_memory_bytes <= traits.shared_memory_per_block) return &kernel;
    if (found == nullptr || kernel.shared_memory_bytes < found->shared_memory_bytes) found = &kernel;
  }
  return found;
}

}  // namespace

FusedChoice ChooseFused(const tessera_attention_problem& problem, const DeviceTraits& traits) {
  FusedChoice choice{};
  const FusedKernel* const kernel = FindKernel(problem, traits);
  if (kernel == nullptr) {
    choice.refusal = "no kernel for head dims " + std::to_string(problem.head_dim_qk) + " and " +
                     std::to_string(problem.head_dim_v) + ", expected at most " +
                     std::to_string(kFusedMaxHeadDim) + ", of this dtype";
    return choice;
  }
  if (kernel->shared_memory_bytes > traits.shared_memory_per_block) {
    choice.refusal = std::to_string(kernel->shared_memory_bytes) +
                     " bytes of shared memory for the tiles of this head dim, expected at most " +
                     std::to_string(traits.shared_memory_per_block);
    return choice;
  }
  choice.refusal = IndexLimit(problem, WholeGroups(problem, kernel->tile_q));
  if (!choice.refusal.empty()) return choice;
  choice.kernel = kernel->name;
  choice.tile_q = kernel->tile_q;
  choice.tile_kv = kernel->tile_kv;
  choice.stages = kernel->stages;
  choice.shared_memory_bytes = kernel->shared_memory_bytes;
  const int64_t fit =
      traits.shared_memory_per_multiprocessor / (kernel->shared_memory_bytes + kReservedSharedBytes);
  choice.blocks_per_multiprocessor =
      static_cast<int32_t>(std::clamp<int64_t>(fit, 1, kernel->blocks_per_multiprocessor));
  choice.workspace_bytes = TableBytes(problem);
  return choice;
}

cudaError_t FusedAttention(const tessera_attention_problem& problem, const DeviceTraits& traits,
                           void* workspace, cudaStream_t stream) {
  const FusedKernel* const kernel = FindKernel(problem, traits);
  if (kernel == nullptr) return cudaErrorInvalidValue;
  DeviceProblem device;
  cudaError_t error = MakeDeviceProblem(problem, WholeGroups(problem, kernel->tile_q),
                                        traits.l2_bytes / kL2Share, workspace, stream, &device);
  if (error != cudaSuccess || device.num_blocks() == 0) return error;
  error = cudaFuncSetAttribute(kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kernel->shared_memory_bytes);
  if (error != cudaSuccess) return error;
  void* arguments[] = {&device};
  return cudaLaunchKernel(kernel->function, dim3(static_cast<unsigned>(device.num_blocks())),
                          dim3(kernel->threads), arguments, static_cast<size_t>(kernel->shared_memory_bytes),
                          stream);
}

cudaError_t CheckFusedKernels() {
  for (const FusedKernels& kernels : {Fp32Kernels(), Fp16Kernels(), Bf16Kernels()}) {
    const FusedKernel& kernel = *kernels.begin();
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel.function);
    if (error != cudaSuccess) return error;
    if (attributes.maxThreadsPerBlock < kernel.threads) return cudaErrorLaunchOutOfResources;
  }
  return cudaSuccess;
}

}  // namespace tessera::kernels::cuda
