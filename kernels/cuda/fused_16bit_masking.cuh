// What the fused kernel for fp16 and bf16 does to scores before the softmax.
#pragma once

#include "kernels/cuda/fused_16bit_consumer.cuh"
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda {

// Everything between Q K^T and the softmax. Without features the scores stay products, which the softmax
// scales.
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
    ForEachRow([&](int m, int half) {
      const RowFeatures f = FeaturesOf(p, work, RowAt(consumer, m, half));
      ForEachScore(consumer, m, half, tile, [&](float& score, int32_t) { score *= p.scale; });
      if (p.softcap > 0) {
        ForEachScore(consumer, m, half, tile,
                     [&](float& score, int32_t) { score = SoftCap(score, p.softcap); });
      }
      if (p.has_alibi) {
        ForEachScore(consumer, m, half, tile, [&](float& score, int32_t key) { score += AlibiBias(f, key); });
      }
      if (f.mask != nullptr) {
        // Keys past the end, whose scores are hidden anyway, have no element. A hidden score is replaced: it
        // may be NaN.
        ForEachScore(consumer, m, half, tile, [&](float& score, int32_t key) {
          const float value = MaskValue(p, f, min(key, work.sequence.kv_len - 1));
          score = value == NegativeInfinity() ? value : score + value;
        });
      }
    });
  }

  // Hides what the window and the end of the keys hide.
  __device__ void ApplyWindow(Consumer<Config>& consumer, int32_t tile) const {
    ForEachRow([&](int m, int half) {
      const RowWindow window = WindowOf(work, RowAt(consumer, m, half));
      ForEachScore(consumer, m, half, tile, [&](float& score, int32_t key) {
        if (!window.Shows(key)) score = NegativeInfinity();
      });
    });
  }

  // A hidden key's P is 0, but 0 * NaN is NaN: values that are not finite are taken out of the tile of V,
  // after they have joined the output of the rows that see them. To be called by all threads, for tiles in
  // which something is hidden.
  __device__ void SetAsideNonFinite(Consumer<Config>& consumer, Fused16BitShared<Config>& shared,
                                    int32_t tile) const {
    if (!__syncthreads_or(HasNonFinite(shared))) return;
    ForEachRow([&](int m, int half) {
      const int32_t row = RowAt(consumer, m, half);
      const RowWindow window = WindowOf(work, row);
      const RowFeatures f = FeaturesOf(problem, work, row);
      const int32_t first_key = tile * Config::kTileKv;
#pragma unroll 1
      for (int32_t key = 0; key < Config::kTileKv; ++key) {
        if (!window.Shows(first_key + key) || IsMasked(problem, f, first_key + key)) continue;
#pragma unroll
        for (int n = 0; n < Consumer<Config>::kDimTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float value = static_cast<float>(*shared.v.At(key, consumer.Column(n, e)));
            if (!isfinite(value)) consumer.output[m][n][half * 2 + e] += value;
          }
        }
      }
    });
    __syncthreads();
    ForEachValueChunk(shared, [](uint4& chunk) {
      for (uint32_t* pair : {&chunk.x, &chunk.y, &chunk.z, &chunk.w}) {
        if (IsNonFinite(*pair)) *pair &= 0xffff0000u;
        if (IsNonFinite(*pair >> 16)) *pair &= 0x0000ffffu;
      }
    });
    __syncthreads();
  }

 private:
  using Element = typename Config::Element;

  // Of the low 16 bits.
  __device__ static bool IsNonFinite(uint32_t bits) {
    constexpr uint32_t kExponent = IsBf16(Element{}) ? 0x7f80u : 0x7c00u;
    return (bits & kExponent) == kExponent;
  }
  __device__ static constexpr bool IsBf16(__nv_bfloat16) { return true; }
  __device__ static constexpr bool IsBf16(__half) { return false; }

  template <class Body>
  __device__ static void ForEachValueChunk(Fused16BitShared<Config>& shared, Body body) {
    using Tile = decltype(shared.v);
#pragma unroll 1
    for (int index = threadIdx.x; index < Config::kTileKv * Tile::kChunks; index += Config::kThreads) {
      body(*shared.v.Chunk(index / Tile::kChunks, index % Tile::kChunks));
    }
  }

  __device__ static bool HasNonFinite(Fused16BitShared<Config>& shared) {
    bool found = false;
    ForEachValueChunk(shared, [&found](uint4& chunk) {
      for (uint32_t pair : {chunk.x, chunk.y, chunk.z, chunk.w}) {
        found |= IsNonFinite(pair) || IsNonFinite(pair >> 16);
      }
    });
    return found;
  }

  __device__ int32_t RowAt(const Consumer<Config>& consumer, int m, int half) const {
    return work.first_row + consumer.Row(m, half);
  }

  template <class Body>
  __device__ static void ForEachRow(Body body) {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) body(m, half);
    }
  }

  template <class Body>
  __device__ static void ForEachScore(Consumer<Config>& consumer, int m, int half, int32_t tile, Body body) {
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        body(consumer.scores[m][n][half * 2 + e], tile * Config::kTileKv + consumer.Column(n, e));
      }
    }
  }
};

}  // namespace tessera::kernels::cuda
