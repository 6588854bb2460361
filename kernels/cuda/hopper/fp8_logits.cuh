// How the products Q K^T of an fp8 tile become what the softmax takes: the policies of logit_policies.cuh
// with a scale for each row, since query heads that share a tile have their own.
#pragma once

#include "kernels/cuda/hopper/fp8_consumer.cuh"
#include "kernels/cuda/hopper/logit_policies.cuh"

namespace tessera::kernels::cuda::hopper {

// A positive scale and no more.
template <class Config>
class Fp8PlainLogits {
 public:
  static constexpr bool kNatural = false;

  __device__ explicit Fp8PlainLogits(const DeviceProblem& problem) : problem_(problem) {}

  __device__ static bool Masks(const DeviceProblem&) { return false; }
  __device__ void Enter(const BlockWork& work, const Consumer<Config>& consumer) {
    const float* const scales = problem_.logit_scales(work.sequence);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor_[half] = scales[work.Head(work.first_row + consumer.Row(half))] * kLog2E;
    }
  }
  __device__ void Apply(const BlockWork&, Consumer<Config>&, int32_t) const {}
  __device__ float factor(int half) const { return factor_[half]; }

 private:
  const DeviceProblem& problem_;
  float factor_[2];
};

}  // namespace tessera::kernels::cuda::hopper
