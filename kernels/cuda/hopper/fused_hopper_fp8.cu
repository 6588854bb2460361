// The Hopper kernels for fp8. Their names are what a profiler and the ledger show.
#include <iterator>

#include "kernels/cuda/hopper/describe.cuh"
#include "kernels/cuda/hopper/fused_hopper_fp8.cuh"

namespace tessera::kernels::cuda {
namespace hopper {
namespace {

using D64 = Fp8Config<64, 64, 192, 2, 2, 2, 2, Fp8PlainLogits>;
using D128 = Fp8Config<128, 128, 192, 2, 1, 2, 1, Fp8PlainLogits>;
using D256 = Fp8Config<256, 256, 96, 2, 2, 2, 1, Fp8PlainLogits>;
// Narrower: the features take registers.
using AnyD64 = Fp8Config<64, 64, 128, 2, 2, 2, 2, Fp8AnyLogits>;
using AnyD128 = Fp8Config<128, 128, 128, 2, 2, 2, 2, Fp8AnyLogits>;
using AnyD256 = Fp8Config<256, 256, 64, 2, 2, 2, 1, Fp8AnyLogits>;

}  // namespace

extern "C" {

__global__ void __launch_bounds__(D64::kThreads, 1)
    tessera_hopper_fp8_d64(const __grid_constant__ HopperProblem launch) {
  FusedHopperFp8<D64>(launch);
}

__global__ void __launch_bounds__(AnyD64::kThreads, 1)
    tessera_hopper_fp8_d64_any(const __grid_constant__ HopperProblem launch) {
  FusedHopperFp8<AnyD64>(launch);
}

__global__ void __launch_bounds__(D128::kThreads, 1)
    tessera_hopper_fp8_d128(const __grid_constant__ HopperProblem launch) {
  FusedHopperFp8<D128>(launch);
}

__global__ void __launch_bounds__(AnyD128::kThreads, 1)
    tessera_hopper_fp8_d128_any(const __grid_constant__ HopperProblem launch) {
  FusedHopperFp8<AnyD128>(launch);
}

__global__ void __launch_bounds__(D256::kThreads, 1)
    tessera_hopper_fp8_d256(const __grid_constant__ HopperProblem launch) {
  FusedHopperFp8<D256>(launch);
}

__global__ void __launch_bounds__(AnyD256::kThreads, 1)
    tessera_hopper_fp8_d256_any(const __grid_constant__ HopperProblem launch) {
  FusedHopperFp8<AnyD256>(launch);
}

}  // extern "C"
}  // namespace hopper

FusedKernels HopperFp8Kernels() {
  using namespace hopper;
  static const FusedKernel kKernels[] = {
      Describe<D64>("tessera_hopper_fp8_d64", tessera_hopper_fp8_d64, Logits::kPlain),
      Describe<AnyD64>("tessera_hopper_fp8_d64_any", tessera_hopper_fp8_d64_any, Logits::kAny),
      Describe<D128>("tessera_hopper_fp8_d128", tessera_hopper_fp8_d128, Logits::kPlain),
      Describe<AnyD128>("tessera_hopper_fp8_d128_any", tessera_hopper_fp8_d128_any, Logits::kAny),
      Describe<D256>("tessera_hopper_fp8_d256", tessera_hopper_fp8_d256, Logits::kPlain),
      Describe<AnyD256>("tessera_hopper_fp8_d256_any", tessera_hopper_fp8_d256_any, Logits::kAny),
  };
  return {std::begin(kKernels), std::end(kKernels)};
}

}  // namespace tessera::kernels::cuda
