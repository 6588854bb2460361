// Configuration and shared memory of the Hopper kernels for fp8 (e4m3).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <type_traits>

#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// kDimQk, kDimV: what the head dims are padded to. kNumStages: of K; kNumValueStages: of V, which is only
// transposed from there; kNumTransposedStages: of V^T.
// LogitPolicy: one of fp8_logits.cuh.
template <int kDimQkPadded, int kDimVPadded, int kKeys, int kNumStages, int kNumValueStages,
          int kNumTransposedStages, int kNumQueryStages, template <class> class LogitPolicy>
struct Fp8Config {
  using Element = __nv_fp8_e4m3;
  using Logits = LogitPolicy<Fp8Config>;
  using Output = __nv_bfloat16;  // what the epilogue is quick for
  static constexpr int kDimQk = kDimQkPadded;
  static constexpr int kDimV = kDimVPadded;
  static constexpr int kConsumers = 2;
  static constexpr int kTileQ = kConsumers * 64;
  static constexpr int kTileKv = kKeys;
  static constexpr int kStages = kNumStages;
  static constexpr int kValueStages = kNumValueStages;
  static constexpr int kTransposedStages = kNumTransposedStages;
  static constexpr int kQueryStages = kNumQueryStages;
  // Row tiles that are a block's at any time. The fewer they are, the more evenly a launch ends.
  static constexpr int kPostings = kQueryStages + 1;
  static constexpr int kThreads = (kConsumers + 1) * 128;
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;
  static constexpr bool kStagesOutput = false;  // queries take half the room
  static constexpr bool kTakeTurns = true;
  static constexpr bool kOwnWalks = false;
  // P V of so many tiles are summed by the tensor cores. They keep fewer bits than fp32 has and cut off
  // the rest: with values of one sign 1280 keys lose 2%, 2560 keys 4%.
  static constexpr int kChainTiles = 1280 / kTileKv;
  static constexpr bool kSumsInShared = kDimV <= 128;  // fp8_sums.cuh
  // A row's largest weight is 2^8, and exact: e4m3 ends at 448, and what is below 2^-9 becomes 0.
  static constexpr float kWeightExponent = 8;
  static_assert(kTileKv % 32 == 0);
};

template <class Config>
concept Fp8 = std::is_same_v<typename Config::Element, __nv_fp8_e4m3>;

// Warps of the producer warpgroup that transpose V.
inline constexpr int kTransposers = 2;

template <Fp8 Config>
struct Shared<Config> {
  using Element = typename Config::Element;
  SlabTile<Element, Config::kTileQ, Config::kDimQk> q[Config::kQueryStages];
  SlabTile<Element, Config::kTileKv, Config::kDimQk> k[Config::kStages];
  SlabTile<Element, Config::kTileKv, Config::kDimV> v[Config::kValueStages];
  // V^T: (kDimV, kTileKv), the keys in the order of the Transposer.
  SlabTile<Element, Config::kDimV, Config::kTileKv> vt[Config::kTransposedStages];
  // By piece of four and thread (fp8_sums.cuh).
  float4 sums[Config::kSumsInShared ? Config::kDimV / 8 : 1][Config::kConsumers * 128];

  // As in the 16-bit kernels, but V goes to the transposers, and V^T from them to the consumers.
  ptx::Barrier q_full[Config::kQueryStages], q_empty[Config::kQueryStages];
  ptx::Barrier k_full[Config::kStages], k_empty[Config::kStages];
  ptx::Barrier v_full[Config::kValueStages], v_empty[Config::kValueStages];
  ptx::Barrier vt_full[Config::kTransposedStages], vt_empty[Config::kTransposedStages];
  ptx::Barrier posting_full[Config::kPostings], posting_empty[Config::kPostings];
  alignas(16) std::byte postings[Config::kPostings * sizeof(Posting)];

  __device__ Posting& posting(int slot) { return reinterpret_cast<Posting*>(postings)[slot]; }
};

// By one thread.
template <Fp8 Config>
__device__ void InitBarriers(Shared<Config>& shared) {
  constexpr int kConsumerWarps = Config::kConsumers * 4;
#pragma unroll
  for (int stage = 0; stage < Config::kQueryStages; ++stage) {
    ptx::InitBarrier(shared.q_full[stage], 1);
    ptx::InitBarrier(shared.q_empty[stage], kConsumerWarps);
  }
#pragma unroll
  for (int slot = 0; slot < Config::kPostings; ++slot) {
    ptx::InitBarrier(shared.posting_full[slot], 32);
    ptx::InitBarrier(shared.posting_empty[slot], kConsumerWarps * 32);
  }
#pragma unroll
  for (int stage = 0; stage < Config::kStages; ++stage) {
    ptx::InitBarrier(shared.k_full[stage], 1);
    ptx::InitBarrier(shared.k_empty[stage], kConsumerWarps);
  }
#pragma unroll
  for (int stage = 0; stage < Config::kValueStages; ++stage) {
    ptx::InitBarrier(shared.v_full[stage], 1);
    ptx::InitBarrier(shared.v_empty[stage], kTransposers);
  }
#pragma unroll
  for (int stage = 0; stage < Config::kTransposedStages; ++stage) {
    ptx::InitBarrier(shared.vt_full[stage], kTransposers);
    ptx::InitBarrier(shared.vt_empty[stage], kConsumerWarps);
  }
  ptx::FenceBarrierInit();
}

}  // namespace tessera::kernels::cuda::hopper
