// The running softmax of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/hopper/logit_math.h"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

// Whether one of the thread's rows is to be rescaled.
__device__ inline bool Moves(float2 rescale) { return rescale.x != 1.0f || rescale.y != 1.0f; }

// Of a thread's two rows. `reference` is m of the paper, a logit as Config's policy counts them, but follows
// the true maximum only once that is kRescaleThreshold above it (FlashAttention-4, arXiv:2603.05451): so
// weights reach 2^kRescaleThreshold and the output is almost never rescaled. row_sum is l over the thread's
// own columns.
template <class Config>
struct OnlineSoftmax {
  using Logits = typename Config::Logits;

  float reference[2], row_sum[2];
  float earlier_sum[2];  // row_sum without the weights of the last Update

  __device__ OnlineSoftmax() { Reset(); }

  __device__ void Reset() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      reference[half] = NegativeInfinity();
      row_sum[half] = earlier_sum[half] = 0;
    }
  }

  // The scores, which `logits` has applied itself to, become P = 2^(logit - reference), or e^ of it where
  // logits are natural. Returns what the output so far must be multiplied by.
  __device__ float2 Update(Consumer<Config>& consumer, const Logits& logits) {
    constexpr float kThreshold = Config::kRescaleThreshold / kLog2OfUnit;
    const float factor = logits.factor();
    float rescale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (Logits::kShifts) AddSteps(consumer.scores, half, logits.step(half));
      float tile_max = ThreadMax(consumer.scores, half);
      // Shifts differ between the threads of a row.
      if constexpr (Logits::kShifts) tile_max = fmaf(tile_max, factor, logits.shift(half));
      tile_max = RowMax(tile_max);
      if constexpr (!Logits::kNatural && !Logits::kShifts) tile_max *= factor;
      const float before = reference[half];
      if (tile_max > before + kThreshold) reference[half] = tile_max;
      const float moved = before - reference[half];
      rescale[half] = reference[half] == NegativeInfinity() ? 1.0f : ptx::Exp2(moved * kLog2OfUnit);
      float offset = reference[half] == NegativeInfinity() ? 0.0f : reference[half];
      if constexpr (Logits::kShifts) offset -= logits.shift(half);
      const float to_base2 = Logits::kNatural ? FactorOfNatural(offset) : factor;
      if constexpr (Logits::kNatural) offset *= to_base2;
      earlier_sum[half] = row_sum[half] * rescale[half];
      float sum[2] = {earlier_sum[half], 0};
#pragma unroll
      for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = consumer.scores[4 * n + 2 * half + e];
          score = ptx::Exp2(fmaf(score, to_base2, -offset));
          sum[e] += score;
        }
      }
      row_sum[half] = sum[0] + sum[1];
    }
    return {rescale[0], rescale[1]};
  }

  // Whether some weight of the last Update, or an earlier one, was NaN.
  __device__ bool SawNan() const { return isnan(row_sum[0] + row_sum[1]); }

  // After NaN among the weights that Update has left gave way to other values. Other sums stay as they are,
  // to the bit, whatever a neighbour's row holds.
  __device__ void SumAnew(const Consumer<Config>& consumer) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!isnan(row_sum[half])) continue;
      float sum = earlier_sum[half];
