// Fused exact attention on the CPU: tiled over queries and keys with an online softmax (FlashAttention-2,
// arXiv:2307.08691, Alg. 1); the score matrix never exists, memory beyond inputs and outputs is a fixed
// amount per worker (at most 1 MiB) and, when keys are split, the splits' partials.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "tessera/attention.h"

namespace tessera::kernels::cpu {

inline constexpr int32_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxScratchPerWorker = int64_t{1} << 20;

// How to run one problem. Tiles are rounded up to the granularity of LimitsOf, cut to what fits the scratch,
// and without splits tile_q falls further where that shares the rows out better; 0 leaves a choice to the
// kernel.
struct FusedConfig {
  Isa isa = Isa::kBaseline;
  int32_t tile_q =
      0;  // most query rows of a task: (query, head) pairs of one kv head, a group's heads packed
  int32_t tile_kv = 0;      // keys of a step
  int32_t num_splits = 1;   // most parts of a row block's keys, computed apart and merged by log-sum-exp
  int32_t num_workers = 1;  // threads to use at most; the pool may have more or fewer
};

// Tile limits of the kernel that `isa` and `dtype` select; what the tile choice is told.
struct FusedLimits {
  int32_t granularity_q, granularity_kv;
  int32_t efficient_tile_q;  // rows of one block: fewer leave vectors or packed keys half used
  int32_t min_tile_q, max_tile_q, min_tile_kv, max_tile_kv;
  int32_t q_element_bytes, kv_element_bytes, score_element_bytes, accumulator_element_bytes;
};
FusedLimits LimitsOf(Isa isa, tessera_dtype dtype);

// What FusedAttention makes of a config: the tiles that run, and the scratch of a worker. A config that holds
// them runs with the same.
struct FusedTiles {
  int32_t tile_q, tile_kv, num_splits;
  int64_t scratch_bytes;
};
FusedTiles TilesOf(const tessera_attention_problem& problem, const FusedConfig& config);

// Name of the kernel that will run: "fused_attention_amx_bf16", ...: what a profiler shows and the
// ledger says.
const char* FusedKernelName(Isa isa, tessera_dtype dtype);

// Scratch that FusedAttention needs for this problem and config: at most kMaxScratchPerWorker for each
// worker, 64 bytes a task, and (head_dim_v + 2) floats for each row and part of split keys. Reads no tensor.
int64_t FusedWorkspaceBytes(const tessera_attention_problem& problem, const FusedConfig& config);

// Computes o (and lse). `problem` has passed Validate(); dtypes fp32, fp16, bf16 in and out, fp8 in; head
// dims 1..kMaxHeadDim; every feature of tessera/attention.h. `workspace` has FusedWorkspaceBytes, 64-byte
// aligned, any content. Deterministic: the result depends on the problem and config alone, not on which
// worker ran what.
void FusedAttention(const tessera_attention_problem& problem, const FusedConfig& config, std::byte* workspace,
                    ThreadPool& pool);

}  // namespace tessera::kernels::cpu
