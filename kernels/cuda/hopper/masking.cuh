// What hides a score of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

template <class Config>
struct Masking {
  const DeviceProblem& problem;
  const BlockWork& work;

  // Hides what the window and the end of the keys hide. `right` and `left`: the ends at which they may cut
  // the tile.
  __device__ void ApplyWindow(Consumer<Config>& consumer, int32_t tile, bool right = true,
                              bool left = true) const {
    const int32_t first_key = tile * Config::kTileKv + consumer.Column(0, 0);
    const RowWindow windows[2] = {WindowOf(work, work.first_row + consumer.Row(0)),
                                  WindowOf(work, work.first_row + consumer.Row(1))};
    if (right) {
      Hide(consumer, [&](int half, int column) { return column > windows[half].last_key - first_key; });
    }
    if (left) {
      Hide(consumer, [&](int half, int column) { return column < windows[half].first_key - first_key; });
    }
  }

 private:
  // Columns are counted from the thread's first.
  template <class Hides>
  __device__ static void Hide(Consumer<Config>& consumer, Hides hides) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (hides(half, n * 8 + e)) consumer.scores[4 * n + 2 * half + e] = NegativeInfinity();
        }
      }
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
