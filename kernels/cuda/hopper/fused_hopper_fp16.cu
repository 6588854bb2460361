// The Hopper kernels for fp16. Their names are what a profiler and the ledger show.
#include <cuda_fp16.h>

#include <iterator>

#include "kernels/cuda/hopper/describe.cuh"
#include "kernels/cuda/hopper/fused_hopper.cuh"

namespace tessera::kernels::cuda {
namespace hopper {
namespace {

using D64 = Config<__half, 64, 64, 3, 128, 3, 2>;
using D64Short = Config<__half, 64, 64, 2, 128, 3, 2>;
using D96 = Config<__half, 96, 96, 2, 128, 2, 2>;
using D128Long = Config<__half, 128, 128, 2, 176, 2, 1>;
using D128 = Config<__half, 128, 128, 2, 128, 2, 2>;
using D192128 = Config<__half, 192, 128, 2, 128, 2, 1>;
using D192 = Config<__half, 192, 192, 2, 112, 2, 1>;
using D256 = Config<__half, 256, 256, 2, 80, 2, 1>;

}  // namespace

extern "C" {

__global__ void __launch_bounds__(D64::kThreads, 1)
    tessera_hopper_fp16_d64(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64>(launch);
}

__global__ void __launch_bounds__(D64Short::kThreads, 1)
    tessera_hopper_fp16_d64_short(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64Short>(launch);
}

__global__ void __launch_bounds__(D96::kThreads, 1)
    tessera_hopper_fp16_d96(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D96>(launch);
}

__global__ void __launch_bounds__(D128Long::kThreads, 1)
    tessera_hopper_fp16_d128_long(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128Long>(launch);
}

__global__ void __launch_bounds__(D128::kThreads, 1)
    tessera_hopper_fp16_d128(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128>(launch);
}

__global__ void __launch_bounds__(D192128::kThreads, 1)
    tessera_hopper_fp16_d192_128(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D192128>(launch);
}

__global__ void __launch_bounds__(D192::kThreads, 1)
    tessera_hopper_fp16_d192(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D192>(launch);
}

__global__ void __launch_bounds__(D256::kThreads, 1)
    tessera_hopper_fp16_d256(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D256>(launch);
}

}  // extern "C"
}  // namespace hopper

FusedKernels HopperFp16Kernels() {
  using namespace hopper;
  static const FusedKernel kKernels[] = {
      Describe<D64>("tessera_hopper_fp16_d64", tessera_hopper_fp16_d64, Logits::kPlain, 1024),
      Describe<D64Short>("tessera_hopper_fp16_d64_short", tessera_hopper_fp16_d64_short, Logits::kPlain),
      Describe<D96>("tessera_hopper_fp16_d96", tessera_hopper_fp16_d96, Logits::kPlain),
      Describe<D128Long>("tessera_hopper_fp16_d128_long", tessera_hopper_fp16_d128_long, Logits::kPlain,
                         6144),
      Describe<D128>("tessera_hopper_fp16_d128", tessera_hopper_fp16_d128, Logits::kPlain),
      Describe<D192128>("tessera_hopper_fp16_d192_128", tessera_hopper_fp16_d192_128, Logits::kPlain),
      Describe<D192>("tessera_hopper_fp16_d192", tessera_hopper_fp16_d192, Logits::kPlain),
      Describe<D256>("tessera_hopper_fp16_d256", tessera_hopper_fp16_d256, Logits::kPlain),
  };
  return {std::begin(kKernels), std::end(kKernels)};
}

}  // namespace tessera::kernels::cuda
