// Configuration, shared memory and loads of the fused kernel for fp16 and bf16.
#pragma once

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda {

// What compute capability 8.0 and 9.0 let a block have and still run (163 KiB and more); the rest of 8.x
// takes the narrow configuration.
inline constexpr int kMaxSharedBytes16Bit = 128 << 10;

// Element: __half or __nv_bfloat16. kHeadDim: what head_dim_qk and head_dim_v are padded to, by zeros in
// shared memory. kFeatures: the logits are more than a positive scale times q.k.
template <typename ElementType, int kHeadDimPadded, bool kWithFeatures>
struct Fused16BitConfig {
  using Element = ElementType;
  static constexpr int kHeadDim = kHeadDimPadded;
  static constexpr bool kFeatures = kWithFeatures;
  static constexpr int kWarps = kHeadDim <= 192 ? 4 : 8;
  // Two m16 tiles a warp let it use each K and V fragment twice; above 128 the accumulators leave room for
  // one.
  static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;
  static constexpr int kTileKv = 64;
  static constexpr int kBlocksPerMultiprocessor = kHeadDim <= 64 ? 3 : kHeadDim <= 192 ? 2 : 1;
  // Follow from the above.
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTileQ = kWarps * kRowTiles * 16;
  static constexpr int kStages = 1;
};

// For GPUs whose blocks cannot have the 128 KiB of shared memory that 128 rows of head dim 256 take.
template <typename ElementType, bool kWithFeatures>
struct Fused16BitNarrowConfig : Fused16BitConfig<ElementType, 256, kWithFeatures> {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 128;
  static constexpr int kTileQ = 64;
};

// (kRows, kColumns) 16-bit elements in shared memory. Rows are whole 128-byte lines; in each line the 16-byte
// chunks are permuted by the row's number, so that eight rows' chunks of a column lie in different banks.
template <typename Element, int kRows, int kColumns>
struct SwizzledTile {
  static constexpr int kChunks = kColumns / 8;              // that hold data
  static constexpr int kPitch = (kColumns + 63) / 64 * 64;  // elements
  static constexpr int kPitchBytes = kPitch * 2;
  static constexpr int kSwizzleMask = 7;

  Element data[kRows * kPitch];

  __device__ static int Offset(int row, int chunk) {
    return row * kPitchBytes + ((chunk ^ (row & kSwizzleMask)) << 4);
  }
  __device__ uint4* Chunk(int row, int chunk) {
    return reinterpret_cast<uint4*>(reinterpret_cast<std::byte*>(data) + Offset(row, chunk));
  }
  __device__ Element* At(int row, int column) {
    return reinterpret_cast<Element*>(Chunk(row, column / 8)) + column % 8;
  }
};

template <class Config>
struct Fused16BitShared {
  using Element = typename Config::Element;
  SwizzledTile<Element, Config::kTileQ, Config::kHeadDim> q;
  SwizzledTile<Element, Config::kTileKv, Config::kHeadDim> k;
  SwizzledTile<Element, Config::kTileKv, Config::kHeadDim> v;
};

// Moves tiles from global to shared memory.
template <class Config>
struct Producer {
  using Element = typename Config::Element;
  using Shared = Fused16BitShared<Config>;

  const DeviceProblem& problem;
  const BlockWork& work;
  Shared& shared;

  __device__ void LoadQuery() {
    const DeviceTensor& q = problem.q;
    LoadTile(shared.q, q, problem.head_dim_qk, Config::kTileQ, [&](int row) {
      const int32_t at = work.first_row + row;
      return Source(q, work.sequence.q_begin + work.Query(at), work.Head(at));
    });
  }
  __device__ void LoadKeys(int32_t tile) { LoadKv(shared.k, problem.k, problem.head_dim_qk, tile); }
  __device__ void LoadValues(int32_t tile) { LoadKv(shared.v, problem.v, problem.head_dim_v, tile); }

 private:
  __device__ static const Element* Source(const DeviceTensor& tensor, int64_t token, int64_t head) {
    return static_cast<const Element*>(tensor.data) + token * tensor.token_stride + head * tensor.head_stride;
  }

  template <class Tile>
  __device__ void LoadKv(Tile& tile, const DeviceTensor& tensor, int32_t head_dim, int32_t index) {
    const int32_t first_key = index * Config::kTileKv;
    const Element* const base = Source(tensor, work.sequence.kv_begin + first_key, work.kv_head);
    LoadTile(tile, tensor, head_dim, work.sequence.kv_len - first_key,
             [&](int row) { return base + row * tensor.token_stride; });
  }

  // Rows from `num_rows` on, and columns from `head_dim` on, become zeros.
  template <class Tile, class RowSource>
  __device__ void LoadTile(Tile& tile, const DeviceTensor& tensor, int32_t head_dim, int32_t num_rows,
                           RowSource row_source) {
    constexpr int kChunks = Tile::kChunks, kRows = sizeof(Tile) / Tile::kPitchBytes;
    static_assert(kRows * kChunks % Config::kThreads == 0);
    if (tensor.vectorised) {
      const uint32_t base = ptx::SharedAddress(tile.data);
#pragma unroll
      for (int i = 0; i < kRows * kChunks / Config::kThreads; ++i) {
        const int index = i * Config::kThreads + static_cast<int>(threadIdx.x);
        const int row = index / kChunks, chunk = index % kChunks;
        const bool valid = row < num_rows && chunk * 8 < head_dim;
        ptx::CpAsync16(base + Tile::Offset(row, chunk), row_source(row) + chunk * 8, valid ? 16 : 0);
      }
      return;
    }
#pragma unroll 1
    for (int index = threadIdx.x; index < kRows * kChunks; index += Config::kThreads) {
      const int row = index / kChunks, chunk = index % kChunks;
      alignas(16) Element elements[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int column = chunk * 8 + e;
        elements[e] = row < num_rows && column < head_dim ? row_source(row)[column] : Element(0.0f);
      }
      *tile.Chunk(row, chunk) = *reinterpret_cast<const uint4*>(elements);
    }
  }
};

}  // namespace tessera::kernels::cuda
