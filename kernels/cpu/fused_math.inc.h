// exp2 and tanh on vectors, over one of simd_*.inc.h.
#pragma once

#include "kernels/cpu/fused_units.inc.h"

namespace tessera::kernels::cpu {
namespace {

// Minimax polynomials for 2^r on [-1/2, 1/2], lowest power first: relative error 2e-9 and 3e-6.
struct ExactExp2 {
  static constexpr float kCoefficients[] = {0x1p+0f,        0x1.62e43p-1f,   0x1.ebfbdap-3f, 0x1.c6aed4p-5f,
                                            0x1.3b2dbcp-7f, 0x1.5f456ap-10f, 0x1.41d334p-13f};
};
struct FastExp2 {
  static constexpr float kCoefficients[] = {0x1.ffffe8p-1f, 0x1.62e0dcp-1f, 0x1.ec06dap-3f, 0x1.ca1440p-5f,
                                            0x1.3997d6p-7f};
};

// 2^t for t <= 127; exactly 0 for t = -inf, NaN for NaN.
template <typename Precision>
inline Vec Exp2(Vec t) {
  constexpr auto& c = Precision::kCoefficients;
  constexpr int kDegree = sizeof c / sizeof c[0] - 1;
  const WholeAndRest split = SplitWhole(t);
  const Vec r = split.rest;
  Vec p = Set(c[kDegree]);
#pragma GCC unroll 8
  for (int i = kDegree - 1; i >= 0; --i) p = Fma(p, r, Set(c[i]));
  return ScaleByPowerOfTwo(p, split.whole);
}

// Odd polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel; relative error below 2e-7 everywhere.
inline Vec Tanh(Vec x) {
  const Vec magnitude = Min(Set(10.0f), Abs(x));
  const Vec square = magnitude * magnitude;
  Vec small = Set(-5.70498872745e-3f);
  small = Fma(small, square, Set(2.06390887954e-2f));
  small = Fma(small, square, Set(-5.37397155531e-2f));
  small = Fma(small, square, Set(1.33314422036e-1f));
  small = Fma(small, square, Set(-3.33332819422e-1f));
  small = Fma(small * square, magnitude, magnitude);
  const Vec exp = Exp2<ExactExp2>(magnitude * Set(2.0f * kLog2E));
  const Vec large = Set(1.0f) - Set(2.0f) / (exp + Set(1.0f));
  const Vec result = SelectLess(magnitude, Set(0.625f), small, large);
  return SelectLess(x, Set(0.0f), Set(0.0f) - result, result);
}

}  // namespace
}  // namespace tessera::kernels::cpu
