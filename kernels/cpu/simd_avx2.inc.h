// Vectors of eight floats: AVX2, FMA, F16C. See simd_baseline.inc.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/half.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int kLanes = 8;
constexpr int kBlockVectors = 2;
constexpr int kMicroRows = 6;

using Vec = __m256;

inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec Broadcast(const float* p) { return _mm256_broadcast_ss(p); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// The second operand when either is NaN.
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec SelectLess(Vec a, Vec b, Vec when_less, Vec otherwise) {
  return _mm256_blendv_ps(otherwise, when_less, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline Vec Abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline bool AnyDiffers(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)) != 0; }

// t = whole + rest, whole the nearest integer and |rest| <= 1/2; for t below -200, -inf included, a whole of
// -200.
struct WholeAndRest {
  Vec whole, rest;
};
inline WholeAndRest SplitWhole(Vec t) {
  const Vec round = Set(0x1.8p23f);  // adding it leaves the nearest whole number in the low bits
  const Vec bounded = Max(Set(-200.0f), t);
  const Vec whole = (bounded + round) - round;
  return {whole, bounded - whole};
}

// p * 2^n for whole n <= 127; 0 below the normal range.
inline Vec ScaleByPowerOfTwo(Vec p, Vec n) {
  const __m256i exponent = _mm256_cvtps_epi32(Max(Set(-127.0f), n));
  return p * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
}

inline Vec LoadAs(const float* p) { return Load(p); }
inline Vec LoadAs(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec LoadAs(const BFloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
// By way of fp16, which has the bits of e4m3 in the same order and an exponent bias larger by 8: exact, and
// subnormals cost nothing.
inline Vec LoadAs(const E4M3* p) {
  const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7F));
  const __m128i sign = _mm_slli_epi16(_mm_sub_epi16(codes, magnitude), 8);
  const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7F));
  const __m128i half = _mm_or_si128(sign, _mm_slli_epi16(magnitude, 7));
  return _mm256_cvtph_ps(_mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x7C00)))) * Set(0x1p8f);
}
inline void StoreAs(float* p, Vec v) { Store(p, v); }
inline void StoreAs(Half* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline void StoreAs(BFloat16* p, Vec v) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, v);
  for (int i = 0; i < kLanes; ++i) FromFloat(lanes[i], p + i);
}

// rows[i][j] <-> rows[j][i]
inline void Transpose(Vec (&rows)[kLanes]) {
  Vec pairs[kLanes], quads[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0x44);
      quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0xEE);
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}

inline float SumLanes(Vec v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

}  // namespace
}  // namespace tessera::kernels::cpu
