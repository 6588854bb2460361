// How a fused kernel cuts the score matrix: tile rows x keys, stages and splits, from the shape of the
// problem and the fast memory of the device. A pure function, shown by Explain and in every ledger.
#pragma once

#include <cstdint>

#include "backend/core/attention_problem.h"

namespace tessera {

// What the choice may count on.
struct TileLimits {
  int64_t fast_memory_bytes;         // shared memory per block, or the share of L2 that one core should fill
  int32_t compute_units;             // streaming multiprocessors, or worker threads
  int32_t min_tile_q, max_tile_q;    // multiples of granularity_q
  int32_t min_tile_kv, max_tile_kv;  // multiples of granularity_kv
  int32_t granularity_q, granularity_kv;
  int32_t efficient_tile_q;  // rows below which a tile no longer earns what loading K/V costs
  int32_t max_stages;        // K/V tiles in flight
  int32_t max_splits;        // 1: the kernel cannot split keys
  // Tasks for each unit when they cost next to nothing to split (decoding): 1 where units run alike, more
  // where one may be held up and the others can take over its share (cores of a shared machine).
  int32_t decode_tasks_per_unit;
  // Bytes that one element occupies in fast memory, for each operand as the kernel holds it (after packing).
  int32_t q_element_bytes, kv_element_bytes, score_element_bytes, accumulator_element_bytes;
};

struct TileChoice {
  int32_t tile_q;
  int32_t tile_kv;
  int32_t stages;
  int32_t num_splits;
  int64_t fast_memory_bytes;  // what the tiles occupy; above the limit only when minimal tiles are
};

// For a valid problem and consistent limits (min <= max; everything positive, but element bytes may be 0 for
// an operand that does not live in fast memory):
// 1. Rows: the largest tile_q that fits beside a minimal, double-buffered K/V tile. Rows come first because
//    each K/V tile is then reused by more of them: traffic falls as 1 / tile_q. The rows that exist are q_len
//    times the query heads of a group, which share their keys (packed GQA).
// 2. Keys: the largest tile_kv that fits beside it, double-buffered. Neither is longer than the longest
//    sequence needs (for keys: than a window shows to a tile), rounded up to the granularity.
// 3. With fewer tiles than compute units, tile_q first shrinks as far as efficient_tile_q: shorter tiles need
//    no partials. What is still idle gets splits: the keys are split (FlashDecoding) until the units are
//    busy, at least 4 K/V tiles to a split; tile_kv shrinks where that makes room for the splits. Where keys
//    are too few or the kernel cannot split, tile_q shrinks further, down to one query's group. Decoding,
//    whose few rows make partials that are nothing beside the keys they come from, is split up to
//    decode_tasks_per_unit, at least 1024 keys to a split.
// 4. Stages: further K/V tiles in flight where memory is left.
TileChoice ChooseTile(const AttentionProblem& problem, const TileLimits& limits);

}  // namespace tessera
