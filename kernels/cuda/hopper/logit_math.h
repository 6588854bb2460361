// The arithmetic of soft-capped and ALiBi logits, for one score. Runs on the host too, for tests.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#include "kernels/cuda/hopper/ptx.cuh"
#endif

namespace tessera::kernels::cuda::hopper {

__host__ __device__ inline float Reciprocal(float x) {
#ifdef __CUDA_ARCH__
  return ptx::Reciprocal(x);
#else
  return 1.0f / x;
#endif
}

// x brought to [-bound, bound], bound > 0; NaN stays NaN.
__host__ __device__ inline float ClampMagnitude(float x, float bound) {
#ifdef __CUDA_ARCH__
  return ptx::MinMagnitude(x, bound);
#else
  return std::fabs(x) > bound ? std::copysign(bound, x) : x;
#endif
}

// tanh(x) = x P(x^2) / Q(x^2), within kTanhError of it in relative terms: near 0 a huge soft-cap multiplies
// what is left, and far below it many keys may bring the LSE of huge logits back to 0. P and Q, of degree 3,
// coefficients by rising power, are the minimax fit up to kTanhBound, from where on tanh is 1 to that
// accuracy. One instruction of the special-function unit, where expf would take it twice; tanh.approx is off
// by 5e-4.
inline constexpr float kTanhBound = 7.0f;
inline constexpr float kTanhError = 1.5e-6f;
__host__ __device__ inline float Tanh(float x) {
  const float t = ClampMagnitude(x, kTanhBound);
  const float z = t * t;
  const float p = fmaf(fmaf(fmaf(3.99648013e-6f, z, 2.29324105e-3f), z, 0.123222446f), z, 0.999998978f);
  const float q = fmaf(fmaf(fmaf(1.43999739e-4f, z, 2.11523710e-2f), z, 0.456548096f), z, 1.0f);
  return t * p * Reciprocal(q);
}

__host__ __device__ inline float Exp2(float x) {
#ifdef __CUDA_ARCH__
  return ptx::Exp2(x);
#else
  return std::exp2(x);
#endif
}

// factor * x + addend brought to [0, 1]; NaN becomes 0.
__host__ __device__ inline float MultiplyAddSaturated(float x, float factor, float addend) {
#ifdef __CUDA_ARCH__
  return ptx::MultiplyAddSaturated(x, factor, addend);
#else
  return std::fmin(std::fmax(fmaf(x, factor, addend), 0.0f), 1.0f);
#endif
}

// How far slopes[i] * x[i] of ScaledSigmoids() is off, in units of |slope|.
inline constexpr float kSigmoidError = 2.5e-7f;

// Factors whose product slopes[i] * x[i] is slope / (1 + 2^(steepness * score[i])): by
// tanh(x) = 1 - 2 / (1 + e^2x) a soft-capped logit is linear in it, and so takes one more instruction. One
// reciprocal, of the product of the denominators, serves four scores, which are of one row: a multiplication
// costs less than one of the special-function unit's instructions. A NaN makes some of the products NaN and
// the others anything.
__host__ __device__ inline void ScaledSigmoids(const float (&score)[4], float steepness, float slope,
                                               float (&x)[4], float (&slopes)[4]) {
  // Times 2^-31 denominators are at most 1, and the product of four is a normal number; beyond the sigmoid is
  // 0 to kSigmoidError.
  constexpr float kUnit = 0x1p-31f;
  float denominator[4];
  for (int i = 0; i < 4; ++i) {
    denominator[i] = MultiplyAddSaturated(Exp2(score[i] * steepness), kUnit, kUnit);
  }
  const float low = denominator[0] * denominator[1], high = denominator[2] * denominator[3];
  const float inverse = Reciprocal(low * high) * (slope * kUnit);
  slopes[0] = slopes[1] = inverse * high;
  slopes[2] = slopes[3] = inverse * low;
  for (int i = 0; i < 4; ++i) x[i] = denominator[i ^ 1];
}

// -slope |diagonal - key| of keys that all lie on one side of the diagonal is linear in the key: slope times
// (key - diagonal) to its left, the negative of that to its right.
struct LinearBias {
  float step;    // to the next key
  float origin;  // at key `first`

  // `slope` in what unit the bias is to be; `left`: the keys are left of the diagonal.
  __host__ __device__ LinearBias(float slope, bool left, int32_t first, int32_t diagonal)
      : step(left ? slope : -slope), origin(step * static_cast<float>(first - diagonal)) {}

  __host__ __device__ float At(int32_t offset) const {
    return fmaf(step, static_cast<float>(offset), origin);
  }
};

}  // namespace tessera::kernels::cuda::hopper
