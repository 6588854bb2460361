// AttentionProblem as the CUDA kernels read it: one struct that travels as a kernel parameter. The tables
// (one row per sequence, slopes and sinks) ride inside it while they are small, and in workspace otherwise;
// so an ordinary launch needs no workspace and no copy.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "tessera/attention.h"

namespace tessera::kernels::cuda {

// Lengths of a sequence, and offsets of its diagonal that ALiBi uses, stay below this, so that positions and
// their differences fit int32.
inline constexpr int64_t kMaxPosition = int64_t{1} << 30;
// Query heads that share a kv head stay below this.
inline constexpr int64_t kMaxGroup = int64_t{1} << 15;

// A tensor (token, head, dim), dim stride 1. Strides in elements.
struct DeviceTensor {
  void* data;
  int64_t token_stride, head_stride;
  tessera_dtype dtype;
  // Every row starts on 16 bytes and holds a multiple of 16 bytes: rows can be moved 16 bytes at a time.
  bool vectorised;
};

// tessera_sequence with positions as int32. Key j is visible to query i, dense masks aside, when
// 0 <= j < kv_len and i + first_shift <= j <= i + last_shift.
struct DeviceSequence {
  int64_t q_begin, kv_begin;
  const void* mask;
  int64_t mask_head_stride, mask_q_stride, mask_kv_stride;
  int32_t q_len, kv_len;
  int32_t first_shift, last_shift;  // clamped to +-kMaxPosition; -kMaxPosition, kMaxPosition: no window
  int32_t diagonal;                 // diagonal_offset, clamped likewise
  // Blocks of the launch before those of this sequence, in units of one kv head: what a schedule of
  // (sequence, kv head, row tile) blocks is looked up by.
  int32_t first_tile;
};

struct DeviceProblem {
  DeviceTensor q, k, v, o;
  float* lse;  // null: not wanted
  int64_t lse_token_stride, lse_head_stride;

  int32_t num_q_heads, num_kv_heads, group;  // group = num_q_heads / num_kv_heads
  int32_t head_dim_qk, head_dim_v;
  float scale, softcap;
  tessera_mask_kind mask_kind;
  tessera_dtype mask_dtype;
  bool has_alibi, has_sinks;

  int32_t num_sequences, num_tiles;  // tiles of one kv head, all sequences
  // The tables, in this order: DeviceSequence[num_sequences], slopes [num_q_heads], sinks [num_q_heads].
  // null: they are in `inline_tables`.
  const std::byte* tables;
  static constexpr int kInlineBytes = 3584;  // keeps the struct below the 4 KiB that every launch may carry
  alignas(16) std::byte inline_tables[kInlineBytes];

#ifdef __CUDACC__
  __device__ const DeviceSequence* sequences() const {
    return reinterpret_cast<const DeviceSequence*>(tables != nullptr ? tables : inline_tables);
  }
  __device__ const float* alibi_slopes() const {
    return reinterpret_cast<const float*>(sequences() + num_sequences);
  }
  __device__ const float* sinks() const { return alibi_slopes() + (has_alibi ? num_q_heads : 0); }
#endif
};
static_assert(sizeof(DeviceProblem) <= 4096);

// Bytes of workspace that the tables of `problem` take: 0 while they fit inside DeviceProblem.
int64_t TableBytes(const tessera_attention_problem& problem);

// What a kernel of this folder cannot index, as text for the user, or an empty string: kMaxPosition or
// kMaxGroup exceeded, more tiles of `tile_q` rows than a grid has blocks.
std::string IndexLimit(const tessera_attention_problem& problem, int32_t tile_q);

// Fills *device. Sequences are cut into tiles of `tile_q` rows, a row being one query of one of the
// num_q_heads / num_kv_heads heads that share a kv head (row = query * group + head of the group), and sorted
// by falling work, so that the longest blocks start first. Where TableBytes() is not 0 the tables are queued
// into `workspace` on `stream`; the host memory they come from is free when this returns.
cudaError_t MakeDeviceProblem(const tessera_attention_problem& problem, int32_t tile_q, void* workspace,
                              cudaStream_t stream, DeviceProblem* device);

}  // namespace tessera::kernels::cuda
