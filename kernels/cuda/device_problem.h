// AttentionProblem as the CUDA kernels read it: one struct that travels as a kernel parameter. The tables
// (one row per sequence, slopes and sinks) ride inside it while they are small, and in workspace otherwise;
// so an ordinary launch needs no workspace and no copy.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/row_tiling.h"
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

  // Where the launch's blocks for this sequence are (FindTile in block_work.cuh). Neighbouring sequences of
  // equally many tiles form a run.
  int32_t first_tile;   // tiles of one row head before those of the run
  int32_t run_begin;    // the run's first sequence
  int32_t run_length;   // sequences
  int32_t group_pairs;  // (sequence, row head) pairs that are walked together

  int32_t number;  // in tessera_attention_problem::sequences, which the launch does not keep the order of
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
  int8_t mask_alignment;  // MaskAlignment(), data included

  int32_t rows_per_query, tile_rows, num_row_heads;  // as RowTiling says
  int32_t num_sequences, num_tiles;                  // tiles of one row head, all sequences
  // The tables, in this order: DeviceSequence[num_sequences], slopes [num_q_heads], sinks [num_q_heads], and
  // for fp8 logit scales [num_sequences, num_q_heads] and value scales [num_sequences, num_kv_heads], whose
  // rows go by DeviceSequence::number. null: they are in `inline_tables`.
  const std::byte* tables;
  static constexpr int kInlineBytes = 3584;  // of the 32764 that a launch may carry since CUDA 12.1
  alignas(16) std::byte inline_tables[kInlineBytes];

  // On the host only while the tables are inline, or have been pointed to host memory.
  __host__ __device__ const DeviceSequence* sequences() const {
    return reinterpret_cast<const DeviceSequence*>(tables != nullptr ? tables : inline_tables);
  }
  __host__ __device__ const float* alibi_slopes() const {
    return reinterpret_cast<const float*>(sequences() + num_sequences);
  }
  __host__ __device__ const float* sinks() const { return alibi_slopes() + (has_alibi ? num_q_heads : 0); }
  // fp8 only. By query head: what a product of q and k is times to be a logit, `scale` included; a normal
  // number, or 0 where `scale` is. By kv head: what v is times.
  __host__ __device__ const float* logit_scales(const DeviceSequence& sequence) const {
    return first_logit_scales() + int64_t{sequence.number} * num_q_heads;
  }
  __host__ __device__ const float* value_scales(const DeviceSequence& sequence) const {
    return first_logit_scales() + int64_t{num_sequences} * num_q_heads +
           int64_t{sequence.number} * num_kv_heads;
  }

  // Of the launch: one for each tile of each row head.
  __host__ __device__ int32_t num_blocks() const { return num_tiles * num_row_heads; }

 private:
  __host__ __device__ const float* first_logit_scales() const {
    return sinks() + (has_sinks ? num_q_heads : 0);
  }
};
static_assert(sizeof(DeviceProblem) <= 4096);

// Bytes on which every row of every dense mask starts: 16, 8, 4 or 1; 0 where a row's elements are not
// neighbours in memory. Without `with_data` as if every mask itself started on 16 bytes: what may be asked
// before there is data.
int MaskAlignment(const tessera_attention_problem& problem, bool with_data);

// Bytes of workspace that the tables of `problem` take: 0 while they fit inside DeviceProblem.
int64_t TableBytes(const tessera_attention_problem& problem);

// What a kernel of this folder cannot index, as text for the user, or an empty string: kMaxPosition or
// kMaxGroup exceeded, more tiles than a grid has blocks.
std::string IndexLimit(const tessera_attention_problem& problem, const RowTiling& tiling);

// Fills *device for a problem within IndexLimit(). Its blocks (FindTile in block_work.cuh) run through the
// sequences by falling work, so that the longest blocks start first. Of the pairs of a run as many as have
// keys and values of at most `l2_bytes` together are walked at once, longest row tiles of all of them first:
// neighbouring blocks are then equally long, and find in L2 what the others have loaded. With 0, one pair
// after the other.
//
// Where TableBytes() is not 0 the tables are queued into `workspace` on `stream`; the host memory they come
// from is free when this returns.
cudaError_t MakeDeviceProblem(const tessera_attention_problem& problem, const RowTiling& tiling,
                              int64_t l2_bytes, void* workspace, cudaStream_t stream, DeviceProblem* device);

// The part of MakeDeviceProblem that needs no GPU. Returns the tables that belong into the workspace, which
// device->tables does not point to yet: empty where TableBytes() is 0.
std::vector<std::byte> FillDeviceProblem(const tessera_attention_problem& problem, const RowTiling& tiling,
                                         int64_t l2_bytes, DeviceProblem* device);

}  // namespace tessera::kernels::cuda
