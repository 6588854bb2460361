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
struct TanhFit {
  float p[4] = {0.999998978f, 0.123222446f, 2.29324105e-3f, 3.99648013e-6f};
  float q[4] = {1, 0.456548096f, 2.11523710e-2f, 1.43999739e-4f};
};
__host__ __device__ inline float Tanh(float x) {
  constexpr TanhFit kFit;
  const float t = ClampMagnitude(x, kTanhBound);
  const float z = t * t;
  const float p = fmaf(fmaf(fmaf(kFit.p[3], z, kFit.p[2]), z, kFit.p[1]), z, kFit.p[0]);
  const float q = fmaf(fmaf(fmaf(kFit.q[3], z, kFit.q[2]), z, kFit.q[1]), z, kFit.q[0]);
  return t * p * Reciprocal(q);
}

// softcap log2(e) tanh(score scale / softcap), Tanh's quotient with all factors folded into its coefficients.
// To be kept where instructions read it in place: operands from registers wait for those of the matrix
// products.
struct SoftCapQuotient {
  float bound;       // of |score|
  float p[4], q[3];  // q without the first, which is 1

  // False: some coefficient is not a normal number, or hardly one. Scale and soft-cap are > 0.
  static bool Holds(float scale, float softcap) {
    const float inner = scale / softcap;
    return inner > 1e-4f && inner < 1e4f && softcap > 1e-4f && softcap < 1e4f;
  }
  static SoftCapQuotient Of(float scale, float softcap) {
    constexpr TanhFit kFit;
    const double inner = double{scale} / softcap, z = inner * inner;
    const double outer = inner * softcap * 1.4426950408889634;
    SoftCapQuotient quotient;
    quotient.bound = static_cast<float>(kTanhBound / inner);
    double power = 1;
    for (int i = 0; i < 4; ++i, power *= z) {
      quotient.p[i] = static_cast<float>(kFit.p[i] * power * outer);
      if (i > 0) quotient.q[i - 1] = static_cast<float>(kFit.q[i] * power);
    }
    return quotient;
  }

  // Two scores of a row become numerators, to be multiplied by `inverse`. A multiplication costs less than
  // one of the special-function unit's instructions, so one reciprocal serves both: a NaN spoils both, as it
  // does the row. `limit` is bound.
  __host__ __device__ void Divide(float (&score)[2], float (&inverse)[2], float limit) const {
    float denominator[2];
    for (int i = 0; i < 2; ++i) {
      const float t = ClampMagnitude(score[i], limit), z = t * t;
      score[i] = t * fmaf(fmaf(fmaf(p[3], z, p[2]), z, p[1]), z, p[0]);
      denominator[i] = fmaf(fmaf(fmaf(q[2], z, q[1]), z, q[0]), z, 1.0f);
    }
    const float both = Reciprocal(denominator[0] * denominator[1]);
    inverse[0] = both * denominator[1];
    inverse[1] = both * denominator[0];
  }
};

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
