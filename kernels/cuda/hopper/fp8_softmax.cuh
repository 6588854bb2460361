// The running softmax of a consumer warpgroup of a Hopper kernel for fp8.
#pragma once

#include "kernels/cuda/hopper/fp8_consumer.cuh"
#include "kernels/cuda/hopper/softmax.cuh"

namespace tessera::kernels::cuda::hopper {

// Of a thread's two rows. `reference`, a logit as Config's policy counts them, follows every new maximum,
// 2^kWeightExponent below it: so weights use the range of e4m3 and never leave it. Output and sums are in its
// units. row_sum is over the thread's own columns, of weights before they are rounded.
template <Fp8 Config>
struct OnlineSoftmax<Config> {
  using Logits = typename Config::Logits;

  float reference[2], row_sum[2];

  __device__ OnlineSoftmax() { Reset(); }

  __device__ void Reset() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      reference[half] = NegativeInfinity();
      row_sum[half] = 0;
    }
  }

  // The reference follows the maxima of the scores, which `logits` has applied itself to. Returns what the
  // output so far must be multiplied by.
  __device__ __forceinline__ float2 FollowMaxima(const Consumer<Config>& consumer, const Logits& logits) {
    constexpr float kExponent = Config::kWeightExponent / kLog2OfUnit;
    const float2 maxima = RowMaxima(consumer.scores);
    float rescale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float tile_max = half == 0 ? maxima.x : maxima.y;
      if constexpr (!Logits::kNatural) tile_max *= logits.factor(half);
      const float before = reference[half];
      reference[half] = fmaxf(before, tile_max - kExponent);
      const float moved = before - reference[half];
      rescale[half] = reference[half] == NegativeInfinity() ? 1.0f : ptx::Exp2(moved * kLog2OfUnit);
      row_sum[half] *= rescale[half];
    }
    return {rescale[0], rescale[1]};
  }

  // Then the scores become P = 2^(logit - reference), or e^ of it where logits are natural.
  __device__ __forceinline__ void Weigh(Consumer<Config>& consumer, const Logits& logits) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float offset = reference[half] == NegativeInfinity() ? 0.0f : reference[half];
      float sum[2] = {row_sum[half], 0};
#pragma unroll
      for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = consumer.scores[4 * n + 2 * half + e];
          if constexpr (Logits::kNatural) {
            score = ptx::Exp2((score - offset) * kLog2E);
          } else {
            score = ptx::Exp2(fmaf(score, logits.factor(half), -offset));
          }
          sum[e] += score;
        }
      }
      row_sum[half] = sum[0] + sum[1];
    }
  }

  // The reference as a natural logit; 0 for a row that has seen no key.
  __device__ float NaturalReference(int half) const {
    if (reference[half] == NegativeInfinity()) return 0.0f;
    return Logits::kNatural ? reference[half] : reference[half] * kLn2;
  }

  // Over the four threads that share a row.
  __device__ float RowSum(int half) const {
    float sum = row_sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  }

 private:
  static constexpr float kLog2OfUnit =
      Logits::kNatural ? kLog2E : 1.0f;  // of e to the power of a logit's unit

  // Of both rows. Products of queries and keys have a positive maximum all but always, and positive numbers
  // compare as integers do, of which one instruction takes three.
  __device__ static float2 RowMaxima(const float (&scores)[Config::kTileKv / 2]) {
    if constexpr (!Logits::kNatural) {
      const int32_t first = PositiveRowMax(scores, 0), second = PositiveRowMax(scores, 1);
      if (!__any_sync(~0u, first == 0 || second == 0)) {
        return {__int_as_float(first), __int_as_float(second)};
      }
    }
    return {RowMax(scores, 0), RowMax(scores, 1)};
  }

  // 0 where there is none above it.
  __device__ static int32_t PositiveRowMax(const float (&scores)[Config::kTileKv / 2], int half) {
    int32_t max = 0;
#pragma unroll
    for (int n = 0; n < Config::kTileKv / 8; ++n) {
      const float* const at = scores + 4 * n + 2 * half;
      max = __vimax3_s32(max, __float_as_int(at[0]), __float_as_int(at[1]));
    }
    max = ::max(max, __shfl_xor_sync(~0u, max, 1));
    return ::max(max, __shfl_xor_sync(~0u, max, 2));
  }

  __device__ static float RowMax(const float (&scores)[Config::kTileKv / 2], int half) {
    float max[2] = {scores[2 * half], scores[2 * half + 1]};
#pragma unroll
    for (int n = 1; n < Config::kTileKv / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) max[e] = fmaxf(max[e], scores[4 * n + 2 * half + e]);
    }
    float joint = fmaxf(max[0], max[1]);
    joint = fmaxf(joint, __shfl_xor_sync(~0u, joint, 1));
    return fmaxf(joint, __shfl_xor_sync(~0u, joint, 2));
  }
};

}  // namespace tessera::kernels::cuda::hopper
