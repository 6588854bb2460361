// The matrix products of a consumer warpgroup of a Hopper kernel.
#pragma once

#include "kernels/cuda/hopper/tiles.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"

namespace tessera::kernels::cuda::hopper {

// A warpgroup's 64 rows. Of every 16-row slice (a warp's) a thread holds two rows, "halves": lane / 4 and 8
// further; of each eight columns two neighbours, 2 * (lane % 4) and the next. Element [4 n + 2 half + e] is
// column 8 n + 2 * (lane % 4) + e.
template <class Config>
struct Consumer {
  using Element = typename Config::Element;

  float scores[Config::kTileKv / 2];      // (64, kTileKv)
  uint32_t weights[Config::kTileKv / 4];  // P: (64, kTileKv), 16-bit, as the left operand of P V
  float output[Config::kDimV / 2];        // (64, kDimV), unnormalised
  int warpgroup, warp, lane;              // warpgroup: among consumers

  __device__ Consumer()
      : warpgroup(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0)),
        warp(threadIdx.x / 32 % 4),
        lane(threadIdx.x % 32) {}

  // Of the block's tile.
  __device__ int Row(int half) const { return warpgroup * 64 + warp * 16 + half * 8 + lane / 4; }
  __device__ int Column(int n, int e) const { return n * 8 + lane % 4 * 2 + e; }

  // Starts scores = Q K^T: (64, kDimQk) x (kDimQk, kTileKv).
  __device__ void StartScores(Shared<Config>& shared, int q_stage, int stage) {
    const ptx::MatrixDescriptor q(ptx::SharedAddress(shared.q[q_stage].data) + warpgroup * 64 * 128, 16);
    const ptx::MatrixDescriptor k(ptx::SharedAddress(shared.k[stage].data), 16);
    ptx::FenceOperands(scores);
    ptx::WgmmaFence();
#pragma unroll
    for (int d = 0; d < Config::kDimQk / 16; ++d) {
      ptx::Wgmma<Config::kTileKv>::template Shared<Element>(
          scores, q.At(d / 4 * Config::kTileQ * 128 + d % 4 * 32),
          k.At(d / 4 * Config::kTileKv * 128 + d % 4 * 32), d > 0);
    }
    ptx::WgmmaCommit();
  }

  // Starts output += P V, or without `accumulate` output = P V: (64, kTileKv) x (kTileKv, kDimV).
  __device__ void StartOutput(Shared<Config>& shared, int stage, bool accumulate) {
    const ptx::MatrixDescriptor v(ptx::SharedAddress(shared.v[stage].data), Config::kTileKv * 128);
    ptx::FenceOperands(output);
    ptx::FenceOperands(weights);
    ptx::WgmmaFence();
#pragma unroll
    for (int n = 0; n < Config::kTileKv / 16; ++n) {
      ptx::Wgmma<Config::kDimV>::template Registers<Element>(output, weights + n * 4, v.At(n * 16 * 128),
                                                             n > 0 || accumulate);
    }
    ptx::WgmmaCommit();
  }

  __device__ void AwaitScores() {  // with an output product started behind it
    ptx::WgmmaWait<1>();
    ptx::FenceOperands(scores);
  }
  __device__ void AwaitAll() {
    ptx::FenceOperands(scores);  // what is done to them meanwhile is to be done before waiting
    ptx::WgmmaWait<0>();
    ptx::FenceOperands(scores);
    ptx::FenceOperands(output);
  }

  // The scores, which hold P, rounded to 16 bits. Two neighbouring n8 tiles of scores are the left operand's
  // 16 columns as they lie.
  __device__ void RoundWeights() {
#pragma unroll
    for (int i = 0; i < Config::kTileKv / 4; ++i) {
      weights[i] = ptx::Pack(Element{}, scores[2 * i], scores[2 * i + 1]);
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
