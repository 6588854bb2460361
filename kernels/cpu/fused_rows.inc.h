// The query rows of a task: which keys each sees, the features that act on logits, and the online softmax.
// Scores lie transposed, (key, row), so that a vector holds one key's logits of kLanes rows: maxima, sums and
// masks need no horizontal step.
#pragma once

#include "kernels/cpu/fused_kernel.h"
#include "kernels/cpu/fused_math.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int kBlockRows = kBlockVectors * kLanes;  // row length of a transposed tile
constexpr int kMaxTileKv = 1024;

inline int32_t RoundUp(int32_t value, int32_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Most(int64_t a, int64_t b) { return a < b ? b : a; }

inline int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return b < 0 ? INT64_MIN : INT64_MAX;
  return sum;
}

// One row of a task.
struct Row {
  int64_t query;      // within the sequence
  int64_t diagonal;   // query + diagonal_offset
  int64_t key_begin;  // visible keys before any dense mask
  int64_t key_end;
  int32_t head;
  float query_scale;  // of fp8 queries, see QueryScaleOf
};

// Running state of the online softmax, one entry a row. row_max is the reference that exponents are taken
// against, within kLazyRescale of the true maximum.
struct SoftmaxState {
  float* row_max;
  float* row_sum;
  bool natural;  // row_max is a natural logit, see HasLogitFeatures; else one to base 2
};

inline Row MakeRow(const FusedTask& task, int64_t packed_row) {
  const tessera_sequence& sequence = *task.sequence;
  const int32_t group = task.problem->num_q_heads / task.problem->num_kv_heads;
  Row row;
  row.query = packed_row / group;
  row.head = task.kv_head * group + static_cast<int32_t>(packed_row % group);
  row.diagonal = SaturatingAdd(row.query, sequence.diagonal_offset);
  row.query_scale = QueryScaleOf(*task.problem, sequence, row.head);
  row.key_begin = 0;
  row.key_end = sequence.kv_len;
  if (sequence.window_left >= 0) row.key_begin = Most(0, SaturatingAdd(row.diagonal, -sequence.window_left));
  if (sequence.window_right >= 0) {
    const int64_t end = SaturatingAdd(SaturatingAdd(row.diagonal, sequence.window_right), 1);
    row.key_end = Least(row.key_end, end);
  }
  return row;
}

// Keys of a tile that a block of rows works on, and whether some row does not see some of them.
struct BlockKeys {
  int32_t begin, end;  // within the tile; begin is a multiple of kKeyGranularity; empty when end <= begin
  bool partial;
};

inline BlockKeys VisibleKeysOf(const Row* rows, int32_t num_rows, int64_t tile_begin, int32_t tile_keys) {
  int64_t least_begin = INT64_MAX, most_begin = 0, least_end = INT64_MAX, most_end = INT64_MIN;
  for (int32_t r = 0; r < num_rows; ++r) {
    least_begin = Least(least_begin, rows[r].key_begin);
    most_begin = Most(most_begin, rows[r].key_begin);
    least_end = Least(least_end, rows[r].key_end);
    most_end = Most(most_end, rows[r].key_end);
  }
  const int64_t begin = Most(tile_begin, Least(least_begin, tile_begin + tile_keys));
  const int64_t end = Least(tile_begin + tile_keys, Most(most_end, tile_begin));
  BlockKeys keys;
  keys.begin = static_cast<int32_t>(begin - tile_begin) / kKeyGranularity * kKeyGranularity;
  keys.end = static_cast<int32_t>(end - tile_begin);
  keys.partial = most_begin > tile_begin + keys.begin || least_end < tile_begin + keys.end;
  return keys;
}

inline float LoadMask(const tessera_attention_problem& problem, const void* mask, int64_t index) {
  switch (problem.mask_dtype) {
    case TESSERA_DTYPE_FP32:
      return static_cast<const float*>(mask)[index];
    case TESSERA_DTYPE_FP16:
      return ToFloat(static_cast<const Half*>(mask)[index]);
    case TESSERA_DTYPE_BF16:
      return ToFloat(static_cast<const BFloat16*>(mask)[index]);
    default:
      return static_cast<const uint8_t*>(mask)[index] ? 0.0f : -kInfinity;
  }
}

