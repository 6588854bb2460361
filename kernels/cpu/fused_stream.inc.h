// A few query rows against many keys, as in decoding: bound by reading K and V, so both are read in place,
// once, with the lanes along the head dimension.
#pragma once

#include "kernels/cpu/fused_tensors.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int kMaxStreamRows = kLanes / 4 < 4 ? kLanes / 4 : 4;

struct StreamWorkspace {
  float* q;        // (kMaxStreamRows, depth)
  float* sums;     // (kMaxStreamRows, value_dim)
  float* scores;   // (tile_kv, kLanes): transposed, as in the tiled path; weights replace them
  uint64_t* seen;  // (tile_kv)
  int64_t bytes;

  StreamWorkspace(const TileShape& shape, std::byte* base) {
    Carver carver{base};
    carver.Take(q, int64_t{kMaxStreamRows} * RoundUp(shape.head_dim_qk, kLanes));
    carver.Take(sums, int64_t{kMaxStreamRows} * RoundUp(shape.head_dim_v, kLanes));
    carver.Take(scores, int64_t{shape.tile_kv} * kLanes);
    carver.Take(seen, shape.tile_kv);
    bytes = carver.bytes;
  }
};

// A tile of K and V rows as they lie in memory. keys_left counts from the tile's first key to the end of the
// task.
template <typename T>
struct StreamTile {
  const T* k;
  const T* v;
  int64_t k_stride, v_stride;
  int32_t num_keys;
  int64_t keys_left;
};

// How far ahead of its use a row of K is fetched: the latency of memory over the time that a row takes.
constexpr int32_t kKeysAhead = 16;

// scores[j][r] = q[r] . k[j]. Fetches the tile's V on the way, and K into the next tile.
template <typename T, int kRows>
void StreamScores(const StreamTile<T>& tile, const TileShape& shape, const float* q, float* scores) {
  const int32_t depth = RoundUp(shape.head_dim_qk, kLanes);
  const int64_t k_bytes = shape.head_dim_qk * static_cast<int64_t>(sizeof(T));
  const int64_t v_bytes = shape.head_dim_v * static_cast<int64_t>(sizeof(T));
  for (int32_t j = 0; j < tile.num_keys; ++j) {
    const T* const row = tile.k + j * tile.k_stride;
    if (j + kKeysAhead < tile.keys_left) PrefetchRow(row + kKeysAhead * tile.k_stride, k_bytes);
    PrefetchRow(tile.v + j * tile.v_stride, v_bytes);
    Vec sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = Set(0.0f);
    for (int32_t d = 0; d < depth; d += kLanes) {
      const Vec key = LoadPadded(row, d, shape.head_dim_qk);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sum[r] = Fma(Load(q + r * depth + d), key, sum[r]);
    }
    for (int r = 0; r < kRows; ++r) scores[j * kLanes + r] = SumLanes(sum[r]);
  }
}

