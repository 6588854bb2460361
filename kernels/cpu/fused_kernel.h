// What the schedule (fused_attention.cc) and the kernels built for each instruction set share: plain data and
// a table of functions, no inline code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tessera/attention.h"

namespace tessera::kernels::cpu {

// Tile of one task. The query rows of a task are packed (i, head) pairs of one kv head: row r is query r /
// group of query head kv_head * group + r % group, so short queries with grouped heads still fill the vector
// lanes.
struct TileShape {
  int32_t head_dim_qk, head_dim_v;
  int32_t tile_q;   // rows of a task
  int32_t tile_kv;  // keys of a step; a multiple of kKeyGranularity
};

inline constexpr int32_t kKeyGranularity = 32;

// Query rows [row_begin, row_begin + rows) of one kv head against keys [key_begin, key_end).
struct FusedTask {
  const tessera_attention_problem* problem;
  const tessera_sequence* sequence;
  float* partial;  // null: finish o and lse. Else (rows, head_dim_v + 2): unscaled sums, row_max, row_sum
  int64_t row_begin;
  int64_t key_begin, key_end;
  int32_t kv_head;
  int32_t rows;
  // What the products of Q and K, as the kernel loads them, are multiplied by. Not negative: of a negative
  // scale Q takes the sign. 1 for fp8 inputs, whose Q takes all scales, see QueryScaleOf.
  float logit_scale;
};

struct FusedKernel {
  int32_t block_q;  // rows that go through the micro-kernels together
  int32_t lanes;    // rows of one vector: tile_q is a multiple
  int32_t max_tile_q;
  int32_t default_tile_kv, max_tile_kv;
  int32_t operand_bytes;  // of a packed element of Q, K, V
  int32_t pack_rows;      // packing a tile of K and V costs about as much as this many rows of work
  int64_t (*scratch_bytes)(const TileShape& shape);
  // `scratch` is 64-byte aligned, any content.
  void (*run)(const FusedTask& task, const TileShape& shape, std::byte* scratch);
};

// fp32 arithmetic over inputs of any dtype.
extern const FusedKernel kFusedBaseline;
#if defined(__x86_64__)
extern const FusedKernel kFusedAvx2;
extern const FusedKernel kFusedAvx512;
// bf16 products, fp32 sums; bf16 inputs only.
extern const FusedKernel kFusedAvx512Bf16;
extern const FusedKernel kFusedAmxBf16;
#endif

}  // namespace tessera::kernels::cpu