// Adds a dense mask; -inf replaces the logit, whatever it is.
inline void ApplyMask(const FusedTask& task, const Row* rows, int32_t num_rows, int64_t key_begin,
                      int32_t num_keys, int32_t stride, float* scores) {
  const tessera_attention_problem& problem = *task.problem;
  const tessera_sequence& sequence = *task.sequence;
  for (int32_t r = 0; r < num_rows; ++r) {
    const int64_t base = rows[r].head * sequence.mask_head_stride + rows[r].query * sequence.mask_q_stride;
    for (int32_t j = 0; j < num_keys; ++j) {
      const float value = LoadMask(problem, sequence.mask, base + (key_begin + j) * sequence.mask_kv_stride);
      float& score = scores[int64_t{j} * stride + r];
      score = value == -kInfinity ? -kInfinity : score + value;
    }
  }
}

// Turns raw scores (num_keys, rows) into final, natural logits: scale, soft-cap, ALiBi, mask; -inf where the
// key is hidden. Only tiles that need it come here; `scores` has `stride` floats a key, of which num_vectors
// * kLanes are used.
inline void FinishLogits(const FusedTask& task, const Row* rows, int32_t num_rows, int32_t num_vectors,
                         int64_t key_begin, int32_t num_keys, int32_t stride, float* scores) {
  const tessera_attention_problem& problem = *task.problem;
  const float scale = task.logit_scale;
  const Vec scale_vec = Set(scale);
  for (int32_t v = 0; v < num_vectors; ++v) {
    float* const column = scores + v * kLanes;
    if (problem.softcap > 0) {
      const Vec to_unit = Set(scale / problem.softcap), cap = Set(problem.softcap);
      for (int32_t j = 0; j < num_keys; ++j) {
        Store(column + j * stride, Tanh(Load(column + j * stride) * to_unit) * cap);
      }
    } else {
      for (int32_t j = 0; j < num_keys; ++j)
        Store(column + j * stride, Load(column + j * stride) * scale_vec);
    }
    if (problem.alibi_slopes != nullptr) {
      alignas(64) float slopes[kLanes], diagonals[kLanes];
      for (int32_t lane = 0; lane < kLanes; ++lane) {
        const int32_t r = v * kLanes + lane < num_rows ? v * kLanes + lane : num_rows - 1;
        slopes[lane] = -problem.alibi_slopes[rows[r].head];
        diagonals[lane] = static_cast<float>(SaturatingAdd(rows[r].diagonal, -key_begin));
      }
      const Vec slope = Load(slopes), diagonal = Load(diagonals);
      for (int32_t j = 0; j < num_keys; ++j) {
        const Vec distance = Abs(diagonal - Set(static_cast<float>(j)));
        Store(column + j * stride, Fma(slope, distance, Load(column + j * stride)));
      }
    }
  }
  if (problem.mask_kind != TESSERA_MASK_NONE) {
    ApplyMask(task, rows, num_rows, key_begin, num_keys, stride, scores);
  }
  for (int32_t v = 0; v < num_vectors; ++v) {
    alignas(64) float begins[kLanes], ends[kLanes];
    bool partial = false;
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const int32_t r = v * kLanes + lane < num_rows ? v * kLanes + lane : num_rows - 1;
      const int64_t begin = Most(0, Least(SaturatingAdd(rows[r].key_begin, -key_begin), num_keys));
      const int64_t end = Most(0, Least(SaturatingAdd(rows[r].key_end, -key_begin), num_keys));
      begins[lane] = static_cast<float>(begin);
      ends[lane] = static_cast<float>(end);
      partial |= begin > 0 || end < num_keys;
    }
    if (!partial) continue;
    float* const column = scores + v * kLanes;
    const Vec begin = Load(begins), end = Load(ends), hidden = Set(-kInfinity);
    for (int32_t j = 0; j < num_keys; ++j) {
      const Vec key = Set(static_cast<float>(j));
      const Vec from_begin = SelectLess(key, begin, hidden, Load(column + j * stride));
      Store(column + j * stride, SelectLess(key, end, from_begin, hidden));
    }
  }
}

// Bit r of seen[j]: row r sees key j of final logits `scores`.
inline void CollectSeen(const float* scores, int32_t num_keys, int32_t num_rows, int32_t stride,
                        uint64_t* seen) {
  for (int32_t j = 0; j < num_keys; ++j) {
    seen[j] = 0;
    for (int32_t r = 0; r < num_rows; ++r) {
      seen[j] |= uint64_t{!(scores[int64_t{j} * stride + r] == -kInfinity)} << r;
    }
  }
}

// A row's reference maximum moves only when the true one has outgrown it by so much, so that most tiles leave
// the accumulators alone; weights stay below e^8, or 2^8, far from any limit of fp32.
constexpr float kLazyRescale = 8.0f;

