// How the queries of a launch are cut into tiles of rows. A row is one query of one of `rows_per_query`
// neighbouring query heads that share a kv head: row = query * rows_per_query + head. Such a block of query
// heads is a row head; a tile belongs to one (sequence, row head) pair, so that the heads of a row head share
// the keys that are loaded for it.
#pragma once

#include <cstdint>

#include "tessera/attention.h"

namespace tessera::kernels::cuda {

struct RowTiling {
  int32_t rows_per_query;  // divides num_q_heads / num_kv_heads
  int32_t tile_rows;

  int64_t RowHeads(const tessera_attention_problem& problem) const {
    return problem.num_q_heads / rows_per_query;
  }
  // Tiles of one row head.
  int64_t Tiles(int64_t q_len) const { return (q_len * rows_per_query + tile_rows - 1) / tile_rows; }
};

// All heads that share a kv head in one row head, and full tiles of `tile_q` rows, which may start in the
// middle of a query.
RowTiling WholeGroups(const tessera_attention_problem& problem, int32_t tile_q);

// Tiles of whole queries, at most `tile_q` rows: of all ways to split the heads that share a kv head evenly,
// the one with the fewest tiles in all, and of those the one with the most rows to a query, whose tiles span
// the fewest queries and so waste the fewest keys at a diagonal. rows_per_query is at most 256, the most that
// a tensor map moves at once.
RowTiling PackRows(const tessera_attention_problem& problem, int32_t tile_q);

}  // namespace tessera::kernels::cuda
