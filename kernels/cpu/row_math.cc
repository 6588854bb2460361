#include "kernels/cpu/row_math.h"

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/isa.h"

// Each body is plain loops over floats, compiled for every instruction set by inlining it into functions that
// carry the target; this file is built with -O3, which vectorises them.
#define TESSERA_ALWAYS_INLINE [[gnu::always_inline]] inline

namespace tessera::kernels::cpu::standard {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kLanes = 32;  // partial results of a reduction, enough for two AVX-512 registers

// exp(x) for x <= 0 or NaN, within 2 ulp; 0 below -87, where the result is near the smallest normal float.
// x = n ln 2 + r, |r| <= ln 2 / 2; exp(r) by a Chebyshev fit of (exp(r) - 1 - r) / r^2.
TESSERA_ALWAYS_INLINE float ExpNonPositive(float x) {
  constexpr float kLowest = -87.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f,
                  kLn2Low = -2.12194440e-4f;  // their sum is ln 2; n * kLn2High is exact
  constexpr float kRounder = 0x1.8p23f;       // adding it leaves the nearest integer in the low bits
  const float bounded = x < kLowest ? kLowest : x;
  const float shifted = bounded * kLog2E + kRounder;
  const float n = shifted - kRounder;
  const float r = (bounded - n * kLn2High) - n * kLn2Low;
  const float tail =
      0.5f + r * (0.16666573286f + r * (0.041666455567f + r * (0.0083637768403f + r * 0.0013934544986f)));
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127) << 23);  // 2^n
  return x < kLowest ? 0.0f : (1.0f + (r + r * r * tail)) * power;
}

// By a Chebyshev fit near 0, where 1 - exp(-2|y|) would cancel.
TESSERA_ALWAYS_INLINE float Tanh(float y) {
  const float magnitude = std::fabs(y);
  const float z = y * y;
  const float near_zero =
      y + y * z *
              (-0.33333328366f +
               z * (0.13332782686f + z * (-0.053852498531f + z * (0.021003641188f + z * -0.0061049479991f))));
  const float e = ExpNonPositive(-2.0f * magnitude);
  return magnitude < 0.625f ? near_zero : std::copysign((1.0f - e) / (1.0f + e), y);
}

TESSERA_ALWAYS_INLINE void CapAndAlibiBody(float* x, int64_t count, float softcap, float slope,
                                           float diagonal) {
  if (softcap != 0) {
    const float inverse = 1.0f / softcap;
    for (int64_t c = 0; c < count; ++c) x[c] = softcap * Tanh(x[c] * inverse);
  }
  if (slope != 0) {
    const int32_t keys = static_cast<int32_t>(count);  // GEMM extents are 32-bit: see Blas
    for (int32_t c = 0; c < keys; ++c) x[c] -= slope * std::fabs(diagonal - static_cast<float>(c));
  }
}

TESSERA_ALWAYS_INLINE RowSoftmax SoftmaxBody(float* x, int64_t count, float sink) {
  float maxima[kLanes], sums[kLanes] = {};
  for (float& maximum : maxima) maximum = sink;
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) maxima[l] = x[c + l] > maxima[l] ? x[c + l] : maxima[l];
  }
  float row_max = sink;
  for (; c < count; ++c) row_max = x[c] > row_max ? x[c] : row_max;
  for (float maximum : maxima) row_max = maximum > row_max ? maximum : row_max;

  const float shift = row_max == -kInfinity ? 0.0f : row_max;  // exp(-inf - 0) = 0: nothing to see
  for (c = 0; c < count; ++c) x[c] = ExpNonPositive(x[c] - shift);
  for (c = 0; c + kLanes <= count; c += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) sums[l] += x[c + l];
  }
  float row_sum = ExpNonPositive(sink - shift);
  for (; c < count; ++c) row_sum += x[c];
  for (float sum : sums) row_sum += sum;
  return {.shift = shift, .sum = row_sum};
}

void CapAndAlibiBaseline(float* x, int64_t count, float softcap, float slope, float diagonal) {
  CapAndAlibiBody(x, count, softcap, slope, diagonal);
}
RowSoftmax SoftmaxBaseline(float* x, int64_t count, float sink) { return SoftmaxBody(x, count, sink); }

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void CapAndAlibiAvx2(float* x, int64_t count, float softcap, float slope,
                                                 float diagonal) {
  CapAndAlibiBody(x, count, softcap, slope, diagonal);
}
[[gnu::target("avx2,fma")]] RowSoftmax SoftmaxAvx2(float* x, int64_t count, float sink) {
  return SoftmaxBody(x, count, sink);
}
[[gnu::target("avx512f,fma,prefer-vector-width=512")]] void CapAndAlibiAvx512(float* x, int64_t count,
                                                                              float softcap, float slope,
                                                                              float diagonal) {
  CapAndAlibiBody(x, count, softcap, slope, diagonal);
}
[[gnu::target("avx512f,fma,prefer-vector-width=512")]] RowSoftmax SoftmaxAvx512(float* x, int64_t count,
                                                                                float sink) {
  return SoftmaxBody(x, count, sink);
}
#endif

struct RowFunctions {
  decltype(&CapAndAlibiBaseline) cap_and_alibi;
  decltype(&SoftmaxBaseline) softmax;
};

const RowFunctions& Functions() {
  static const RowFunctions functions = [] {
#if defined(__x86_64__)
    if (IsaUsable(Isa::kAvx512)) return RowFunctions{CapAndAlibiAvx512, SoftmaxAvx512};
    if (IsaUsable(Isa::kAvx2)) return RowFunctions{CapAndAlibiAvx2, SoftmaxAvx2};
#endif
    return RowFunctions{CapAndAlibiBaseline, SoftmaxBaseline};
  }();
  return functions;
}

}  // namespace

void CapAndAlibi(float* x, int64_t count, float softcap, float slope, float diagonal) {
  Functions().cap_and_alibi(x, count, softcap, slope, diagonal);
}

void AddBias(float* x, const float* bias, int64_t count) {
  for (int64_t c = 0; c < count; ++c) x[c] = bias[c] == -kInfinity ? -kInfinity : x[c] + bias[c];
}

RowSoftmax Softmax(float* x, int64_t count, float sink) { return Functions().softmax(x, count, sink); }

}  // namespace tessera::kernels::cpu::standard
