#include "kernels/cuda/row_tiling.h"

#include <algorithm>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {
namespace {

constexpr int32_t kMaxRowsPerQuery = 256;

// Tiles of whole queries over all sequences and row heads.
int64_t CountTiles(const tessera_attention_problem& p, int32_t rows_per_query, int32_t tile_q) {
  const uint32_t queries = static_cast<uint32_t>(tile_q / rows_per_query);  // of a tile
  int64_t tiles = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    // Longer sequences are refused elsewhere; 32 bits divide several times faster.
    const auto q_len = static_cast<uint32_t>(std::min(p.sequences[n].q_len, kMaxPosition));
    tiles += (q_len + queries - 1) / queries;
  }
  return tiles * (p.num_q_heads / rows_per_query);
}

}  // namespace

RowTiling WholeGroups(const tessera_attention_problem& p, int32_t tile_q) {
  return {p.num_q_heads / p.num_kv_heads, tile_q};
}

RowTiling PackRows(const tessera_attention_problem& p, int32_t tile_q) {
  const int32_t group = p.num_q_heads / p.num_kv_heads;
  int32_t best = 1;
  int64_t fewest = CountTiles(p, 1, tile_q);
  for (int32_t rows = 2; rows <= std::min({group, tile_q, kMaxRowsPerQuery}); ++rows) {
    if (group % rows != 0) continue;
    const int64_t tiles = CountTiles(p, rows, tile_q);
    if (tiles > fewest) continue;
    best = rows;
    fewest = tiles;
  }
  return {best, tile_q / best * best};
}

}  // namespace tessera::kernels::cuda
