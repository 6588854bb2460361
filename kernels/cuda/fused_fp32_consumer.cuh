// What the threads of the fused fp32 kernel hold in registers, and the two matrix products.
#pragma once

#include "kernels/cuda/fused_fp32_tiles.cuh"

namespace tessera::kernels::cuda::fp32 {

// A thread's share of the score and output tiles: kThreadRows rows, kRowLanes apart, and of each the columns
// in chunks of four, kColumnLanes chunks apart.
template <class Config>
struct Consumer {
  static constexpr int kRows = Config::kThreadRows;
  static constexpr int kKeys = Config::kTileKv / Config::kColumnLanes;   // of each row of scores
  static constexpr int kDims = Config::kHeadDim / Config::kColumnLanes;  // of each row of output

  float scores[kRows][kKeys];  // (kTileQ, kTileKv) of the block
  float sums[kRows][kDims];    // (kTileQ, kHeadDim) of the block: P V of one tile of keys
  float output[kRows][kDims];  // (kTileQ, kHeadDim) of the block, unnormalised
  int first_row, row_lane, column_lane;

  __device__ Consumer() {
    // The lowest bit of a lane tells rows, the next one columns: each load then reads one address in both
    // lanes of a pair, which halves its passes over the banks.
    constexpr int kPaired = Config::kRowLanes == 1 ? 1 : 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    column_lane = lane / kPaired % Config::kColumnLanes;
    row_lane = lane % kPaired + lane / (kPaired * Config::kColumnLanes) * kPaired;
    first_row = warp * kRows * Config::kRowLanes + row_lane;
    Clear(output);
  }

  // Of the block's tile, row i of the thread.
  __device__ int Row(int i) const { return first_row + i * Config::kRowLanes; }
  // Of the tile of keys (or dims), column j of the thread.
  __device__ int Column(int j) const { return Chunk(j / 4) * 4 + j % 4; }
  __device__ int Chunk(int j) const { return j * Config::kColumnLanes + column_lane; }

  __device__ void ClearScores() { Clear(scores); }
  __device__ void ClearSums() { Clear(sums); }

  // scores += Q K^T over one slice of dims: (kTileQ, kSliceDims) x (kSliceDims, kTileKv).
  __device__ void Scores(const QueryTile<Config>& q, const KeySlice<Config>& k, int slice) {
    constexpr int kChunks = Config::kSliceDims / 4;
    const float4* const q_row = &q.chunks[first_row * q.kChunks];
    const float4* const k_row = &k.chunks[column_lane * 4 * k.kChunks];
    const int q_swizzle = row_lane, k_swizzle = column_lane % 8;
#pragma unroll 2
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      float4 a[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        a[i] = q_row[i * Config::kRowLanes * q.kChunks + (slice * kChunks + chunk ^ q_swizzle)];
      }
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const int key = j / 4 * Config::kColumnLanes * 4 + j % 4;  // of the thread's, from column_lane * 4 on
        const float4 b = k_row[key * k.kChunks + (chunk ^ k_swizzle)];
#pragma unroll
        for (int i = 0; i < kRows; ++i) scores[i][j] = Dot(a[i], b, scores[i][j]);
      }
    }
  }

  // The scores have become P: for all threads of the warp to read, after the next barrier.
  __device__ void StoreWeights(WeightTile<Config>& weights) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kKeys; j += 4) {
        weights.Chunk(Row(i), Chunk(j / 4)) =
            make_float4(scores[i][j], scores[i][j + 1], scores[i][j + 2], scores[i][j + 3]);
      }
    }
  }

  // sums += P V over one slice of keys: (kTileQ, kSliceKeys) x (kSliceKeys, kHeadDim).
  __device__ void Accumulate(const WeightTile<Config>& weights, const ValueSlice<Config>& v, int slice) {
    constexpr int kChunks = Config::kSliceKeys / 4;
    const float4* const weight_row = &weights.chunks[first_row * weights.kChunks];
    const float4* const v_column = &v.chunks[column_lane];
    const int swizzle = row_lane;
#pragma unroll 2
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      float4 a[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        a[i] = weight_row[i * Config::kRowLanes * weights.kChunks + (slice * kChunks + chunk ^ swizzle)];
      }
      const auto add_key = [&](int key, float float4::*weight) {
#pragma unroll
        for (int j = 0; j < kDims; j += 4) {
          const float4 b = v_column[(chunk * 4 + key) * v.kChunks + j / 4 * Config::kColumnLanes];
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            sums[i][j] = fmaf(a[i].*weight, b.x, sums[i][j]);
            sums[i][j + 1] = fmaf(a[i].*weight, b.y, sums[i][j + 1]);
            sums[i][j + 2] = fmaf(a[i].*weight, b.z, sums[i][j + 2]);
            sums[i][j + 3] = fmaf(a[i].*weight, b.w, sums[i][j + 3]);
          }
        }
      };
      add_key(0, &float4::x);
      add_key(1, &float4::y);
      add_key(2, &float4::z);
      add_key(3, &float4::w);
    }
  }

  // Ends a tile of keys: the output so far is brought to the new maximum, and the tile's sums join it.
  __device__ void Join(const float (&rescale)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kDims; ++j) output[i][j] = fmaf(output[i][j], rescale[i], sums[i][j]);
    }
  }

 private:
  template <int kColumns>
  __device__ static void Clear(float (&tile)[kRows][kColumns]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) tile[i][j] = 0;
    }
  }

  __device__ static float Dot(const float4& a, const float4& b, float sum) {
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    return fmaf(a.w, b.w, sum);
  }
};

}  // namespace tessera::kernels::cuda::fp32
