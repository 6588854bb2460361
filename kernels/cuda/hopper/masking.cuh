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
    const int32_t first_key = tile * Config::kTileKv + consumer.Column(0, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowWindow window = WindowOf(work, work.first_row + consumer.Row(half));
      const int begin = ColumnsBefore(window.first_key - first_key);
      const int end = ColumnsBefore(window.last_key + 1 - first_key);
#pragma unroll
      for (int word = 0; word < kColumns; word += 32) {
        const uint32_t visible = FirstBits(end - word) & ~FirstBits(begin - word);
#pragma unroll
        for (int i = word; i < min(word + 32, kColumns); ++i) {
          float& score = consumer.scores[i / 2 * 4 + 2 * half + i % 2];
          if ((visible >> (i - word) & 1) == 0) score = NegativeInfinity();
        }
      }
    }
  }

 private:
  // Of a thread in each of its rows: two neighbours of every eight.
  static constexpr int kColumns = Config::kTileKv / 4;

  // How many of the thread's columns lie less than `distance` columns behind its first.
  __device__ static int ColumnsBefore(int32_t distance) {
    return distance <= 0 ? 0 : distance / 8 * 2 + min(distance % 8, 2);
  }
  // The lowest `count` bits, fewer than 0 being none and more than 32 all.
  __device__ static uint32_t FirstBits(int count) { return count >= 32 ? ~0u : (1u << max(count, 0)) - 1; }
};

}  // namespace tessera::kernels::cuda::hopper
