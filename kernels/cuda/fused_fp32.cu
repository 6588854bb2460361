// The fused kernels for fp32. Their names are what a profiler and the ledger show.
#include "kernels/cuda/fused_fp32.cuh"

#include <iterator>

#include "kernels/cuda/fused_kernel.h"

namespace tessera::kernels::cuda {
namespace {

template <int kHeadDim>
using Plain = fp32::FusedFp32Config<kHeadDim, false>;
template <int kHeadDim>
using Features = fp32::FusedFp32Config<kHeadDim, true>;

}  // namespace

extern "C" {

__global__ void __launch_bounds__(Plain<64>::kThreads, Plain<64>::kBlocksPerMultiprocessor)
    tessera_fused_fp32_d64(const __grid_constant__ DeviceProblem problem) {
  fp32::FusedFp32<Plain<64>>(problem);
}

__global__ void __launch_bounds__(Features<64>::kThreads, Features<64>::kBlocksPerMultiprocessor)
    tessera_fused_fp32_d64_features(const __grid_constant__ DeviceProblem problem) {
  fp32::FusedFp32<Features<64>>(problem);
}

__global__ void __launch_bounds__(Plain<128>::kThreads, Plain<128>::kBlocksPerMultiprocessor)
    tessera_fused_fp32_d128(const __grid_constant__ DeviceProblem problem) {
  fp32::FusedFp32<Plain<128>>(problem);
}

__global__ void __launch_bounds__(Features<128>::kThreads, Features<128>::kBlocksPerMultiprocessor)
    tessera_fused_fp32_d128_features(const __grid_constant__ DeviceProblem problem) {
  fp32::FusedFp32<Features<128>>(problem);
}

__global__ void __launch_bounds__(Plain<256>::kThreads, Plain<256>::kBlocksPerMultiprocessor)
    tessera_fused_fp32_d256(const __grid_constant__ DeviceProblem problem) {
  fp32::FusedFp32<Plain<256>>(problem);
}

__global__ void __launch_bounds__(Features<256>::kThreads, Features<256>::kBlocksPerMultiprocessor)
    tessera_fused_fp32_d256_features(const __grid_constant__ DeviceProblem problem) {
  fp32::FusedFp32<Features<256>>(problem);
}

}  // extern "C"

FusedKernels Fp32Kernels() {
  static const FusedKernel kernels[] = {
      fp32::Describe<Plain<64>>("tessera_fused_fp32_d64", tessera_fused_fp32_d64),
      fp32::Describe<Features<64>>("tessera_fused_fp32_d64_features", tessera_fused_fp32_d64_features),
      fp32::Describe<Plain<128>>("tessera_fused_fp32_d128", tessera_fused_fp32_d128),
      fp32::Describe<Features<128>>("tessera_fused_fp32_d128_features", tessera_fused_fp32_d128_features),
      fp32::Describe<Plain<256>>("tessera_fused_fp32_d256", tessera_fused_fp32_d256),
      fp32::Describe<Features<256>>("tessera_fused_fp32_d256_features", tessera_fused_fp32_d256_features),
  };
  return {std::begin(kernels), std::end(kernels)};
}

}  // namespace tessera::kernels::cuda
