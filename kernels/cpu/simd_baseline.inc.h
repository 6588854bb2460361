// Vectors of four floats in plain C++ (GCC vector extension): SSE2 on x86-64, NEON on AArch64. The three
// simd_*.inc.h define the same names; exactly one goes into a translation unit, where everything has internal
// linkage.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/half.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int kLanes = 4;
constexpr int kBlockVectors = 2;  // vectors of query rows in a register tile
constexpr int kMicroRows = 6;     // scalars of the other operand in a register tile

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));

inline Vec Set(float x) { return Vec{x, x, x, x}; }
inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec Broadcast(const float* p) { return Set(*p); }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
// The second operand when either is NaN.
inline Vec Max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec Min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec SelectLess(Vec a, Vec b, Vec when_less, Vec otherwise) { return a < b ? when_less : otherwise; }
inline Vec Abs(Vec a) { return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(a) & 0x7FFFFFFF); }
inline bool AnyDiffers(Vec a, Vec b) {
  const IntVec differs = a != b;
  return (differs[0] | differs[1] | differs[2] | differs[3]) != 0;
}

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
  const Vec in_range = Max(Set(-127.0f), n);
  const Vec power = reinterpret_cast<Vec>((__builtin_convertvector(in_range, IntVec) + 127) << 23);
  return p * power;
}

inline Vec LoadAs(const float* p) { return Load(p); }
template <typename T>
inline Vec LoadAs(const T* p) {
  return Vec{ToFloat(p[0]), ToFloat(p[1]), ToFloat(p[2]), ToFloat(p[3])};
}
inline void StoreAs(float* p, Vec v) { Store(p, v); }
template <typename T>
inline void StoreAs(T* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) FromFloat(v[i], p + i);
}

// rows[i][j] <-> rows[j][i]
inline void Transpose(Vec (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float swapped = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = swapped;
    }
  }
}

inline float SumLanes(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }

}  // namespace
}  // namespace tessera::kernels::cpu
