// Fused attention for fp16 and bf16 on tensor cores (mma.sync, compute capability 8.0 and later), after
// FlashAttention-2 (arXiv:2307.08691, Algorithm 1). A block takes a tile of query rows, walks the K/V tiles
// that its rows see from the last to the first, and keeps scores (S), the running row maximum (m), row sum
// (l) and output (O) in registers. K of the next tile loads while P V is computed, V while Q K^T is.
#pragma once

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/fused_16bit_masking.cuh"
#include "kernels/cuda/fused_16bit_softmax.cuh"
#include "kernels/cuda/fused_kernel.h"

namespace tessera::kernels::cuda {

// The kernel's body, for the block's share of `problem`.
template <class Config>
__device__ void Fused16Bit(const DeviceProblem& problem) {
  extern __shared__ __align__(128) std::byte shared_memory[];
  static_assert(sizeof(Fused16BitShared<Config>) <= kMaxSharedBytes16Bit);
  auto& shared = *reinterpret_cast<Fused16BitShared<Config>*>(shared_memory);
  const BlockWork work = FindWork(problem, static_cast<int32_t>(blockIdx.x));
  const KeyWalk walk = WalkOf(work, Config::kTileQ, Config::kTileKv);

  Producer<Config> producer{problem, work, shared};
  const Masking<Config> masking{problem, work};
  Consumer<Config> consumer;
  OnlineSoftmax<Config> softmax(masking.Log2Factor());

  if (walk.first_tile < walk.end_tile) {
    producer.LoadQuery();
    producer.LoadKeys(walk.end_tile - 1);
    ptx::CpAsyncCommit();
  }
  for (int32_t tile = walk.end_tile - 1; tile >= walk.first_tile; --tile) {
    ptx::CpAsyncWait<0>();
    __syncthreads();  // K of this tile is there, V of the one before is done with
    producer.LoadValues(tile);
    ptx::CpAsyncCommit();
    consumer.Scores(shared);

    ptx::CpAsyncWait<0>();
    __syncthreads();  // V is there, K is done with
    if (tile > walk.first_tile) producer.LoadKeys(tile - 1);
    ptx::CpAsyncCommit();

    const bool is_full = walk.IsFull(tile);
    if constexpr (Config::kFeatures) masking.ApplyFeatures(consumer, tile);
    if (!is_full) masking.ApplyWindow(consumer, tile);
    softmax.Update(consumer);
    if (!is_full || (Config::kFeatures && problem.mask_kind != TESSERA_MASK_NONE)) {
      masking.SetAsideNonFinite(consumer, shared, tile);
    }
    consumer.Accumulate(shared);
  }
  Epilogue<Config>{problem, work}.Store(consumer, softmax);
}

// The kernel that runs Fused16Bit<Config>, as the dispatch sees it.
template <class Config>
FusedKernel Describe16Bit(const char* name, void (*function)(DeviceProblem)) {
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
          .shared_memory_bytes = sizeof(Fused16BitShared<Config>),
          .blocks_per_multiprocessor = Config::kBlocksPerMultiprocessor};
}

}  // namespace tessera::kernels::cuda
