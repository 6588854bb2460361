// Normalises, adds the sink, and hands on O and LSE.
#pragma once

#include "kernels/cuda/hopper/output_writer.cuh"
#include "kernels/cuda/hopper/quad.cuh"
#include "kernels/cuda/hopper/softmax.cuh"

namespace tessera::kernels::cuda::hopper {

// What the unnormalised output of a thread's two rows is times.
struct OutputScales {
  float of[2];
};

template <class Config>
struct Epilogue {
  using QueryTile = SlabTile<typename Config::Element, Config::kTileQ, Config::kDimQk>;

  const DeviceProblem& problem;
  const Posting& posting;
  QueryTile& queries;  // of the row tile, of no more use
  const BlockWork& work = posting.work;

  // Needs no output yet. Writes LSE. Of the four threads that share two rows, those with even lanes work out
  // the first, the others the second.
  __device__ OutputScales Finish(const Consumer<Config>& consumer,
                                 const OnlineSoftmax<Config>& softmax) const {
    const float row_sums[2] = {softmax.RowSum(0), softmax.RowSum(1)};
    const int half = consumer.lane % 2;
    const int32_t row = work.first_row + consumer.Row(half);
    const int32_t head = work.Head(row);
    const RowResult result =
        tessera::kernels::cuda::Finish(half == 0 ? softmax.reference[0] : softmax.reference[1],
                                       half == 0 ? softmax.NaturalReference(0) : softmax.NaturalReference(1),
                                       half == 0 ? row_sums[0] : row_sums[1], problem.has_sinks,
                                       problem.has_sinks ? problem.sinks()[head] : 0.0f);
    if (problem.lse != nullptr && consumer.lane % 4 == half && IsValid(consumer, half)) {
      const int64_t token = work.sequence.q_begin + work.Query(row);
      problem.lse[token * problem.lse_token_stride + head * problem.lse_head_stride] = result.lse;
    }
    return {__shfl_sync(~0u, result.scale, consumer.lane & ~1),
            __shfl_sync(~0u, result.scale, consumer.lane | 1)};
  }

  __device__ void Store(const Consumer<Config>& consumer, const OutputScales& scales) const {
    // The vote keeps the branch uniform to the compiler, and with it the main loop's uniform registers.
    if (__any_sync(~0u, !StoresPieces<Config>(problem, posting))) {
      // A copy: registers that a function is given a reference to would live in memory for good.
      float output[Config::kDimV / 2];
#pragma unroll
      for (int i = 0; i < Config::kDimV / 2; ++i) output[i] = consumer.output[i] * scales.of[i / 2 % 2];
      StoreOtherwise(problem, work, posting.spoilt_begin, posting.spoilt_end, output, consumer.Row(0),
                     consumer.Column(0, 0));
    } else if constexpr (Config::kStagesOutput) {
      Stage(consumer, scales);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) StoreRow(consumer, half, scales.of[half]);
    }
  }

 private:
  using Output = typename Config::Output;

  __device__ bool IsValid(const Consumer<Config>& consumer, int half) const {
    return consumer.Row(half) < problem.tile_rows && work.first_row + consumer.Row(half) < work.num_rows;
  }

  __device__ static uint32_t Pack(const Consumer<Config>& consumer, int n, int half, float scale) {
    const float* const at = consumer.output + 4 * n + 2 * half;
    return ptx::Pack(Output{}, at[0] * scale, at[1] * scale);
  }

  // For the OutputWriter. The warp's 16 rows: in two n8 tiles of O lie four matrices of 8 rows and 8 columns.
  __device__ void Stage(const Consumer<Config>& consumer, const OutputScales& scales) const {
    const int row = consumer.warpgroup * 64 + consumer.warp * 16 + consumer.lane % 16;
    const uint32_t address = ptx::SharedAddress(queries.data) + row * 128;
    const int swizzle = consumer.lane / 16 ^ row % 8;
#pragma unroll
    for (int n = 0; n < Config::kDimV / 8; n += 2) {
      uint32_t matrices[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) matrices[i] = Pack(consumer, n + i / 2, i % 2, scales.of[i % 2]);
      ptx::StoreMatrices(address + n / 8 * QueryTile::kSlabBytes + ((n % 8 ^ swizzle) << 4), matrices);
    }
  }

