// What NaNs in V do to the output where keys are hidden. A hidden key's P is 0, but 0 * NaN is NaN: so the
// transposers clear them, and here they join the output of the rows that see them, once it is complete.
#pragma once

#include "kernels/cuda/hopper/fp8_consumer.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

// A bit for each element of Consumer::output.
template <Fp8 Config>
struct OutputBits {
  uint32_t words[Config::kDimV / 64];
};

// The elements to which a NaN comes from a tile that hides something, read from where V lies. `first_row`,
// `first_column`: of the thread's elements, in the row tile. Not inlined, so that its code stays out of the
// way of the main loop's.
template <Fp8 Config>
__device__ __noinline__ OutputBits<Config> FindNans(const DeviceProblem& problem, const Posting& row_tile,
                                                    int first_row, int first_column) {
  const BlockWork& work = row_tile.work;
  const auto* const values = static_cast<const uint8_t*>(problem.v.data) +
                             work.sequence.kv_begin * problem.v.token_stride +
                             work.kv_head * problem.v.head_stride;
  // Keys of tiles that hide nothing kept their NaNs.
  const bool masks = Config::Logits::Masks(problem);
  const int32_t full_begin = masks ? 0 : row_tile.walk.full_first_tile * Config::kTileKv;
  const int32_t full_end = masks ? 0 : row_tile.walk.full_end_tile * Config::kTileKv;
  OutputBits<Config> nans{};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = work.first_row + first_row + half * 8;
    const RowWindow window = WindowOf(work, row);
    const RowFeatures features = FeaturesOf(problem, work, row);
#pragma unroll 1
    for (int32_t key = window.first_key; key <= window.last_key; ++key) {
      if (key >= full_begin && key < full_end) {
        key = full_end - 1;
        continue;
      }
      if (IsMasked(problem, features, key)) continue;
      const uint8_t* const value = values + key * problem.v.token_stride;
#pragma unroll
      for (int n = 0; n < Config::kDimV / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = first_column + n * 8 + e, element = 4 * n + 2 * half + e;
          const bool is_nan = column < problem.head_dim_v && (value[column] & 0x7f) == 0x7f;
          nans.words[element / 32] |= static_cast<uint32_t>(is_nan) << element % 32;
        }
      }
    }
  }
  return nans;
}

template <Fp8 Config>
__device__ void AddNans(Consumer<Config>& consumer, const OutputBits<Config>& nans) {
#pragma unroll
  for (int i = 0; i < Config::kDimV / 2; ++i) {
    if (nans.words[i / 32] >> i % 32 & 1) consumer.output[i] = __int_as_float(0x7fffffff);
  }
}

}  // namespace tessera::kernels::cuda::hopper
