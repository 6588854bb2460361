// The fused kernels for bf16. Their names are what a profiler and the ledger show.
#include <iterator>

#include "kernels/cuda/fused_16bit.cuh"
#include "kernels/cuda/fused_kernel.h"

namespace tessera::kernels::cuda {
namespace {

template <int kHeadDim>
using Plain = Fused16BitConfig<__nv_bfloat16, kHeadDim, false>;
template <int kHeadDim>
using Features = Fused16BitConfig<__nv_bfloat16, kHeadDim, true>;
template <bool kFeatures>
using Narrow = Fused16BitNarrowConfig<__nv_bfloat16, kFeatures>;

}  // namespace

extern "C" {

__global__ void __launch_bounds__(Plain<64>::kThreads, Plain<64>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d64(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Plain<64>>(problem);
}

__global__ void __launch_bounds__(Features<64>::kThreads, Features<64>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d64_features(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Features<64>>(problem);
}

__global__ void __launch_bounds__(Plain<96>::kThreads, Plain<96>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d96(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Plain<96>>(problem);
}

__global__ void __launch_bounds__(Features<96>::kThreads, Features<96>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d96_features(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Features<96>>(problem);
}

__global__ void __launch_bounds__(Plain<128>::kThreads, Plain<128>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d128(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Plain<128>>(problem);
}

__global__ void __launch_bounds__(Features<128>::kThreads, Features<128>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d128_features(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Features<128>>(problem);
}

__global__ void __launch_bounds__(Plain<192>::kThreads, Plain<192>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d192(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Plain<192>>(problem);
}

__global__ void __launch_bounds__(Features<192>::kThreads, Features<192>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d192_features(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Features<192>>(problem);
}

__global__ void __launch_bounds__(Plain<256>::kThreads, Plain<256>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d256(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Plain<256>>(problem);
}

__global__ void __launch_bounds__(Features<256>::kThreads, Features<256>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d256_features(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Features<256>>(problem);
}

__global__ void __launch_bounds__(Narrow<false>::kThreads, Narrow<false>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d256_narrow(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Narrow<false>>(problem);
}

__global__ void __launch_bounds__(Narrow<true>::kThreads, Narrow<true>::kBlocksPerMultiprocessor)
    tessera_fused_bf16_d256_narrow_features(const __grid_constant__ DeviceProblem problem) {
  Fused16Bit<Narrow<true>>(problem);
}

}  // extern "C"

FusedKernels Bf16Kernels() {
  static const FusedKernel kernels[] = {
      Describe16Bit<Plain<64>>("tessera_fused_bf16_d64", tessera_fused_bf16_d64),
      Describe16Bit<Features<64>>("tessera_fused_bf16_d64_features", tessera_fused_bf16_d64_features),
      Describe16Bit<Plain<96>>("tessera_fused_bf16_d96", tessera_fused_bf16_d96),
      Describe16Bit<Features<96>>("tessera_fused_bf16_d96_features", tessera_fused_bf16_d96_features),
      Describe16Bit<Plain<128>>("tessera_fused_bf16_d128", tessera_fused_bf16_d128),
      Describe16Bit<Features<128>>("tessera_fused_bf16_d128_features", tessera_fused_bf16_d128_features),
      Describe16Bit<Plain<192>>("tessera_fused_bf16_d192", tessera_fused_bf16_d192),
      Describe16Bit<Features<192>>("tessera_fused_bf16_d192_features", tessera_fused_bf16_d192_features),
      Describe16Bit<Plain<256>>("tessera_fused_bf16_d256", tessera_fused_bf16_d256),
      Describe16Bit<Features<256>>("tessera_fused_bf16_d256_features", tessera_fused_bf16_d256_features),
      Describe16Bit<Narrow<false>>("tessera_fused_bf16_d256_narrow", tessera_fused_bf16_d256_narrow),
      Describe16Bit<Narrow<true>>("tessera_fused_bf16_d256_narrow_features",
                                  tessera_fused_bf16_d256_narrow_features),
  };
  return {std::begin(kernels), std::end(kernels)};
}

}  // namespace tessera::kernels::cuda
