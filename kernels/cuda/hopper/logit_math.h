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
// what is left. P and Q, of degree 3, are the minimax fit up to kTanhBound, from where on tanh is 1 to that
// accuracy. One instruction of the special-function unit, where expf would take it twice; tanh.approx is off
// by 5e-4.
inline constexpr float kTanhBound = 7.2f;
inline constexpr float kTanhError = 2.7e-6f;
__host__ __device__ inline float Tanh(float x, float bound = kTanhBound) {
  const float t = ClampMagnitude(x, bound);
  const float z = t * t;
  const float p = fmaf(fmaf(fmaf(0.027472412f, z, 16.044859f), z, 869.02332f), z, 7066.9893f);
  const float q = fmaf(fmaf(z + 148.73535f, z, 3224.6230f), z, 7066.9980f);
  return t * p * Reciprocal(q);
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