#pragma unroll
      for (int n = 0; n < Config::kTileKv / 8; ++n) {
        sum += consumer.scores[4 * n + 2 * half] + consumer.scores[4 * n + 2 * half + 1];
      }
      row_sum[half] = sum;
    }
  }

  // A row that is nobody's, whatever its queries are: it has weights of 0, and holds for begun.
  __device__ void LeaveOut(int half) { reference[half] = 0x1p126f; }

  // Whether UpdateBounded may be called: the rows have seen a key.
  __device__ bool Begun() const {
    return reference[0] != NegativeInfinity() && reference[1] != NegativeInfinity();
  }

  // The same for scores whose logits are bounded (kBounded). Weights cannot overflow, so the maximum need not
  // be known before: it is looked for once a sum has grown.
  __device__ float2 UpdateBounded(Consumer<Config>& consumer, const Logits& logits) {
    const float bound = logits.bound(), slope = -2 * bound;
    float offset[2], top[2], sum[2][2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      offset[half] = fmaxf(reference[half], bound - kLargestExponent);
      top[half] = bound - offset[half];
    }
    Pace pace(logits.steepness());
#pragma unroll
    for (int n = 0; n < Config::kTileKv / 8; n += kPaceTiles) {
      pace.Advance();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const of_half = consumer.scores + 4 * n + 2 * half;
        const float scores[4] = {of_half[0], of_half[1], of_half[4], of_half[5]};
        float x[4], slopes[4];
        ScaledSigmoids(scores, pace.steepness, slope, x, slopes);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          pace.weight = ptx::Exp2(fmaf(slopes[i], x[i], top[half]));
          sum[half][i % 2] += pace.weight;
          of_half[i / 2 * 4 + i % 2] = pace.weight;
        }
      }
    }
    const float tile_sum[2] = {sum[0][0] + sum[0][1], sum[1][0] + sum[1][1]};
    constexpr float kLargestSum = 1 << static_cast<int>(Config::kRescaleThreshold);
    bool moves[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      moves[half] = tile_sum[half] > kLargestSum || offset[half] != reference[half];
    }
    if (__any_sync(~0u, moves[0] || moves[1])) {
      return {MoveReference(consumer, 0, moves[0], offset[0], tile_sum[0]),
              MoveReference(consumer, 1, moves[1], offset[1], tile_sum[1])};
    }
    row_sum[0] += tile_sum[0];
    row_sum[1] += tile_sum[1];
    return {1, 1};
  }

  __device__ static void Rescale(Consumer<Config>& consumer, float2 rescale) {
#pragma unroll
    for (int n = 0; n < Config::kDimV / 8; ++n) {
      consumer.output[4 * n] *= rescale.x;
      consumer.output[4 * n + 1] *= rescale.x;
      consumer.output[4 * n + 2] *= rescale.y;
      consumer.output[4 * n + 3] *= rescale.y;
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
  // Weights of a row's tile that were taken with `offset` for reference, and their sum, join the row. Where
  // one of its threads `moves`, the reference becomes the largest logit so far, so that the sums of the next
  // tiles stay small; other rows come out as if this had not been called.
  __device__ float MoveReference(Consumer<Config>& consumer, int half, bool moves, float offset,
                                 float tile_sum) {
    const uint32_t threads_of_row = 0xfu << (consumer.lane & ~3);
    const bool row_moves = (__ballot_sync(~0u, moves) & threads_of_row) != 0;
    const float before = reference[half];
    const float tile_max = offset + ptx::Log2(RowMax(ThreadMax(consumer.scores, half)));
    if (row_moves && tile_max > before) reference[half] = tile_max;
    const float scale = ptx::Exp2(offset - reference[half]), rescale = ptx::Exp2(before - reference[half]);
#pragma unroll
    for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) consumer.scores[4 * n + 2 * half + e] *= scale;
    }
    row_sum[half] = fmaf(row_sum[half], rescale, tile_sum * scale);
    return rescale;
  }

  // Holds a group of scores back until the weights of the group before the last are there. Else the compiler
  // begins with all scores: the special-function unit idles first, and all wait for it in the end. It cannot
  // know that the steepness, which it takes for a result of those weights, is always the same.
  struct Pace {
    float first, steepness, weight = 0, weight_before = 0;

    __device__ explicit Pace(float s) : first(s), steepness(s) {}
    __device__ void Advance() {
      steepness = fmaxf(first, -weight_before);
      weight_before = weight;
    }
  };
  static constexpr int kPaceTiles = 2;  // n8 tiles of scores to a group

  // Sums of a tile's weights of up to 2^kLargestExponent are finite.
  static constexpr float kLargestExponent = 118;

  // Of e to the power of a logit's unit.
  static constexpr float kLog2OfUnit = Logits::kNatural ? kLog2E : 1.0f;

  // What natural logits are times before the exponential to base 2. Near the lowest finite value, which
  // callers mean for -inf, log2(e) would overflow; there logits are so far apart that any factor tells them
  // apart.
  __device__ static float FactorOfNatural(float reference) {
    return fabsf(reference) > 2.3e38f ? 0.5f : kLog2E;
  }

  __device__ static float ThreadMax(const float (&scores)[Config::kTileKv / 2], int half) {
    float max[2] = {scores[2 * half], scores[2 * half + 1]};
#pragma unroll
    for (int n = 1; n < Config::kTileKv / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) max[e] = fmaxf(max[e], scores[4 * n + 2 * half + e]);
    }
    return fmaxf(max[0], max[1]);
  }
  __device__ static void AddSteps(float (&scores)[Config::kTileKv / 2], int half, float step) {
#pragma unroll
    for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[4 * n + 2 * half + e];
        score = fmaf(step, static_cast<float>(n * 8 + e), score);
      }
    }
  }
  // Over the four threads that share a row.
  __device__ static float RowMax(float max) {
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
    return fmaxf(max, __shfl_xor_sync(~0u, max, 2));
  }
};

}  // namespace tessera::kernels::cuda::hopper
