// Fused attention in fp32 arithmetic throughout (FFMA; compute capability 8.0 and later), after
// FlashAttention-2 (arXiv:2307.08691, Algorithm 1). A block takes a tile of query rows, walks the K/V tiles
// that its rows see from the last to the first, and keeps scores (S), the running row maximum (m), row sum
// (l) and output (O) in registers; the softmax's weights (P) go through shared memory to be multiplied by V.
// The products with a tile of V are summed apart and join the output once, so that rounding errors hardly
// grow with the number of keys.
#pragma once

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/fused_fp32_consumer.cuh"
#include "kernels/cuda/fused_fp32_masking.cuh"
#include "kernels/cuda/fused_fp32_tiles.cuh"
#include "kernels/cuda/fused_kernel.h"
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda::fp32 {

// The running softmax of a thread's rows: row_max is m of the paper as a logit, row_sum is l over the
// thread's own columns. A problem without features counts logits to base 2, so that scale and exponent are
// one multiplication; one with features counts natural ones, which may be as large as fp32 holds.
template <class Config>
struct OnlineSoftmax {
  static constexpr int kRows = Config::kThreadRows;

  float factor;  // without features: scores times this are logits to base 2; > 0
  float row_max[kRows], row_sum[kRows];
  float rescale[kRows];  // brings sums of before the last update to its maximum

  __device__ explicit OnlineSoftmax(float log2_factor) : factor(log2_factor) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      row_max[i] = NegativeInfinity();
      row_sum[i] = 0;
    }
  }

  // The scores become P = e^(logit - maximum).
  __device__ void Update(Consumer<Config>& consumer) {
    float tile_max[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      tile_max[i] = consumer.scores[i][0];
#pragma unroll
      for (int j = 1; j < Consumer<Config>::kKeys; ++j) {
        tile_max[i] = fmaxf(tile_max[i], consumer.scores[i][j]);
      }
    }
    ReduceRows(tile_max, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float before = row_max[i];
      row_max[i] = fmaxf(before, Logit(tile_max[i]));
      const float reference = Reference(i);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < Consumer<Config>::kKeys; ++j) {
        consumer.scores[i][j] = Weight(consumer.scores[i][j], reference);
        sum += consumer.scores[i][j];
      }
      rescale[i] = Rescale(before, reference);
      row_sum[i] = fmaf(row_sum[i], rescale[i], sum);
    }
  }

  // Makes row_sum l of the rows, over all columns.
  __device__ void Finish() {
    ReduceRows(row_sum, [](float a, float b) { return a + b; });
  }

  // What exponents are taken relative to: the maximum; 0 for a row that has seen no key.
  __device__ float Reference(int i) const { return row_max[i] == NegativeInfinity() ? 0.0f : row_max[i]; }
  // The same as a natural logit.
  __device__ float NaturalReference(int i) const {
    return Config::kFeatures ? Reference(i) : Reference(i) * kLn2;
  }

 private:
  __device__ float Logit(float score) const { return Config::kFeatures ? score : score * factor; }
  // e^(logit of the score - reference)
  __device__ float Weight(float score, float reference) const {
    if constexpr (Config::kFeatures) return ptx::Exp2((score - reference) * kLog2E);
    return ptx::Exp2(fmaf(score, factor, -reference));
  }
  // Brings sums relative to `before` to `reference`: exactly 1 where the maximum stays.
  __device__ static float Rescale(float before, float reference) {
    return ptx::Exp2((before - reference) * (Config::kFeatures ? kLog2E : 1.0f));
  }

  // Combines each row's values over the lanes that share it. The rows' shuffles alternate, to overlap.
  template <class Combine>
  __device__ static void ReduceRows(float (&values)[kRows], Combine combine) {
    constexpr int kNextColumn = Config::kRowLanes == 1 ? 1 : 2;  // from a lane to that of the next column
#pragma unroll
    for (int distance = kNextColumn; distance < kNextColumn * Config::kColumnLanes; distance *= 2) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        values[i] = combine(values[i], __shfl_xor_sync(~0u, values[i], distance));
      }
    }
  }
};

// Normalises, adds the sink, and writes O and LSE.
template <class Config>
struct Epilogue {
  const DeviceProblem& problem;
  const BlockWork& work;

