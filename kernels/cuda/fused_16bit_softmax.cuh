// From scores to probabilities, and from accumulators to results.
#pragma once

#include "kernels/cuda/fused_16bit_consumer.cuh"
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda {

// The running softmax of a thread's rows: row_max is m of the paper as a logit, row_sum is l over the
// thread's own columns. A problem without features counts logits to base 2, so that scale and exponent are
// one multiplication; one with features counts natural ones, which may be as large as fp32 holds.
template <class Config>
struct OnlineSoftmax {
  float factor;  // without features: scores times this are logits to base 2; > 0
  float row_max[Config::kRowTiles][2];
  float row_sum[Config::kRowTiles][2];

  __device__ explicit OnlineSoftmax(float log2_factor) : factor(log2_factor) {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      row_max[m][0] = row_max[m][1] = NegativeInfinity();
      row_sum[m][0] = row_sum[m][1] = 0;
    }
  }

  // The scores become P = e^(logit - maximum), and the output so far is brought to the new maximum.
  __device__ void Update(Consumer<Config>& consumer) {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float rescale[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) rescale[half] = UpdateRow(consumer.scores[m], m, half);
      if (__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < Consumer<Config>::kDimTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) consumer.output[m][n][e] *= rescale[e / 2];
        }
      }
    }
  }

  // What exponents are taken relative to: the maximum; 0 for a row that has seen no key.
  __device__ float Reference(int m, int half) const {
    return row_max[m][half] == NegativeInfinity() ? 0.0f : row_max[m][half];
  }
  // The same as a natural logit.
  __device__ float NaturalReference(int m, int half) const {
    return Config::kFeatures ? Reference(m, half) : Reference(m, half) * kLn2;
  }

  // l of the row, over all columns.
  __device__ float RowSum(int m, int half) const { return QuadReduce(row_sum[m][half], Add); }

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

  __device__ float UpdateRow(float (&scores)[Consumer<Config>::kKeyTiles][4], int m, int half) {
    float tile_max = NegativeInfinity();
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kKeyTiles; ++n) {
      tile_max = fmaxf(tile_max, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
    }
    const float before = row_max[m][half];
    row_max[m][half] = fmaxf(before, Logit(QuadReduce(tile_max, Max)));
    const float reference = Reference(m, half);
    const float rescale = Rescale(before, reference);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kKeyTiles; ++n) {
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; ++e) {
        scores[n][e] = Weight(scores[n][e], reference);
        sum += scores[n][e];
      }
    }
    row_sum[m][half] = fmaf(row_sum[m][half], rescale, sum);
    return rescale;
  }

  __device__ static float Max(float a, float b) { return fmaxf(a, b); }
  __device__ static float Add(float a, float b) { return a + b; }

  // Over the four threads that share a row.
  __device__ static float QuadReduce(float value, float (*combine)(float, float)) {
    value = combine(value, __shfl_xor_sync(~0u, value, 1));
    return combine(value, __shfl_xor_sync(~0u, value, 2));
  }
};

// Normalises, adds the sink, and writes O and LSE.
template <class Config>
struct Epilogue {
  const DeviceProblem& problem;
  const BlockWork& work;

  __device__ void Store(const Consumer<Config>& consumer, const OnlineSoftmax<Config>& softmax) const {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float row_sum = softmax.RowSum(m, half);
        const int32_t row = work.first_row + consumer.Row(m, half);
        if (row >= work.num_rows) continue;
        const int32_t head = work.Head(row);
        const int64_t token = work.sequence.q_begin + work.Query(row);
        const RowResult result = Finish(softmax.row_max[m][half], softmax.NaturalReference(m, half), row_sum,
                                        problem.has_sinks, Sink(head));
        if (problem.lse != nullptr && consumer.lane % 4 == 0) {
          problem.lse[token * problem.lse_token_stride + head * problem.lse_head_stride] = result.lse;
        }
        StoreRow(consumer, m, half, token * problem.o.token_stride + head * problem.o.head_stride,
                 result.scale);
      }
    }
  }

 private:
  __device__ float Sink(int32_t head) const { return problem.has_sinks ? problem.sinks()[head] : 0.0f; }

  __device__ void StoreRow(const Consumer<Config>& consumer, int m, int half, int64_t at, float scale) const {
    switch (problem.o.dtype) {
      case TESSERA_DTYPE_FP32:
        return StoreRowAs<float>(consumer, m, half, at, scale);
      case TESSERA_DTYPE_FP16:
        return StoreRowAs<__half>(consumer, m, half, at, scale);
      default:
        return StoreRowAs<__nv_bfloat16>(consumer, m, half, at, scale);
    }
  }

  template <typename Output>
  __device__ void StoreRowAs(const Consumer<Config>& consumer, int m, int half, int64_t at,
                             float scale) const {
    struct alignas(2 * sizeof(Output)) Pair {
      Output low, high;
    };
    Output* const row = static_cast<Output*>(problem.o.data) + at;
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kDimTiles; ++n) {
      const int column = consumer.Column(n, 0);
      const Pair pair{Output(consumer.output[m][n][half * 2] * scale),
                      Output(consumer.output[m][n][half * 2 + 1] * scale)};
      if (problem.o.vectorised) {
        if (column < problem.head_dim_v) *reinterpret_cast<Pair*>(row + column) = pair;
      } else {
        if (column < problem.head_dim_v) row[column] = pair.low;
        if (column + 1 < problem.head_dim_v) row[column + 1] = pair.high;
      }
    }
  }
};

}  // namespace tessera::kernels::cuda