// sums[r] += sum over keys of weights[j][r] * v[j]; the tile is summed by itself first, see MicroTile.
template <typename T, int kRows>
void StreamAccumulate(const T* v, int64_t stride, int32_t num_keys, const TileShape& shape,
                      const float* weights, float* sums) {
  constexpr int kChunk = 4;  // vectors of the head dimension that stay in registers
  const int32_t dim = RoundUp(shape.head_dim_v, kLanes);
  int32_t d = 0;
  for (; d + kChunk * kLanes <= shape.head_dim_v; d += kChunk * kLanes) {
    Vec sum[kRows][kChunk];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChunk; ++c) sum[r][c] = Set(0.0f);
    }
    for (int32_t j = 0; j < num_keys; ++j) {
      const T* const row = v + j * stride + d;
#pragma GCC unroll 4
      for (int c = 0; c < kChunk; ++c) {
        const Vec value = LoadAs(row + c * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
          sum[r][c] = Fma(Broadcast(weights + j * kLanes + r), value, sum[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChunk; ++c) {
        float* const out = sums + r * dim + d + c * kLanes;
        Store(out, Load(out) + sum[r][c]);
      }
    }
  }
  for (; d < shape.head_dim_v; d += kLanes) {
    for (int r = 0; r < kRows; ++r) {
      Vec sum = Set(0.0f);
      for (int32_t j = 0; j < num_keys; ++j) {
        sum = Fma(Broadcast(weights + j * kLanes + r), LoadPadded(v + j * stride, d, shape.head_dim_v), sum);
      }
      Store(sums + r * dim + d, Load(sums + r * dim + d) + sum);
    }
  }
}

template <typename T>
bool AllFinite(const T* v, int64_t stride, int32_t num_keys, int32_t dim) {
  Vec residue = Set(0.0f);
  for (int32_t j = 0; j < num_keys; ++j) {
    for (int32_t d = 0; d < dim; d += kLanes) {
      const Vec value = LoadPadded(v + j * stride, d, dim);
      residue = residue + (value - value);
    }
  }
  return !AnyDiffers(residue, Set(0.0f));
}

// As StreamAccumulate, for a tile with values that are not finite: unseen keys are left out, not weighted by
// 0.
template <typename T>
void StreamAccumulateSeen(const T* v, int64_t stride, int32_t num_keys, const TileShape& shape,
                          const uint64_t* seen, int32_t num_rows, const float* weights, float* sums) {
  const int32_t dim = RoundUp(shape.head_dim_v, kLanes);
  for (int32_t j = 0; j < num_keys; ++j) {
    for (int32_t r = 0; r < num_rows; ++r) {
      if (!(seen[j] >> r & 1)) continue;
      for (int32_t d = 0; d < shape.head_dim_v; ++d) {
        const float value = ToFloat(v[j * stride + d]);
        sums[r * dim + d] += IsFinite(value) ? weights[j * kLanes + r] * value : value;
      }
    }
  }
}

template <typename T>
void StreamStore(const FusedTask& task, const TileShape& shape, const Row* rows, const float* row_max,
                 const float* row_sum, const float* sums) {
  const int32_t dim = RoundUp(shape.head_dim_v, kLanes);
  for (int32_t r = 0; r < task.rows; ++r) {
    if (task.partial != nullptr) {
      float* const partial = task.partial + int64_t{r} * (shape.head_dim_v + 2);
      std::memcpy(partial, sums + r * dim, sizeof(float) * shape.head_dim_v);
      partial[shape.head_dim_v] = row_max[r];
      partial[shape.head_dim_v + 1] = row_sum[r];
      continue;
    }
    const int64_t token = task.sequence->q_begin + rows[r].query;
    const Vec factor =
        Set(FinishRow(*task.problem, *task.sequence, token, rows[r].head, row_max[r], row_sum[r]));
    T* const out = MutableRowOf<T>(task.problem->o, token, rows[r].head);
    for (int32_t d = 0; d < shape.head_dim_v; d += kLanes) {
      StorePadded(out, d, shape.head_dim_v, Load(sums + r * dim + d) * factor);
    }
  }
}

template <typename T, int kRows>
void RunStream(const FusedTask& task, const TileShape& shape, std::byte* scratch) {
  StreamWorkspace work(shape, scratch);
  const tessera_attention_problem& problem = *task.problem;
  const int32_t depth = RoundUp(shape.head_dim_qk, kLanes), dim = RoundUp(shape.head_dim_v, kLanes);
  alignas(64) float row_max[kLanes], row_sum[kLanes], factors[kLanes];
  Row rows[kMaxStreamRows];
  for (int lane = 0; lane < kLanes; ++lane) {
    row_max[lane] = -kInfinity;
    row_sum[lane] = 0.0f;
  }
  std::memset(work.scores, 0, sizeof(float) * shape.tile_kv * kLanes);
  std::memset(work.sums, 0, sizeof(float) * kMaxStreamRows * dim);
  for (int32_t r = 0; r < kRows; ++r) {
    rows[r] = MakeRow(task, task.row_begin + r);
    const T* const q = RowOf<T>(problem.q, task.sequence->q_begin + rows[r].query, rows[r].head);
    for (int32_t d = 0; d < depth; d += kLanes) {
      Vec value = LoadPadded(q, d, shape.head_dim_qk);
      if constexpr (std::is_same_v<T, E4M3>) value = value * Set(rows[r].query_scale);
      Store(work.q + r * depth + d, problem.scale < 0 ? Set(0.0f) - value : value);
    }
  }

  const bool features = HasLogitFeatures(problem);
  for (int64_t tile_begin = task.key_begin; tile_begin < task.key_end; tile_begin += shape.tile_kv) {
    const int32_t tile_keys = static_cast<int32_t>(Least(shape.tile_kv, task.key_end - tile_begin));
    const BlockKeys keys = VisibleKeysOf(rows, kRows, tile_begin, tile_keys);
    const int32_t num_keys = keys.end - keys.begin;
    if (num_keys <= 0) continue;
    const int64_t first_key = tile_begin + keys.begin, token = task.sequence->kv_begin + first_key;
    const StreamTile<T> tile = {.k = RowOf<T>(problem.k, token, task.kv_head),
                                .v = RowOf<T>(problem.v, token, task.kv_head),
                                .k_stride = problem.k.token_stride,
                                .v_stride = problem.v.token_stride,
                                .num_keys = num_keys,
                                .keys_left = task.key_end - first_key};
    StreamScores<T, kRows>(tile, shape, work.q, work.scores);
    float multiplier = task.logit_scale * kLog2E;
    if (features || keys.partial) {
      FinishLogits(task, rows, kRows, 1, first_key, num_keys, kLanes, work.scores);
      multiplier = features ? 1.0f : kLog2E;
    }
    const bool finite = AllFinite(tile.v, tile.v_stride, num_keys, shape.head_dim_v);
    if (!finite) CollectSeen(work.scores, num_keys, kRows, kLanes, work.seen);
    SoftmaxInPlace(multiplier, num_keys, 1, kLanes, work.scores, {row_max, row_sum, features}, factors);
    for (int32_t r = 0; r < kRows; ++r) {
      if (factors[r] == 1.0f) continue;
      for (int32_t d = 0; d < dim; d += kLanes) {
        Store(work.sums + r * dim + d, Load(work.sums + r * dim + d) * Set(factors[r]));
      }
    }
    if (finite) {
      StreamAccumulate<T, kRows>(tile.v, tile.v_stride, num_keys, shape, work.scores, work.sums);
    } else {
      StreamAccumulateSeen(tile.v, tile.v_stride, num_keys, shape, work.seen, kRows, work.scores, work.sums);
    }
  }
  WithOutputType(problem.o.dtype, [&](auto* element) {
    using Out = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    StreamStore<Out>(task, shape, rows, row_max, row_sum, work.sums);
  });
}

// Whether a task goes this way.
inline bool IsStream(const FusedTask& task) { return task.rows <= kMaxStreamRows; }

template <typename T>
void RunStreamTask(const FusedTask& task, const TileShape& shape, std::byte* scratch) {
  switch (task.rows) {
    case 1:
      return RunStream<T, 1>(task, shape, scratch);
    case 2:
      if constexpr (kMaxStreamRows >= 2) return RunStream<T, 2>(task, shape, scratch);
      break;
    case 3:
      if constexpr (kMaxStreamRows >= 3) return RunStream<T, 3>(task, shape, scratch);
      break;
    case 4:
      if constexpr (kMaxStreamRows >= 4) return RunStream<T, 4>(task, shape, scratch);
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace tessera::kernels::cpu
