// How standard attention shares a problem out: score matrices of (sequence, query head) pairs, cut into row
// blocks.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/cpu/thread_pool.h"
#include "tessera/attention.h"

namespace tessera::kernels::cpu::standard {

// Rows [row_begin, row_end) of the score matrix of one pair.
struct RowBlock {
  const tessera_sequence* sequence;
  int64_t sequence_index;
  int32_t q_head;
  int32_t kv_head;
  int64_t row_begin, row_end;
  int64_t scores_offset;  // of the pair's matrix in the score buffer, in elements
  int64_t scores_stride;  // from row to row: kv_len rounded up
};

// The geometry of one implementation. Pairs whose matrices fit in the score buffer together run together, so
// that many small pairs (decode steps) make one parallel region and one large pair still uses every worker.
struct BlockShape {
  int64_t rows;                 // of a block
  int64_t stride_multiple;      // scores_stride is a multiple of it
  int64_t small_pair_elements;  // the buffer holds at least this many scores, if the problem has so many
};

// Elements of the score buffer: the largest pair, or shape.small_pair_elements. Saturates at INT64_MAX.
int64_t ScoreBufferElements(const tessera_attention_problem& problem, const BlockShape& shape);

// Runs body(block, worker) for every row block of the problem; sequences without queries have none. Blocks
// that run at the same time belong to pairs with disjoint parts of the score buffer.
void ForEachRowBlock(const tessera_attention_problem& problem, const BlockShape& shape, ThreadPool& pool,
                     const std::function<void(const RowBlock& block, int worker)>& body);

// a * b and a + b for a, b >= 0, saturating at INT64_MAX.
int64_t SaturatingMultiply(int64_t a, int64_t b);
int64_t SaturatingAdd(int64_t a, int64_t b);
int64_t RoundUp(int64_t value, int64_t multiple);

}  // namespace tessera::kernels::cpu::standard