  // In 16-byte pieces.
  __device__ void StoreRow(const Consumer<Config>& consumer, int half, float scale) const {
    const int t = consumer.lane % 4;
    const int columns = IsValid(consumer, half) ? problem.head_dim_v : 0;
    const int32_t tile_row = work.first_row + consumer.Row(half);
    Output* const row = static_cast<Output*>(problem.o.data) +
                        (work.sequence.q_begin + work.Query(tile_row)) * problem.o.token_stride +
                        work.Head(tile_row) * problem.o.head_stride;
    // Four n8 tiles: thread t of the quad collects the 8 columns (16 bytes) of tile t.
#pragma unroll
    for (int n = 0; n < Config::kDimV / 8; n += 4) {
      uint32_t pair[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) pair[i] = Pack(consumer, n + i, half, scale);
      TransposeQuad(pair, t);
      const int column = (n + t) * 8;
      if (column < columns) {
        *reinterpret_cast<uint4*>(row + column) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
      }
    }
  }

  // What is not finite outweighs every weight: it joins the results as it is.
  __device__ static void AddSpoilt(const DeviceProblem& problem, const BlockWork& work, int32_t spoilt_begin,
                                   int32_t spoilt_end, float* output, int first_row, int first_column) {
    const DeviceTensor& v = problem.v;
    const auto* const values = static_cast<const typename Config::Element*>(v.data) +
                               work.sequence.kv_begin * v.token_stride + work.kv_head * v.head_stride;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int32_t row = work.first_row + first_row + half * 8;
      const RowWindow window = WindowOf(work, row);
      const RowFeatures features = FeaturesOf(problem, work, row);
      const int32_t end = min(spoilt_end, window.last_key + 1);
#pragma unroll 1
      for (int32_t key = max(spoilt_begin, window.first_key); key < end; ++key) {
        if (IsMasked(problem, features, key)) continue;
#pragma unroll 1
        for (int i = half * 2; i < Config::kDimV / 2; i += i % 2 == 0 ? 1 : 3) {
          const int column = first_column + i / 4 * 8 + i % 2;
          if (column >= problem.head_dim_v) break;
          const float value = static_cast<float>(values[key * v.token_stride + column]);
          if (!isfinite(value)) output[i] += value;
        }
      }
    }
  }

  // Any dtype and alignment. Not inlined, so that its code stays out of the way of the main loop's.
  __device__ __noinline__ static void StoreOtherwise(const DeviceProblem& problem, const BlockWork& work,
                                                     int32_t spoilt_begin, int32_t spoilt_end, float* output,
                                                     int first_row, int first_column) {
    AddSpoilt(problem, work, spoilt_begin, spoilt_end, output, first_row, first_column);
#pragma unroll 1
    for (int i = 0; i < Config::kDimV / 2; ++i) {
      const int tile_row = first_row + i / 2 % 2 * 8, column = first_column + i / 4 * 8 + i % 2;
      const int32_t row = work.first_row + tile_row;
      if (tile_row >= problem.tile_rows || row >= work.num_rows || column >= problem.head_dim_v) continue;
      const int64_t at = (work.sequence.q_begin + work.Query(row)) * problem.o.token_stride +
                         work.Head(row) * problem.o.head_stride + column;
      switch (problem.o.dtype) {
        case TESSERA_DTYPE_FP32:
          static_cast<float*>(problem.o.data)[at] = output[i];
          break;
        case TESSERA_DTYPE_FP16:
          static_cast<__half*>(problem.o.data)[at] = __float2half(output[i]);
          break;
        default:
          static_cast<__nv_bfloat16*>(problem.o.data)[at] = __float2bfloat16(output[i]);
      }
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
