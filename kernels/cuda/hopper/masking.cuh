// What hides a score of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

template <class Config>
struct Masking {
  const DeviceProblem& problem;
  const BlockWork& work;

  // Hides what the window and the end of the keys hide.
  __device__ void ApplyWindow(Consumer<Config>& consumer, int32_t tile) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowWindow window = WindowOf(work, work.first_row + consumer.Row(half));
      const int32_t first_key = tile * Config::kTileKv + consumer.Column(0, 0);
      const int32_t first = window.first_key - first_key, last = window.last_key - first_key;
#pragma unroll
      for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int32_t column = n * 8 + e;
          if (column < first || column > last) consumer.scores[4 * n + 2 * half + e] = NegativeInfinity();
        }
      }
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
