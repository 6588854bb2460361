// How the products Q K^T of an fp8 tile become what the softmax takes: the policies of logit_policies.cuh
// with a scale for each row, since query heads that share a tile have their own.
#pragma once

#include "kernels/cuda/hopper/fp8_consumer.cuh"
#include "kernels/cuda/hopper/logit_policies.cuh"

namespace tessera::kernels::cuda::hopper {

// Of a thread's two rows: the scales of their logits.
template <class Config>
class RowScales {
 public:
  __device__ void Enter(const DeviceProblem& problem, const BlockWork& work,
                        const Consumer<Config>& consumer) {
    const float* const scales = problem.logit_scales(work.sequence);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale_[half] = scales[work.Head(work.first_row + consumer.Row(half))];
    }
  }
  __device__ float operator[](int half) const { return scale_[half]; }

 private:
  float scale_[2];
};

// A positive scale and no more.
template <class Config>
class Fp8PlainLogits {
 public:
  static constexpr bool kNatural = false;

  __device__ explicit Fp8PlainLogits(const DeviceProblem& problem) : problem_(problem) {}

  __device__ static bool Masks(const DeviceProblem&) { return false; }
  __device__ void Enter(const BlockWork& work, const Consumer<Config>& consumer) {
    scales_.Enter(problem_, work, consumer);
  }
  __device__ void Apply(const BlockWork&, Consumer<Config>&, int32_t) const {}
  __device__ float factor(int half) const { return scales_[half] * kLog2E; }

 private:
  const DeviceProblem& problem_;
  RowScales<Config> scales_;
};

// Everything, in the order of tessera/attention.h; logits are natural.
template <class Config>
class Fp8AnyLogits {
 public:
  static constexpr bool kNatural = true;

  __device__ explicit Fp8AnyLogits(const DeviceProblem& problem) : problem_(problem), scaled_(problem) {}

  __device__ static bool Masks(const DeviceProblem& problem) { return AnyLogits<Config>::Masks(problem); }
  __device__ void Enter(const BlockWork& work, const Consumer<Config>& consumer) {
    scales_.Enter(problem_, work, consumer);
  }
  __device__ void Apply(const BlockWork& work, Consumer<Config>& consumer, int32_t tile) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      ForEachScore(consumer, half, [&](float& score, int) { score *= scales_[half]; });
    }
    scaled_.ApplyScaled(work, consumer, tile);
  }
  __device__ float factor(int) const { return 1; }

 private:
  const DeviceProblem& problem_;
  AnyLogits<Config> scaled_;
  RowScales<Config> scales_;
};

}  // namespace tessera::kernels::cuda::hopper
