// The matrix products of a consumer warpgroup of a Hopper kernel for fp8.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/hopper/fp8_tiles.cuh"
#include "kernels/cuda/hopper/wgmma_fp8.cuh"

namespace tessera::kernels::cuda::hopper {

// As for 16 bits. The tensor cores sum with fewer bits than fp32 has: what they have summed of P V over some
// tiles goes to fp8_sums.cuh, lest the error grow with the number of keys.
template <Fp8 Config>
struct Consumer<Config> {
  float scores[Config::kTileKv / 2];      // (64, kTileKv)
  uint32_t weights[Config::kTileKv / 8];  // P: (64, kTileKv), as the left operand of P V
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
  __device__ __forceinline__ void StartScores(Shared<Config>& shared, int q_stage, int stage) {
    const ptx::MatrixDescriptor q(ptx::SharedAddress(shared.q[q_stage].data) + warpgroup * 64 * 128, 16);
    const ptx::MatrixDescriptor k(ptx::SharedAddress(shared.k[stage].data), 16);
    ptx::FenceOperands(scores);
    ptx::WgmmaFence();
#pragma unroll
    for (int d = 0; d < Config::kDimQk / 32; ++d) {
      ptx::WgmmaE4m3<Config::kTileKv>::Shared(scores, q.At(d / 4 * Config::kTileQ * 128 + d % 4 * 32),
                                              k.At(d / 4 * Config::kTileKv * 128 + d % 4 * 32), d > 0);
    }
    ptx::WgmmaCommit();
  }

  // Starts output += P V, or without `accumulate` output = P V: (64, kTileKv) x (kTileKv, kDimV).
  __device__ __forceinline__ void StartOutput(Shared<Config>& shared, int stage, bool accumulate) {
    const ptx::MatrixDescriptor vt(ptx::SharedAddress(shared.vt[stage].data), 16);
    ptx::FenceOperands(output);
    ptx::FenceOperands(weights);
    ptx::WgmmaFence();
#pragma unroll
    for (int n = 0; n < Config::kTileKv / 32; ++n) {
      ptx::WgmmaE4m3<Config::kDimV>::Registers(
          output, weights + n * 4, vt.At(n / 4 * Config::kDimV * 128 + n % 4 * 32), n > 0 || accumulate);
    }
    ptx::WgmmaCommit();
  }

  __device__ __forceinline__ void AwaitScores() {  // with an output product started behind it
    ptx::WgmmaWait<1>();
    ptx::FenceOperands(scores);
  }
  __device__ __forceinline__ void AwaitAll() {
    ptx::FenceOperands(scores);  // what is done to them meanwhile is to be done before waiting
    ptx::WgmmaWait<0>();
    ptx::FenceOperands(scores);
    ptx::FenceOperands(output);
  }

  __device__ __forceinline__ void ScaleOutput(float2 scale) {
#pragma unroll
    for (int i = 0; i < Config::kDimV / 2; ++i) output[i] *= i / 2 % 2 == 0 ? scale.x : scale.y;
  }

  // The scores, which hold P, rounded to e4m3. Of two neighbouring n8 tiles of scores a row's four make four
  // neighbouring columns of the left operand (Transposer has V's keys in that order).
  __device__ __forceinline__ void RoundWeights() {
#pragma unroll
    for (int i = 0; i < Config::kTileKv / 8; ++i) {
      const float* const at = scores + i / 2 * 8 + i % 2 * 2;
      weights[i] = ptx::PackE4m3(at[0], at[1], at[4], at[5]);
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
