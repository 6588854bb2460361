// What the fused fp32 kernel does to scores between Q K^T and the softmax.
#pragma once

#include "kernels/cuda/fused_fp32_consumer.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::fp32 {

// Without features the scores stay products, which the softmax scales.
template <class Config>
struct Masking {
  const DeviceProblem& problem;
  const BlockWork& work;

  // What `scores` must be multiplied by to be logits to base 2, without features; with them they are logits
  // already.
  __device__ float Log2Factor() const { return problem.scale * kLog2E; }

  // Soft-cap, ALiBi and dense mask, in this order.
  __device__ void ApplyFeatures(Consumer<Config>& consumer, int32_t tile) const {
    const DeviceProblem& p = problem;
    ForEachRow(consumer, [&](int i, int32_t row) {
      const RowFeatures f = FeaturesOf(p, work, row);
      ForEachScore(consumer, i, tile, [&](float& score, int32_t) { score *= p.scale; });
      if (p.softcap > 0) {
        ForEachScore(consumer, i, tile, [&](float& score, int32_t) { score = SoftCap(score, p.softcap); });
      }
      if (p.has_alibi) {
        ForEachScore(consumer, i, tile, [&](float& score, int32_t key) { score += AlibiBias(f, key); });
      }
      if (f.mask != nullptr) {
        ForEachScore(consumer, i, tile, [&](float& score, int32_t key) {
          // Keys past the end, whose scores are hidden anyway, have no element.
          const float value = MaskValue(p, f, min(key, work.sequence.kv_len - 1));
          score = value == NegativeInfinity() ? value : score + value;  // the score may be NaN
        });
      }
    });
  }

  // Hides what the window and the end of the keys hide.
  __device__ void ApplyWindow(Consumer<Config>& consumer, int32_t tile) const {
    ForEachRow(consumer, [&](int i, int32_t row) {
      const RowWindow window = WindowOf(work, row);
      ForEachScore(consumer, i, tile, [&](float& score, int32_t key) {
        if (!window.Shows(key)) score = NegativeInfinity();
      });
    });
  }

  // A hidden key's P is 0, but 0 * NaN is NaN: values that are not finite are taken out of the slice of V,
  // after they have joined the sums of the rows that see them. To be called by all threads, for tiles in
  // which something is hidden.
  __device__ void SetAsideNonFinite(Consumer<Config>& consumer, ValueSlice<Config>& values, int32_t tile,
                                    int slice) const {
    if (!__syncthreads_or(HasNonFinite(values))) return;
    const int32_t first_key = tile * Config::kTileKv + slice * Config::kSliceKeys;
    ForEachRow(consumer, [&](int i, int32_t row) {
      const RowWindow window = WindowOf(work, row);
      const RowFeatures f = FeaturesOf(problem, work, row);
#pragma unroll 1
      for (int key = 0; key < Config::kSliceKeys; ++key) {
        if (!window.Shows(first_key + key) || IsMasked(problem, f, first_key + key)) continue;
#pragma unroll
        for (int j = 0; j < Consumer<Config>::kDims; ++j) {
          const float value = *values.At(key, consumer.Column(j));
          if (!isfinite(value)) consumer.sums[i][j] += value;
        }
      }
    });
    __syncthreads();
    ForEachValueChunk(values, [](float4& chunk) {
      for (float* value : {&chunk.x, &chunk.y, &chunk.z, &chunk.w}) {
        if (!isfinite(*value)) *value = 0;
      }
    });
    __syncthreads();
  }

 private:
  template <class Body>
  __device__ static void ForEachValueChunk(ValueSlice<Config>& values, Body body) {
    constexpr int kChunks = ValueSlice<Config>::kRows * ValueSlice<Config>::kChunks;
#pragma unroll 1
    for (int index = threadIdx.x; index < kChunks; index += Config::kThreads) body(values.chunks[index]);
  }

  __device__ static bool HasNonFinite(ValueSlice<Config>& values) {
    bool found = false;
    ForEachValueChunk(values, [&found](const float4& chunk) {
      for (const float value : {chunk.x, chunk.y, chunk.z, chunk.w}) found |= !isfinite(value);
    });
    return found;
  }

  template <class Body>
  __device__ void ForEachRow(const Consumer<Config>& consumer, Body body) const {
#pragma unroll
    for (int i = 0; i < Config::kThreadRows; ++i) body(i, work.first_row + consumer.Row(i));
  }

  template <class Body>
  __device__ static void ForEachScore(Consumer<Config>& consumer, int i, int32_t tile, Body body) {
#pragma unroll
    for (int j = 0; j < Consumer<Config>::kKeys; ++j) {
      body(consumer.scores[i][j], tile * Config::kTileKv + consumer.Column(j));
    }
  }
};

}  // namespace tessera::kernels::cuda::fp32
