#include "kernels/cpu/multiply_tile.h"

#include <cstring>

#include "kernels/cpu/isa.h"

// One body, compiled for each instruction set by inlining it into functions that carry the target; the vector
// type is lowered to whatever registers the target has.
#define TESSERA_ALWAYS_INLINE [[gnu::always_inline]] inline

namespace tessera::kernels::cpu::standard {
namespace {

typedef double Lanes __attribute__((vector_size(kTileColumns * sizeof(double))));

// kRows x 8 accumulators stay in registers over the whole depth: 6 rows fill AVX2's sixteen and hide FMA
// latency.
constexpr int64_t kRegisterRows = 6;

template <int64_t kRows>
TESSERA_ALWAYS_INLINE void MultiplyRegisters(int64_t depth, const double* a, int64_t a_stride,
                                             const double* b, int64_t b_stride, double* c, int64_t c_stride) {
  Lanes sums[kRows] = {};  // unrolling every loop over it is what keeps it in registers
  for (int64_t p = 0; p < depth; ++p) {
    Lanes b_row;
    std::memcpy(&b_row, b + p * b_stride, sizeof(b_row));
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) sums[r] += a[r * a_stride + p] * b_row;
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
    Lanes c_row;
    std::memcpy(&c_row, c + r * c_stride, sizeof(c_row));
    c_row += sums[r];
    std::memcpy(c + r * c_stride, &c_row, sizeof(c_row));
  }
}

TESSERA_ALWAYS_INLINE void MultiplyBody(int64_t rows, int64_t depth, const double* a, int64_t a_stride,
                                        const double* b, int64_t b_stride, double* c, int64_t c_stride) {
  int64_t r = 0;
  for (; r + kRegisterRows <= rows; r += kRegisterRows) {
    MultiplyRegisters<kRegisterRows>(depth, a + r * a_stride, a_stride, b, b_stride, c + r * c_stride,
                                     c_stride);
  }
  for (; r < rows; ++r) {
    MultiplyRegisters<1>(depth, a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride);
  }
}

using MultiplyFn = void (*)(int64_t, int64_t, const double*, int64_t, const double*, int64_t, double*,
                            int64_t);

void MultiplyBaseline(int64_t rows, int64_t depth, const double* a, int64_t a_stride, const double* b,
                      int64_t b_stride, double* c, int64_t c_stride) {
  MultiplyBody(rows, depth, a, a_stride, b, b_stride, c, c_stride);
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void MultiplyAvx2(int64_t rows, int64_t depth, const double* a, int64_t a_stride,
                                              const double* b, int64_t b_stride, double* c,
                                              int64_t c_stride) {
  MultiplyBody(rows, depth, a, a_stride, b, b_stride, c, c_stride);
}

[[gnu::target("avx512f,fma")]] void MultiplyAvx512(int64_t rows, int64_t depth, const double* a,
                                                   int64_t a_stride, const double* b, int64_t b_stride,
                                                   double* c, int64_t c_stride) {
  MultiplyBody(rows, depth, a, a_stride, b, b_stride, c, c_stride);
}
#endif

MultiplyFn ChooseMultiply() {
#if defined(__x86_64__)
  if (IsaUsable(Isa::kAvx512)) return MultiplyAvx512;
  if (IsaUsable(Isa::kAvx2)) return MultiplyAvx2;
#endif
  return MultiplyBaseline;
}

}  // namespace

void MultiplyTile(int64_t rows, int64_t depth, const double* a, int64_t a_stride, const double* b,
                  int64_t b_stride, double* c, int64_t c_stride) {
  static const MultiplyFn multiply = ChooseMultiply();
  multiply(rows, depth, a, a_stride, b, b_stride, c, c_stride);
}

}  // namespace tessera::kernels::cpu::standard
