// wgmma.mma_async for fp8 (e4m3): D (64, kN) fp32 in registers += A (64, 32) * B (32, kN). D as in wgmma.cuh;
// both factors have the 32 innermost, B being B^T (kN, 32) in shared memory: fp8 knows no transposed
// operands.
//
// The sums inside one product, and along a chain of them into the same D, keep fewer bits than fp32 has: long
// sums are to be cut into chains, and these added in fp32.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper/wgmma.cuh"

namespace tessera::kernels::cuda::ptx {

// cvt.rn.satfinite.e4m3x2.f32, twice: four values as e4m3, the first in the lowest byte. NaN stays NaN.
__device__ inline uint32_t PackE4m3(float x0, float x1, float x2, float x3) {
  uint32_t packed;
  asm("{\n.reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n}"
      : "=r"(packed)
      : "f"(x0), "f"(x1), "f"(x2), "f"(x3));
  return packed;
}

template <int kN>
struct WgmmaE4m3;

// `n`: columns of D; `half` = n / 2 registers; a0.. : the numbers of the operands behind D.
// Shared: A (64, 32) in shared memory. Registers: A in the fragments of mma.m16n8k32. Without `accumulate` D
// is overwritten.
#define TESSERA_WGMMA_E4M3(n, half, a0, a1, a2, a3, a4, a5)                                              \
  template <>                                                                                            \
  struct WgmmaE4m3<n> {                                                                                  \
    __device__ static void Shared(float (&d)[half], uint64_t a, uint64_t b, bool accumulate) {           \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #a2                                              \
                   ", 0;\n"                                                                              \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" TESSERA_NAMES_##half     \
                   "}, %" #a0 ", %" #a1 ", p, 1, 1;\n}"                                                  \
                   : TESSERA_R##half                                                                     \
                   : "l"(a), "l"(b), "r"(static_cast<uint32_t>(accumulate)));                            \
    }                                                                                                    \
    __device__ static void Registers(float (&d)[half], const uint32_t* a, uint64_t b, bool accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #a5                                              \
                   ", 0;\n"                                                                              \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" TESSERA_NAMES_##half     \
                   "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #a4 ", p, 1, 1;\n}"                     \
                   : TESSERA_R##half                                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                                 \
                     "r"(static_cast<uint32_t>(accumulate)));                                            \
    }                                                                                                    \
  }
TESSERA_WGMMA_E4M3(64, 32, 32, 33, 34, 35, 36, 37);
TESSERA_WGMMA_E4M3(96, 48, 48, 49, 50, 51, 52, 53);
TESSERA_WGMMA_E4M3(128, 64, 64, 65, 66, 67, 68, 69);
TESSERA_WGMMA_E4M3(160, 80, 80, 81, 82, 83, 84, 85);
TESSERA_WGMMA_E4M3(192, 96, 96, 97, 98, 99, 100, 101);
TESSERA_WGMMA_E4M3(224, 112, 112, 113, 114, 115, 116, 117);
TESSERA_WGMMA_E4M3(256, 128, 128, 129, 130, 131, 132, 133);
#undef TESSERA_WGMMA_E4M3

}  // namespace tessera::kernels::cuda::ptx
