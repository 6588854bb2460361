// How the products Q K^T of a tile become what the softmax takes, by problem: one policy each, a parameter of
// Config. Each has
//   kNatural           logits are natural; else to base 2
//   kShifts            step() and shift() are not 0; threads that share a row may have different shifts
//   kBounded           logits have a bound(); where nothing is hidden and IsSmooth(), they are bound()
//                      plus ScaledSigmoids() of them, steepness() and -2 bound()
//   Masks(problem)     whether there is a dense mask
//   Enter(work, c)     a new row tile begins
//   Load(work, c, t)   and it begins with tile t
//   Apply(work, c, t)  changes the scores, so that (score + step(half) * column) * factor() + shift(half) are
//                      the logits, columns counted from the thread's first; factor() is > 0, and 1 with
//                      kNatural
// and may have
//   Storage            what it needs of shared memory; its constructor takes that too
//   LoadNext()         called after Apply, where another tile of keys comes next
//   HideNan(work, c, t)  clears weights that are NaN although their keys are hidden: Apply leaves such logits
// What the window hides comes after it, and in place of what it made of hidden scores.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/hopper/logit_math.h"
#include "kernels/cuda/hopper/mask_scores.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

template <class Config, class Body>
__device__ inline void ForEachScore(Consumer<Config>& consumer, Body body) {
#pragma unroll
  for (int i = 0; i < Config::kTileKv / 2; ++i) body(consumer.scores[i]);
}

// Of one of the thread's rows: body(score, column), columns counted from the thread's first.
template <class Config, class Body>
__device__ inline void ForEachScore(Consumer<Config>& consumer, int half, Body body) {
#pragma unroll
  for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) body(consumer.scores[4 * n + 2 * half + e], n * 8 + e);
  }
}

// A positive scale and no more.
template <class Config>
class PlainLogits {
 public:
  static constexpr bool kNatural = false, kShifts = false, kBounded = false;

  __device__ explicit PlainLogits(const DeviceProblem& problem) : factor_(problem.scale * kLog2E) {}

  __device__ static bool Masks(const DeviceProblem&) { return false; }
  __device__ void Enter(const BlockWork&, const Consumer<Config>&) {}
  __device__ void Load(const BlockWork&, const Consumer<Config>&, int32_t) {}
  __device__ void Apply(const BlockWork&, Consumer<Config>&, int32_t) const {}
  __device__ float factor() const { return factor_; }
  __device__ float shift(int) const { return 0; }

 private:
  float factor_;
};

// A soft-cap, with scale / softcap and softcap * log2(e) finite.
template <class Config>
class SoftCapLogits {
 public:
  static constexpr bool kNatural = false, kShifts = false, kBounded = true;

  __device__ explicit SoftCapLogits(const DeviceProblem& problem)
      : inner_(problem.scale / problem.softcap), factor_(problem.softcap * kLog2E) {}

  __device__ static bool Masks(const DeviceProblem&) { return false; }
  __device__ void Enter(const BlockWork&, const Consumer<Config>&) {}
  __device__ void Load(const BlockWork&, const Consumer<Config>&, int32_t) {}
  __device__ void Apply(const BlockWork&, Consumer<Config>& consumer, int32_t) const {
    ForEachScore(consumer, [&](float& score) { score = Tanh(score * inner_); });
  }
  __device__ float factor() const { return factor_; }
  __device__ float shift(int) const { return 0; }

  __device__ float bound() const { return factor_; }
  __device__ float steepness() const { return 2 * kLog2E * inner_; }
  // Whether sigmoids are accurate enough, and steepness() is finite.
  __device__ bool IsSmooth() const { return factor_ <= kLargestBound && inner_ <= kLargestInner; }

 private:
  // The sigmoids' absolute error counts twice the bound: soft-caps up to 50.
  static constexpr float kLargestBound = 73, kLargestInner = 1e30f;
  float inner_, factor_;
};

// ALiBi and a positive scale, with slope / scale finite times the keys of a tile. In tiles on one side of all
// rows' diagonals the bias is linear: that of their first key goes to the shift, the rest is left to the
// softmax, which looks for the maximum in the same pass.
template <class Config>
class AlibiLogits {
 public:
  static constexpr bool kNatural = false, kShifts = true, kBounded = false;

  __device__ explicit AlibiLogits(const DeviceProblem& problem)
      : problem_(problem), factor_(problem.scale * kLog2E), inverse_scale_(1 / problem.scale) {}

  __device__ static bool Masks(const DeviceProblem&) { return false; }

