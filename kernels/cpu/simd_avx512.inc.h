// Vectors of sixteen floats: AVX-512 F, BW, VL, DQ. See simd_baseline.inc.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/half.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int kLanes = 16;
constexpr int kBlockVectors = 4;
constexpr int kMicroRows = 6;

using Vec = __m512;

inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec Broadcast(const float* p) { return _mm512_set1_ps(*p); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand when either is NaN.
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec SelectLess(Vec a, Vec b, Vec when_less, Vec otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), otherwise, when_less);
}
inline Vec Abs(Vec a) { return _mm512_abs_ps(a); }
inline bool AnyDiffers(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) != 0; }

// t = whole + rest, whole the nearest integer and |rest| <= 1/2; for t = -inf, a whole of -inf and a rest of
// 0.
struct WholeAndRest {
  Vec whole, rest;
};
inline WholeAndRest SplitWhole(Vec t) {
  const Vec rest = _mm512_reduce_ps(t, _MM_FROUND_TO_NEAREST_INT);
  return {t - rest, rest};
}

// p * 2^n for whole n <= 127.
inline Vec ScaleByPowerOfTwo(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }

inline Vec LoadAs(const float* p) { return Load(p); }
inline Vec LoadAs(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec LoadAs(const BFloat16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// By way of fp16, which has the bits of e4m3 in the same order and an exponent bias larger by 8: exact, and
// subnormals cost nothing.
inline Vec LoadAs(const E4M3* p) {
  const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7F));
  const __m256i sign = _mm256_slli_epi16(_mm256_sub_epi16(codes, magnitude), 8);
  const __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F));
  const __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
  return _mm512_cvtph_ps(_mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7C00)))) *
         Set(0x1p8f);
}
inline void StoreAs(float* p, Vec v) { Store(p, v); }
inline void StoreAs(Half* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
inline void StoreAs(BFloat16* p, Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i high = _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(high));
}

// rows[i][j] <-> rows[j][i]
inline void Transpose(Vec (&rows)[kLanes]) {
  Vec pairs[kLanes], quads[kLanes], octs[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = _mm512_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0x44);
      quads[i + 2 * j + 1] = _mm512_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0xEE);
    }
  }
  // quads[4 * g + c] holds column 4 * lane + c of rows 4g .. 4g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    octs[c] = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0x88);
    octs[c + 4] = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0xDD);
    octs[c + 8] = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0x88);
    octs[c + 12] = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0xDD);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    rows[c] = _mm512_shuffle_f32x4(octs[c], octs[c + 8], 0x88);
    rows[c + 8] = _mm512_shuffle_f32x4(octs[c], octs[c + 8], 0xDD);
    rows[c + 4] = _mm512_shuffle_f32x4(octs[c + 4], octs[c + 12], 0x88);
    rows[c + 12] = _mm512_shuffle_f32x4(octs[c + 4], octs[c + 12], 0xDD);
  }
}

inline float SumLanes(Vec v) { return _mm512_reduce_add_ps(v); }

}  // namespace
}  // namespace tessera::kernels::cpu