  __device__ void Store(const Consumer<Config>& consumer, OnlineSoftmax<Config>& softmax) const {
    softmax.Finish();
#pragma unroll
    for (int i = 0; i < Config::kThreadRows; ++i) {
      const int32_t row = work.first_row + consumer.Row(i);
      if (row >= work.num_rows) continue;
      const int32_t head = work.Head(row);
      const int64_t token = work.sequence.q_begin + work.Query(row);
      const RowResult result = Finish(softmax.row_max[i], softmax.NaturalReference(i), softmax.row_sum[i],
                                      problem.has_sinks, problem.has_sinks ? problem.sinks()[head] : 0.0f);
      if (problem.lse != nullptr && consumer.column_lane == 0) {
        problem.lse[token * problem.lse_token_stride + head * problem.lse_head_stride] = result.lse;
      }
      StoreRow(consumer, consumer.output[i], token * problem.o.token_stride + head * problem.o.head_stride,
               result.scale);
    }
  }

 private:
  static constexpr int kDims = Consumer<Config>::kDims;

  __device__ void StoreRow(const Consumer<Config>& consumer, const float (&output)[kDims], int64_t at,
                           float scale) const {
    switch (problem.o.dtype) {
      case TESSERA_DTYPE_FP32:
        return StoreRowAs<float>(consumer, output, at, scale);
      case TESSERA_DTYPE_FP16:
        return StoreRowAs<__half>(consumer, output, at, scale);
      default:
        return StoreRowAs<__nv_bfloat16>(consumer, output, at, scale);
    }
  }

  template <typename Output>
  __device__ void StoreRowAs(const Consumer<Config>& consumer, const float (&output)[kDims], int64_t at,
                             float scale) const {
    struct alignas(4 * sizeof(Output)) Chunk {
      Output elements[4];
    };
    Output* const row = static_cast<Output*>(problem.o.data) + at;
#pragma unroll
    for (int j = 0; j < kDims; j += 4) {
      const int column = consumer.Column(j);
      const Chunk chunk{{Output(output[j] * scale), Output(output[j + 1] * scale),
                         Output(output[j + 2] * scale), Output(output[j + 3] * scale)}};
      if (problem.o.vectorised) {
        if (column < problem.head_dim_v) *reinterpret_cast<Chunk*>(row + column) = chunk;
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (column + e < problem.head_dim_v) row[column + e] = chunk.elements[e];
        }
      }
    }
  }
};

// The kernel's body, for the block's share of `problem`.
template <class Config>
__device__ void FusedFp32(const DeviceProblem& problem) {
  extern __shared__ __align__(128) std::byte shared_memory[];
  static_assert(sizeof(Shared<Config>) <= kMaxSharedBytes);
  auto& shared = *reinterpret_cast<Shared<Config>*>(shared_memory);
  const BlockWork work = FindWork(problem, static_cast<int32_t>(blockIdx.x));
  const KeyWalk walk = WalkOf(work, Config::kTileQ, Config::kTileKv);

  Producer<Config> producer(problem, work, walk, shared);
  const Masking<Config> masking{problem, work};
  Consumer<Config> consumer;
  OnlineSoftmax<Config> softmax(masking.Log2Factor());

  producer.Start();
  for (int32_t tile = walk.end_tile - 1; tile >= walk.first_tile; --tile) {
    consumer.ClearScores();
    for (int slice = 0; slice < producer.KeySlices(); ++slice) {
      consumer.Scores(shared.q, producer.Next().keys, slice);
    }

    const bool is_full = walk.IsFull(tile);
    if constexpr (Config::kFeatures) masking.ApplyFeatures(consumer, tile);
    if (!is_full) masking.ApplyWindow(consumer, tile);
    const bool hides = !is_full || (Config::kFeatures && problem.mask_kind != TESSERA_MASK_NONE);
    softmax.Update(consumer);
    consumer.StoreWeights(shared.weights);

    consumer.ClearSums();
    for (int slice = 0; slice < Config::kValueSlices; ++slice) {
      ValueSlice<Config>& values = producer.Next().values;
      if (hides) masking.SetAsideNonFinite(consumer, values, tile, slice);
      consumer.Accumulate(shared.weights, values, slice);
    }
    consumer.Join(softmax.rescale);
  }
  Epilogue<Config>{problem, work}.Store(consumer, softmax);
}

// The kernel that runs FusedFp32<Config>, as the dispatch sees it.
template <class Config>
FusedKernel Describe(const char* name, void (*function)(DeviceProblem)) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(function),
          .family = KernelFamily::kPortable,
          .logits = Config::kFeatures ? Logits::kAny : Logits::kPlain,
          .head_dim_qk = Config::kHeadDim,
          .head_dim_v = Config::kHeadDim,
          .key_tile_us = 0,
          .row_tile_us = 0,
          .tile_q = Config::kTileQ,
          .tile_kv = Config::kTileKv,
          .stages = Config::kStages,
          .threads = Config::kThreads,
          .shared_memory_bytes = sizeof(Shared<Config>),
          .blocks_per_multiprocessor = Config::kBlocksPerMultiprocessor};
}

}  // namespace tessera::kernels::cuda::fp32
