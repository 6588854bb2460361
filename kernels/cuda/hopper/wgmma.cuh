// wgmma.mma_async: the matrix products of a warpgroup. D (64, kN) fp32 in registers += A (64, 16) * B (16,
// kN), B in shared memory behind a matrix descriptor. Of D thread l of the warpgroup (warp w = l / 32, g = l
// % 32 / 4, t = l % 4) holds in d[4 n + e] row 16 w + g + e / 2 * 8, column 8 n + 2 t + e % 2.
//
// Registers of a product under way must not be touched: FenceOperands() in front of the first product and
// behind the wait keeps the compiler from moving their uses across.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace tessera::kernels::cuda::ptx {

// wgmma.fence: orders earlier register accesses before products that follow.
__device__ inline void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// wgmma.commit_group
__device__ inline void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// wgmma.wait_group: until at most kPending groups are under way.
template <int kPending>
__device__ inline void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// No instruction: the compiler may not move accesses of these registers across.
template <int kCount>
__device__ inline void FenceOperands(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ inline void FenceOperands(uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// A matrix in shared memory, in rows of 128 bytes swizzled over 8 rows (1024 bytes), its base 1024-byte
// aligned.
struct MatrixDescriptor {
  uint32_t low;

  // `leading_bytes`: between neighbouring blocks of 128 bytes along the rows, for a transposed B; else
  // without meaning.
  __device__ MatrixDescriptor(uint32_t shared_address, uint32_t leading_bytes)
      : low(leading_bytes >> 4 << 16 | (shared_address & 0x3ffff) >> 4) {}

  // The encoded matrix that begins `bytes` further on.
  __device__ uint64_t At(uint32_t bytes) const {
    constexpr uint32_t kSwizzle128 = 1u << 30, kStride = 1024 >> 4;
    return uint64_t{kSwizzle128 | kStride} << 32 | (low + (bytes >> 4));
  }
};

template <int kN>
struct Wgmma;

// Operand lists, in eights.
#define TESSERA_D0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define TESSERA_D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define TESSERA_D16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define TESSERA_D24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define TESSERA_D32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define TESSERA_D40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define TESSERA_D48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define TESSERA_D56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define TESSERA_D64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define TESSERA_D72 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define TESSERA_D80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define TESSERA_D88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define TESSERA_D96 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define TESSERA_D104 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define TESSERA_D112 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define TESSERA_D120 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define TESSERA_NAMES_32 TESSERA_D0 TESSERA_D8 TESSERA_D16 TESSERA_D24
#define TESSERA_NAMES_40 TESSERA_NAMES_32 TESSERA_D32
#define TESSERA_NAMES_48 TESSERA_NAMES_40 TESSERA_D40
#define TESSERA_NAMES_56 TESSERA_NAMES_48 TESSERA_D48
#define TESSERA_NAMES_64 TESSERA_NAMES_56 TESSERA_D56
#define TESSERA_NAMES_72 TESSERA_NAMES_64 TESSERA_D64
#define TESSERA_NAMES_80 TESSERA_NAMES_72 TESSERA_D72
#define TESSERA_NAMES_88 TESSERA_NAMES_80 TESSERA_D80
#define TESSERA_NAMES_96 TESSERA_NAMES_88 TESSERA_D88
#define TESSERA_NAMES_112 TESSERA_NAMES_96 TESSERA_D96 TESSERA_D104
#define TESSERA_NAMES_128 TESSERA_NAMES_112 TESSERA_D112 TESSERA_D120

#define TESSERA_R8(i)                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define TESSERA_R32 TESSERA_R8(0), TESSERA_R8(8), TESSERA_R8(16), TESSERA_R8(24)
#define TESSERA_R40 TESSERA_R32, TESSERA_R8(32)
#define TESSERA_R48 TESSERA_R40, TESSERA_R8(40)
#define TESSERA_R56 TESSERA_R48, TESSERA_R8(48)
#define TESSERA_R64 TESSERA_R56, TESSERA_R8(56)
#define TESSERA_R72 TESSERA_R64, TESSERA_R8(64)
#define TESSERA_R80 TESSERA_R72, TESSERA_R8(72)
#define TESSERA_R88 TESSERA_R80, TESSERA_R8(80)
#define TESSERA_R96 TESSERA_R88, TESSERA_R8(88)
#define TESSERA_R112 TESSERA_R96, TESSERA_R8(96), TESSERA_R8(104)
#define TESSERA_R128 TESSERA_R112, TESSERA_R8(112), TESSERA_R8(120)

// `n`: columns of D; `half` = n / 2 registers; a0.. : the numbers of the operands behind D.
#define TESSERA_WGMMA_SS(n, half, type, a0, a1, a2)                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #a2                                                  \
               ", 0;\n"                                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" TESSERA_NAMES_##half \
               "}, %" #a0 ", %" #a1 ", p, 1, 1, 0, 0;\n}"                                                \
               : TESSERA_R##half                                                                         \
               : "l"(a), "l"(b), "r"(static_cast<uint32_t>(accumulate)))
#define TESSERA_WGMMA_RS(n, half, type, a0, a1, a2, a3, a4, a5)                                          \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #a5                                                  \
               ", 0;\n"                                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" TESSERA_NAMES_##half \
               "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #a4 ", p, 1, 1, 1;\n}"                      \
               : TESSERA_R##half                                                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(accumulate)))
// Shared: A (64, 16) and B^T (n, 16) in shared memory, both with the 16 innermost. Registers: A in the
// fragments of mma.m16n8k16, B (16, n) in shared memory with the n innermost. Without `accumulate` D is
// overwritten.
#define TESSERA_WGMMA(n, half, a0, a1, a2, a3, a4, a5)                                                   \
  template <>                                                                                            \
  struct Wgmma<n> {                                                                                      \
    template <class Element>                                                                             \
    __device__ static void Shared(float (&d)[half], uint64_t a, uint64_t b, bool accumulate) {           \
      if constexpr (std::is_same_v<Element, __nv_bfloat16>) {                                            \
        TESSERA_WGMMA_SS(n, half, "bf16", a0, a1, a2);                                                   \
      } else {                                                                                           \
        TESSERA_WGMMA_SS(n, half, "f16", a0, a1, a2);                                                    \
      }                                                                                                  \
    }                                                                                                    \
    template <class Element>                                                                             \
    __device__ static void Registers(float (&d)[half], const uint32_t* a, uint64_t b, bool accumulate) { \
      if constexpr (std::is_same_v<Element, __nv_bfloat16>) {                                            \
        TESSERA_WGMMA_RS(n, half, "bf16", a0, a1, a2, a3, a4, a5);                                       \
      } else {                                                                                           \
        TESSERA_WGMMA_RS(n, half, "f16", a0, a1, a2, a3, a4, a5);                                        \
      }                                                                                                  \
    }                                                                                                    \
  }
TESSERA_WGMMA(64, 32, 32, 33, 34, 35, 36, 37);
TESSERA_WGMMA(80, 40, 40, 41, 42, 43, 44, 45);
TESSERA_WGMMA(96, 48, 48, 49, 50, 51, 52, 53);
TESSERA_WGMMA(112, 56, 56, 57, 58, 59, 60, 61);
TESSERA_WGMMA(128, 64, 64, 65, 66, 67, 68, 69);
TESSERA_WGMMA(192, 96, 96, 97, 98, 99, 100, 101);
TESSERA_WGMMA(256, 128, 128, 129, 130, 131, 132, 133);

}  // namespace tessera::kernels::cuda::ptx
