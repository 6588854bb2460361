// The matrix products of the fused kernel for fp16 and bf16.
#pragma once

#include "kernels/cuda/fused_16bit_tiles.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda {

// A warp's share of the score and output tiles, in the fragments of mma.m16n8k16: kRowTiles tiles of 16 rows.
// Of each, a thread holds two rows ("halves"), g = lane / 4 and g + 8, and of each eight columns two
// neighbours.
template <class Config>
struct Consumer {
  using Element = typename Config::Element;
  using Shared = Fused16BitShared<Config>;
  static constexpr int kRowTiles = Config::kRowTiles;
  static constexpr int kKeyTiles = Config::kTileKv / 8;   // n8 tiles of the scores
  static constexpr int kDimTiles = Config::kHeadDim / 8;  // n8 tiles of the output

  float scores[kRowTiles][kKeyTiles][4];  // (kTileQ, kTileKv) of the block
  float output[kRowTiles][kDimTiles][4];  // (kTileQ, kHeadDim) of the block, unnormalised
  int warp, lane;

  __device__ Consumer() : warp(threadIdx.x / 32), lane(threadIdx.x % 32) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output[m][n][e] = 0;
      }
    }
  }

  // Of the block's tile, the row that holds `half` of row tile m.
  __device__ int Row(int m, int half) const { return (warp * kRowTiles + m) * 16 + half * 8 + lane / 4; }
  // Of the tile of keys (or dims), the column of element e of n8 tile n.
  __device__ int Column(int n, int e) const { return n * 8 + lane % 4 * 2 + e % 2; }

  // scores = Q K^T: (kTileQ, kHeadDim) x (kHeadDim, kTileKv).
  __device__ void Scores(const Shared& shared) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[m][n][e] = 0;
      }
    }
    // Lane l names row l % 16, chunk l / 16 of a (16, 16) block of Q, ...
    const uint32_t q = RowAddress(shared.q, warp * kRowTiles * 16 + lane % 16);
    const uint32_t q_swizzle = (lane / 16 ^ lane % 8) << 4;
    // ... and key l / 16 * 8 + l % 8, chunk l / 8 % 2 of a (16, 16) block of K.
    const uint32_t k = RowAddress(shared.k, lane / 16 * 8 + lane % 8);
    const uint32_t k_swizzle = (lane / 8 % 2 ^ lane % 8) << 4;
#pragma unroll
    for (int d = 0; d < Config::kHeadDim / 16; ++d) {
      uint32_t a[kRowTiles][4], b[kKeyTiles / 2][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        ptx::LoadMatrices(q + m * 16 * kPitchBytes + ((d << 5) ^ q_swizzle), a[m]);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles / 2; ++n) {
        ptx::LoadMatrices(k + n * 16 * kPitchBytes + ((d << 5) ^ k_swizzle), b[n]);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles / 2; ++n) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          ptx::MultiplyAdd(Element{}, scores[m][2 * n], a[m], b[n][0], b[n][1]);
          ptx::MultiplyAdd(Element{}, scores[m][2 * n + 1], a[m], b[n][2], b[n][3]);
        }
      }
    }
  }

  // output += P V: (kTileQ, kTileKv) x (kTileKv, kHeadDim); `scores` hold P. Two neighbouring n8 tiles of
  // scores, rounded to 16 bits, are the a-fragment of 16 keys as they lie.
  __device__ void Accumulate(const Shared& shared) {
    const uint32_t v = RowAddress(shared.v, lane % 16);
    const uint32_t v_swizzle = (lane / 16 ^ lane % 8) << 4;
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        a[m][0] = ptx::Pack(Element{}, scores[m][n][0], scores[m][n][1]);
        a[m][1] = ptx::Pack(Element{}, scores[m][n][2], scores[m][n][3]);
        a[m][2] = ptx::Pack(Element{}, scores[m][n + 1][0], scores[m][n + 1][1]);
        a[m][3] = ptx::Pack(Element{}, scores[m][n + 1][2], scores[m][n + 1][3]);
      }
      // (16, 16) blocks of V, one loading while the one before is multiplied.
      uint32_t b[2][4];
      const auto load = [&](int block) {
        ptx::LoadMatricesTransposed(v + n * 8 * kPitchBytes + ((block << 5) ^ v_swizzle), b[block % 2]);
      };
      load(0);
#pragma unroll
      for (int block = 0; block < kDimTiles / 2; ++block) {
        if (block + 1 < kDimTiles / 2) load(block + 1);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          ptx::MultiplyAdd(Element{}, output[m][2 * block], a[m], b[block % 2][0], b[block % 2][1]);
          ptx::MultiplyAdd(Element{}, output[m][2 * block + 1], a[m], b[block % 2][2], b[block % 2][3]);
        }
      }
    }
  }

 private:
  static constexpr int kPitchBytes = decltype(Shared::k)::kPitchBytes;

  template <class Tile>
  __device__ static uint32_t RowAddress(const Tile& tile, int row) {
    return ptx::SharedAddress(tile.data) + row * Tile::kPitchBytes;
  }
};

}  // namespace tessera::kernels::cuda
