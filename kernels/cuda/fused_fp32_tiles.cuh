// The fused fp32 kernel's configuration, its tiles in shared memory, and how they are filled.
#pragma once

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda::fp32 {

// What a block of compute capability 8.6 or 8.9 may have, the least of all from 8.0 on.
constexpr int kMaxSharedBytes = 99 * 1024;

// kHeadDimPadded: what head_dim_qk and head_dim_v are padded to, by zeros in shared memory. kWithFeatures:
// the logits are more than a positive scale times q.k.
//
// A thread holds 8 x 8 elements of a product and takes 8 + 8 vectors of four factors at a time: 256 FFMA for
// 16 loads of 16 bytes, with which shared memory keeps up. The lanes that share a row hold all of its head
// dim, 8 columns each, so that the softmax of a row stays inside a warp.
template <int kHeadDimPadded, bool kWithFeatures>
struct FusedFp32Config {
  static constexpr int kHeadDim = kHeadDimPadded;
  static constexpr bool kFeatures = kWithFeatures;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kThreadRows = 8;
  static constexpr int kColumnLanes = kHeadDim / 8;    // lanes that share a row
  static constexpr int kRowLanes = 32 / kColumnLanes;  // rows that a warp's lanes hold at a time
  static constexpr int kTileQ = kWarps * kRowLanes * kThreadRows;
  // As many as dims, so that scores too are 8 x 8 a thread; at 256 half of that, as causal masks waste less.
  static constexpr int kTileKv = kHeadDim < 128 ? kHeadDim : 128;
  // K comes in slices of so many dims, V in slices of so many keys.
  static constexpr int kSliceDims = 32;
  static constexpr int kSliceKeys = kHeadDim <= 128 ? 32 : 16;
  static constexpr int kValueSlices = kTileKv / kSliceKeys;
  static constexpr int kStages = 2;
  static constexpr int kBlocksPerMultiprocessor = 2;
};

// (kTileRows, kTileColumns) floats in shared memory, as 16-byte chunks. In each row they are permuted by the
// row's number, row / kSwizzleStep % kSwizzles, so that lanes that read a column meet different banks.
template <int kTileRows, int kTileColumns, int kSwizzleStep = 1, int kSwizzles = 1>
struct Tile {
  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kChunks = kColumns / 4;

  float4 chunks[kRows * kChunks];

  __device__ static int Offset(int row, int chunk) {
    return row * kChunks + (chunk ^ row / kSwizzleStep % kSwizzles);
  }
  __device__ float4& Chunk(int row, int chunk) { return chunks[Offset(row, chunk)]; }
  __device__ const float4& Chunk(int row, int chunk) const { return chunks[Offset(row, chunk)]; }
  __device__ float* At(int row, int column) { return &Chunk(row, column / 4).x + column % 4; }
  __device__ const float* At(int row, int column) const { return &Chunk(row, column / 4).x + column % 4; }
};

template <class Config>
using QueryTile = Tile<Config::kTileQ, Config::kHeadDim, 1, Config::kRowLanes>;
template <class Config>
using WeightTile = Tile<Config::kTileQ, Config::kTileKv, 1, Config::kRowLanes>;
template <class Config>
using KeySlice = Tile<Config::kTileKv, Config::kSliceDims, 4, 8>;  // lanes read keys four apart
template <class Config>
using ValueSlice = Tile<Config::kSliceKeys, Config::kHeadDim>;

template <class Config>
union Stage {
  KeySlice<Config> keys;
  ValueSlice<Config> values;
};

template <class Config>
struct Shared {
  QueryTile<Config> q;
  WeightTile<Config> weights;  // P
  Stage<Config> stages[Config::kStages];
};

// Moves Q, and then the slices of K and V in the order in which they are used, from global to shared memory:
// for each tile of keys, from the last to the first, K by dims and then V by keys. One slice loads while the
// one before is used.
template <class Config>
struct Producer {
  const DeviceProblem& problem;
  const BlockWork& work;
  Shared<Config>& shared;
  int32_t tile, slice;  // to load next; slices from KeySlices() on are of V
  int32_t first_tile;   // the last tile to load
  int stage;            // to load into

  __device__ Producer(const DeviceProblem& problem, const BlockWork& work, const KeyWalk& walk,
                      Shared<Config>& shared)
      : problem(problem),
        work(work),
        shared(shared),
        tile(walk.end_tile - 1),
        slice(0),
        first_tile(walk.first_tile),
        stage(0) {}

  // Slices of K that the head dim takes.
  __device__ int32_t KeySlices() const {
    return (problem.head_dim_qk + Config::kSliceDims - 1) / Config::kSliceDims;
  }

  __device__ void Start() {
    if (tile < first_tile) return;
    LoadQuery();
    LoadSlice();
  }

  // Waits for the next slice and starts to load the one after it. The slice stays until the next call.
  __device__ Stage<Config>& Next() {
    static_assert(Config::kStages == 2);
    Stage<Config>& arrived = shared.stages[stage ^ 1];
    ptx::CpAsyncWait<0>();
    __syncthreads();  // the slice is there, the one before it is done with
    LoadSlice();
    return arrived;
  }

 private:
  __device__ static const float* Source(const DeviceTensor& tensor, int64_t token, int64_t head) {
    return static_cast<const float*>(tensor.data) + token * tensor.token_stride + head * tensor.head_stride;
  }

  __device__ void LoadQuery() {
    constexpr int kChunks = QueryTile<Config>::kChunks;
    const DeviceTensor& q = problem.q;
#pragma unroll 2
    for (int index = threadIdx.x; index < Config::kTileQ * kChunks; index += Config::kThreads) {
      const int row = index / kChunks, chunk = index % kChunks;
      const int32_t at = work.first_row + row;
      const float* const source =
          Source(q, work.sequence.q_begin + work.Query(at), work.Head(at)) + chunk * 4;
      const int32_t num_floats = problem.head_dim_qk - chunk * 4;
      q.vectorised ? CopyChunk<true>(shared.q.Chunk(row, chunk), source, num_floats)
                   : CopyChunk<false>(shared.q.Chunk(row, chunk), source, num_floats);
    }
  }

  __device__ void LoadSlice() {
    if (tile < first_tile) return;
    const int32_t value_slice = slice - KeySlices();
    if (value_slice < 0) {
      LoadKv(shared.stages[stage].keys, problem.k, tile * Config::kTileKv, slice * Config::kSliceDims,
             problem.head_dim_qk);
    } else {
      LoadKv(shared.stages[stage].values, problem.v,
             tile * Config::kTileKv + value_slice * Config::kSliceKeys, 0, problem.head_dim_v);
    }
    ptx::CpAsyncCommit();
    stage ^= 1;
    if (++slice == KeySlices() + Config::kValueSlices) {
      slice = 0;
      --tile;
    }
  }

  template <class Slice>
  __device__ void LoadKv(Slice& slice, const DeviceTensor& tensor, int32_t first_key, int32_t first_dim,
                         int32_t head_dim) {
    const float* const source = Source(tensor, work.sequence.kv_begin + first_key, work.kv_head) + first_dim;
    const int32_t num_keys = work.sequence.kv_len - first_key, num_dims = head_dim - first_dim;
    tensor.vectorised ? CopyRows<true>(slice, source, tensor.token_stride, num_keys, num_dims)
                      : CopyRows<false>(slice, source, tensor.token_stride, num_keys, num_dims);
  }

  // Rows from `num_rows` on, and columns from `num_columns` on, become zeros.
  template <bool kVectorised, class Slice>
  __device__ static void CopyRows(Slice& slice, const float* source, int64_t stride, int32_t num_rows,
                                  int32_t num_columns) {
    constexpr int kRowStep = Config::kThreads / Slice::kChunks;
    static_assert(Slice::kRows % kRowStep == 0 && Config::kThreads % Slice::kChunks == 0);
    const int thread = static_cast<int>(threadIdx.x);
    const int first_row = thread / Slice::kChunks, chunk = thread % Slice::kChunks;
    source += first_row * stride + chunk * 4;
#pragma unroll(kVectorised ? Slice::kRows / kRowStep : 2)
    for (int row = first_row; row < first_row + Slice::kRows; row += kRowStep) {
      CopyChunk<kVectorised>(slice.Chunk(row, chunk), source, row < num_rows ? num_columns - chunk * 4 : 0);
      source += kRowStep * stride;
    }
  }

  // Only the first `num_floats`, if so many, exist and are read; the rest become zeros.
  template <bool kVectorised>
  __device__ static void CopyChunk(float4& to, const float* source, int32_t num_floats) {
    const uint32_t address = ptx::SharedAddress(&to);
    if constexpr (kVectorised) {
      ptx::CpAsync16(address, source, num_floats > 0 ? 16 : 0);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) ptx::CpAsync4(address + e * 4, source + e, e < num_floats ? 4 : 0);
    }
  }
};

}  // namespace tessera::kernels::cuda::fp32
