// The Hopper kernels for bf16. Their names are what a profiler and the ledger show. "short" and "long" are
// shapes for few and for many keys to a row.
#include <cuda_bf16.h>

#include <iterator>

#include "kernels/cuda/hopper/describe.cuh"
#include "kernels/cuda/hopper/fused_hopper.cuh"

namespace tessera::kernels::cuda {
namespace hopper {
namespace {

using D64 = Config<__nv_bfloat16, 64, 64, 3, 128, 3, 2>;
using D64Alibi = Config<__nv_bfloat16, 64, 64, 3, 128, 3, 2, AlibiLogits>;
using D64Softcap = Config<__nv_bfloat16, 64, 64, 3, 112, 3, 2, SoftCapLogits>;
using D64Mask = Config<__nv_bfloat16, 64, 64, 3, 96, 3, 2, DenseMaskLogits>;
using D64Any = Config<__nv_bfloat16, 64, 64, 2, 128, 3, 2, AnyLogits>;
using D64Short = Config<__nv_bfloat16, 64, 64, 2, 128, 3, 3>;
using D96 = Config<__nv_bfloat16, 96, 96, 2, 128, 2, 3>;
template <template <class> class LogitPolicy = PlainLogits>
using D128 = Config<__nv_bfloat16, 128, 128, 2, 128, 2, 3, LogitPolicy>;
using D128Mask = Config<__nv_bfloat16, 128, 128, 2, 128, 2, 2, DenseMaskLogits>;
using D128Long = Config<__nv_bfloat16, 128, 128, 3, 80, 3, 2>;
using D192V128 = Config<__nv_bfloat16, 192, 128, 2, 128, 2, 1>;
using D192 = Config<__nv_bfloat16, 192, 192, 2, 112, 2, 1>;
template <template <class> class LogitPolicy = PlainLogits>
using D256 = Config<__nv_bfloat16, 256, 256, 2, 64, 2, 1, LogitPolicy>;
using D256Alibi = Config<__nv_bfloat16, 256, 256, 2, 80, 2, 1, AlibiLogits>;

}  // namespace

extern "C" {

__global__ void __launch_bounds__(D64::kThreads, 1)
    tessera_hopper_bf16_d64(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64>(launch);
}

__global__ void __launch_bounds__(D64Softcap::kThreads, 1)
    tessera_hopper_bf16_d64_softcap(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64Softcap>(launch);
}

__global__ void __launch_bounds__(D64Alibi::kThreads, 1)
    tessera_hopper_bf16_d64_alibi(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64Alibi>(launch);
}

__global__ void __launch_bounds__(D64Mask::kThreads, 1)
    tessera_hopper_bf16_d64_mask(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64Mask>(launch);
}

__global__ void __launch_bounds__(D64Any::kThreads, 1)
    tessera_hopper_bf16_d64_any(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64Any>(launch);
}

__global__ void __launch_bounds__(D64Short::kThreads, 1)
    tessera_hopper_bf16_d64_short(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D64Short>(launch);
}

__global__ void __launch_bounds__(D96::kThreads, 1)
    tessera_hopper_bf16_d96(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D96>(launch);
}

__global__ void __launch_bounds__(D128<>::kThreads, 1)
    tessera_hopper_bf16_d128(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128<>>(launch);
}

__global__ void __launch_bounds__(D128<SoftCapLogits>::kThreads, 1)
    tessera_hopper_bf16_d128_softcap(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128<SoftCapLogits>>(launch);
}

__global__ void __launch_bounds__(D128<AlibiLogits>::kThreads, 1)
    tessera_hopper_bf16_d128_alibi(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128<AlibiLogits>>(launch);
}

__global__ void __launch_bounds__(D128Mask::kThreads, 1)
    tessera_hopper_bf16_d128_mask(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128Mask>(launch);
}

__global__ void __launch_bounds__(D128<AnyLogits>::kThreads, 1)
    tessera_hopper_bf16_d128_any(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128<AnyLogits>>(launch);
}

__global__ void __launch_bounds__(D128Long::kThreads, 1)
    tessera_hopper_bf16_d128_long(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D128Long>(launch);
}

__global__ void __launch_bounds__(D192V128::kThreads, 1)
    tessera_hopper_bf16_d192_128(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D192V128>(launch);
}

__global__ void __launch_bounds__(D192::kThreads, 1)
    tessera_hopper_bf16_d192(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D192>(launch);
}

__global__ void __launch_bounds__(D256<>::kThreads, 1)
    tessera_hopper_bf16_d256(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D256<>>(launch);
}

__global__ void __launch_bounds__(D256<SoftCapLogits>::kThreads, 1)
    tessera_hopper_bf16_d256_softcap(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D256<SoftCapLogits>>(launch);
}

__global__ void __launch_bounds__(D256Alibi::kThreads, 1)
    tessera_hopper_bf16_d256_alibi(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D256Alibi>(launch);
}

__global__ void __launch_bounds__(D256<DenseMaskLogits>::kThreads, 1)
    tessera_hopper_bf16_d256_mask(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D256<DenseMaskLogits>>(launch);
}

__global__ void __launch_bounds__(D256<AnyLogits>::kThreads, 1)
    tessera_hopper_bf16_d256_any(const __grid_constant__ HopperProblem launch) {
  FusedHopper<D256<AnyLogits>>(launch);
}

}  // extern "C"
}  // namespace hopper

FusedKernels HopperBf16Kernels() {
  using namespace hopper;
  static const FusedKernel kKernels[] = {
      Describe<D64>("tessera_hopper_bf16_d64", tessera_hopper_bf16_d64, Logits::kPlain, 1.50f, 1.90f),
      Describe<D64Softcap>("tessera_hopper_bf16_d64_softcap", tessera_hopper_bf16_d64_softcap,
                           Logits::kSoftCap),
      Describe<D64Alibi>("tessera_hopper_bf16_d64_alibi", tessera_hopper_bf16_d64_alibi, Logits::kAlibi),
      Describe<D64Mask>("tessera_hopper_bf16_d64_mask", tessera_hopper_bf16_d64_mask, Logits::kDenseMask),
      Describe<D64Any>("tessera_hopper_bf16_d64_any", tessera_hopper_bf16_d64_any, Logits::kAny),
      Describe<D64Short>("tessera_hopper_bf16_d64_short", tessera_hopper_bf16_d64_short, Logits::kPlain,
                         1.28f, 1.04f),
      Describe<D96>("tessera_hopper_bf16_d96", tessera_hopper_bf16_d96, Logits::kPlain),
      Describe<D128<>>("tessera_hopper_bf16_d128", tessera_hopper_bf16_d128, Logits::kPlain, 1.67f, 2.59f),
      Describe<D128<SoftCapLogits>>("tessera_hopper_bf16_d128_softcap", tessera_hopper_bf16_d128_softcap,
                                    Logits::kSoftCap),
      Describe<D128<AlibiLogits>>("tessera_hopper_bf16_d128_alibi", tessera_hopper_bf16_d128_alibi,
                                  Logits::kAlibi),
      Describe<D128Mask>("tessera_hopper_bf16_d128_mask", tessera_hopper_bf16_d128_mask, Logits::kDenseMask),
      Describe<D128<AnyLogits>>("tessera_hopper_bf16_d128_any", tessera_hopper_bf16_d128_any, Logits::kAny),
      Describe<D128Long>("tessera_hopper_bf16_d128_long", tessera_hopper_bf16_d128_long, Logits::kPlain,
                         1.47f, 3.10f),
      Describe<D192V128>("tessera_hopper_bf16_d192_128", tessera_hopper_bf16_d192_128, Logits::kPlain),
      Describe<D192>("tessera_hopper_bf16_d192", tessera_hopper_bf16_d192, Logits::kPlain),
      Describe<D256<>>("tessera_hopper_bf16_d256", tessera_hopper_bf16_d256, Logits::kPlain),
      Describe<D256<SoftCapLogits>>("tessera_hopper_bf16_d256_softcap", tessera_hopper_bf16_d256_softcap,
                                    Logits::kSoftCap),
      Describe<D256Alibi>("tessera_hopper_bf16_d256_alibi", tessera_hopper_bf16_d256_alibi, Logits::kAlibi),
      Describe<D256<DenseMaskLogits>>("tessera_hopper_bf16_d256_mask", tessera_hopper_bf16_d256_mask,
                                      Logits::kDenseMask),
      Describe<D256<AnyLogits>>("tessera_hopper_bf16_d256_any", tessera_hopper_bf16_d256_any, Logits::kAny),
  };
  return {std::begin(kKernels), std::end(kKernels)};
}

}  // namespace tessera::kernels::cuda