  __device__ void Enter(const BlockWork& work, const Consumer<Config>& consumer) {
    const int32_t diagonal = work.sequence.diagonal;
    first_diagonal_ = work.Query(work.first_row) + diagonal;
    last_diagonal_ = work.Query(work.first_row + problem_.tile_rows - 1) + diagonal;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = work.first_row + consumer.Row(half);
      diagonal_[half] = work.Query(row) + diagonal - consumer.Column(0, 0);
      slope_[half] = problem_.alibi_slopes()[work.Head(row)];
    }
  }

  __device__ void Load(const BlockWork&, const Consumer<Config>&, int32_t) {}

  __device__ void Apply(const BlockWork&, Consumer<Config>& consumer, int32_t tile) {
    const int32_t first_key = tile * Config::kTileKv;
    const bool left = first_key + Config::kTileKv - 1 <= first_diagonal_;
    const bool linear = left || first_key >= last_diagonal_;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const LinearBias bias(slope_[half] * inverse_scale_, left, first_key, diagonal_[half]);
      step_[half] = linear ? bias.step : 0;
      shift_[half] = linear ? bias.origin * factor_ : 0;
    }
    if (!__any_sync(~0u, linear)) AddDistances(consumer, first_key);
  }

  __device__ float factor() const { return factor_; }
  __device__ float step(int half) const { return step_[half]; }
  __device__ float shift(int half) const { return shift_[half]; }

 private:
  const DeviceProblem& problem_;
  float factor_, inverse_scale_;
  int32_t first_diagonal_, last_diagonal_;  // of the tile's rows
  int32_t diagonal_[2];                     // less the thread's first column
  float slope_[2];
  float step_[2], shift_[2];

  __device__ void AddDistances(Consumer<Config>& consumer, int32_t first_key) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float slope = slope_[half] * inverse_scale_;
      const float distance = static_cast<float>(first_key - diagonal_[half]);
      ForEachScore(consumer, half, [&](float& score, int column) {
        score = fmaf(-slope, fabsf(distance + static_cast<float>(column)), score);
      });
    }
  }
};

// A dense mask, and any scale. Logits are natural: the lowest additive values there are, which callers mean
// for -inf, would overflow to base 2.
template <class Config>
class DenseMaskLogits {
 public:
  static constexpr bool kNatural = true, kShifts = false, kBounded = false;

  using Storage = typename MaskStrip<Config>::Storage;

  __device__ DenseMaskLogits(const DeviceProblem& problem, Storage& storage)
      : problem_(problem), mask_(storage) {}

  __device__ static bool Masks(const DeviceProblem&) { return true; }
  __device__ void Enter(const BlockWork& work, const Consumer<Config>& consumer) {
    mask_.Enter(problem_, work, consumer);
  }
  __device__ void Load(const BlockWork& work, const Consumer<Config>&, int32_t tile) {
    mask_.Load(problem_, work, tile);
  }
  __device__ void LoadNext() { mask_.LoadNext(problem_); }
  __device__ void Apply(const BlockWork& work, Consumer<Config>& consumer, int32_t tile) const {
    mask_.Apply(problem_, work, consumer, tile);
  }
  __device__ void HideNan(const BlockWork& work, Consumer<Config>& consumer, int32_t tile) const {
    hopper::HideNan(problem_, work, consumer, tile);
  }
  __device__ float factor() const { return 1; }
  __device__ float shift(int) const { return 0; }

 private:
  const DeviceProblem& problem_;
  MaskStrip<Config> mask_;
};

// Everything, in the order of tessera/attention.h; logits are natural.
template <class Config>
class AnyLogits {
 public:
  static constexpr bool kNatural = true, kShifts = false, kBounded = false;

  __device__ explicit AnyLogits(const DeviceProblem& problem) : problem_(problem) {}

  __device__ static bool Masks(const DeviceProblem& problem) {
    return problem.mask_kind != TESSERA_MASK_NONE;
  }
  __device__ void Enter(const BlockWork&, const Consumer<Config>&) {}
  __device__ void Load(const BlockWork&, const Consumer<Config>&, int32_t) {}

  __device__ void Apply(const BlockWork& work, Consumer<Config>& consumer, int32_t tile) const {
    ForEachScore(consumer, [&](float& score) { score *= problem_.scale; });
    ApplyScaled(work, consumer, tile);
  }

  // For scores that have been scaled.
  __device__ void ApplyScaled(const BlockWork& work, Consumer<Config>& consumer, int32_t tile) const {
    const DeviceProblem& p = problem_;
    if (p.softcap > 0) {
      // Finite, so that 0 stays 0 under a cap whose inverse is not.
      const float inverse = fminf(1.0f / p.softcap, kLargest);
      ForEachScore(consumer, [&](float& score) { score = p.softcap * Tanh(score * inverse); });
    }
    if (p.has_alibi) AddAlibi(work, consumer, tile);
    if (Masks(p)) MaskScores(p, work, consumer, tile);
  }

  __device__ float factor() const { return 1; }
  __device__ float shift(int) const { return 0; }

 private:
  static constexpr float kLargest = 3.4028235e38f;
  const DeviceProblem& problem_;

  __device__ void AddAlibi(const BlockWork& work, Consumer<Config>& consumer, int32_t tile) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowFeatures f = FeaturesOf(problem_, work, work.first_row + consumer.Row(half));
      const int32_t first_key = tile * Config::kTileKv + consumer.Column(0, 0);
      ForEachScore(consumer, half,
                   [&](float& score, int column) { score += AlibiBias(f, first_key + column); });
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