// New reference maximum of kLanes rows for a tile whose largest logit is tile_max, and the factor that
// carries sums over to it (1 while the sums are empty). `reference` is what to subtract: 0 while every logit
// is -inf.
struct MaxUpdate {
  Vec row_max, reference, factor;
};
inline MaxUpdate UpdateMax(Vec row_max, Vec tile_max, bool natural) {
  MaxUpdate update;
  update.row_max = SelectLess(row_max + Set(kLazyRescale), tile_max, tile_max, row_max);
  update.reference = SelectLess(Set(-kInfinity), update.row_max, update.row_max, Set(0.0f));
  const Vec change = (row_max - update.reference) * Set(natural ? kLog2E : 1.0f);
  update.factor = SelectLess(Set(-kInfinity), row_max, Exp2<ExactExp2>(change), Set(1.0f));
  return update;
}

inline Vec ColumnMax(const float* column, int32_t num_keys, int32_t stride) {
  Vec max[4] = {Set(-kInfinity), Set(-kInfinity), Set(-kInfinity), Set(-kInfinity)};
  int32_t j = 0;
  for (; j + 4 <= num_keys; j += 4) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) max[u] = Max(Load(column + (j + u) * stride), max[u]);
  }
  for (; j < num_keys; ++j) max[0] = Max(Load(column + j * stride), max[0]);
  return Max(Max(max[0], max[1]), Max(max[2], max[3]));
}

// What remains to make a column's exponents: value * scale + shift.
struct Exponents {
  Vec scale, shift;
};

// Readies a column of logits, once multiplied, for its exponents to be taken against `reference`.
// Natural logits are subtracted from here, before log2 e makes them larger. Logits to base 2 are left as they
// are, to be scaled and subtracted from in one step, unless a reference is so large that neighbouring floats
// lie more than 1 apart. The maximum is a rounded product, the one that Fma subtracts it from is not: they
// differ by half that distance, which must not become an exponent.
inline Exponents PrepareExponents(Vec reference, float multiplier, bool natural, int32_t num_keys,
                                  int32_t stride, float* column) {
  if (natural) {  // the multiplier is 1
    for (int32_t j = 0; j < num_keys; ++j) Store(column + j * stride, Load(column + j * stride) - reference);
    return {Set(kLog2E), Set(0.0f)};
  }
  const Vec scale = Set(multiplier), shift = Set(0.0f) - reference, most = Set(0x1p24f);
  if (!AnyDiffers(Max(Abs(reference), most), most)) return {scale, shift};
  for (int32_t j = 0; j < num_keys; ++j) Store(column + j * stride, Load(column + j * stride) * scale);
  return {Set(1.0f), shift};
}

// Online softmax over a tile of scores (num_keys, rows), left as weights in place: multiplier * score is a
// logit in the unit of `state`, itself if that is natural. factors: what the accumulators of each row must be
// scaled by before the tile is added; returns whether any is not 1.
inline bool SoftmaxInPlace(float multiplier, int32_t num_keys, int32_t num_vectors, int32_t stride,
                           float* scores, SoftmaxState state, float* factors) {
  bool rescale = false;
  for (int32_t v = 0; v < num_vectors; ++v) {
    float* const column = scores + v * kLanes;
    const Vec tile_max = ColumnMax(column, num_keys, stride) * Set(multiplier);
    const MaxUpdate update = UpdateMax(Load(state.row_max + v * kLanes), tile_max, state.natural);
    const auto [scale, shift] =
        PrepareExponents(update.reference, multiplier, state.natural, num_keys, stride, column);
    Vec sum[2] = {Set(0.0f), Set(0.0f)};
    int32_t j = 0;
    for (; j + 2 <= num_keys; j += 2) {
#pragma GCC unroll 2
      for (int u = 0; u < 2; ++u) {
        const Vec weight = Exp2<ExactExp2>(Fma(Load(column + (j + u) * stride), scale, shift));
        Store(column + (j + u) * stride, weight);
        sum[u] = sum[u] + weight;
      }
    }
    if (j < num_keys) {
      const Vec weight = Exp2<ExactExp2>(Fma(Load(column + j * stride), scale, shift));
      Store(column + j * stride, weight);
      sum[0] = sum[0] + weight;
    }
    Store(state.row_sum + v * kLanes, Fma(Load(state.row_sum + v * kLanes), update.factor, sum[0] + sum[1]));
    Store(state.row_max + v * kLanes, update.row_max);
    Store(factors + v * kLanes, update.factor);
    rescale |= AnyDiffers(update.factor, Set(1.0f));
  }
  return rescale;
}

}  // namespace
}  // namespace tessera::kernels::cpu
