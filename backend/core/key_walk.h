// Which keys a fused pass reads for a tile of query rows.
#pragma once

#include <cstdint>

#include "backend/core/attention_problem.h"
#include "backend/core/backend.h"
#include "backend/core/saturating.h"

namespace tessera {

// How the scores of one (sequence, kv head) pair are walked: tile_q rows at a time, a row being a (query,
// head of the group) pair and a query's heads lying next to each other, along K/V tiles on multiples of
// tile_kv.
struct Schedule {
  int64_t group, tile_q, tile_kv;
};

// Of a plan's 0 for "all rows", "all keys" a number is made.
Schedule ScheduleOf(const AttentionProblem& problem, const Sequence& s, const Plan& plan);

// Rows of one kv head, and their tiles.
inline int64_t RowsOf(const Sequence& s, const Schedule& schedule) {
  return SaturatingMultiply(s.q_len, schedule.group);
}
inline int64_t RowTilesOf(const Sequence& s, const Schedule& schedule) {
  return CeilDiv(RowsOf(s, schedule), schedule.tile_q);
}

inline int64_t Length(const KeyRange& keys) { return keys.end - keys.begin; }

// The keys, in whole K/V tiles, of which one is visible to one of the rows [first, last].
KeyRange KeysRead(const Sequence& s, const Schedule& schedule, int64_t first, int64_t last);

// The sum of the lengths of KeysRead over all tiles of rows, of which there is one, without walking them:
// O(log).
Int128 KeysReadByAllTiles(const Sequence& s, const Schedule& schedule);

// Bytes of a key and its value.
inline int64_t KeyBytes(const AttentionProblem& problem) {
  return (int64_t{problem.head_dim_qk} + problem.head_dim_v) * DTypeSize(problem.k.dtype);
}

}  // namespace tessera
