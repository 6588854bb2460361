// One task of the fused kernel: a tile of query rows stays in scratch while the tiles of K and V stream past
// it.
#pragma once

#include "kernels/cpu/fused_stream.inc.h"
#include "kernels/cpu/fused_tensors.inc.h"

namespace tessera::kernels::cpu {
namespace {

// Scratch of a worker. Shapes in elements; rows of a task are padded to whole blocks.
template <typename Engine>
struct Workspace {
  using Operand = typename Engine::Operand;

  Operand* q;        // (blocks, depth / kPerWord, kBlockRows * kPerWord): Q^T, a block at a time
  Operand* k;        // (tile_kv, depth)
  Operand* v;        // (tile_kv, value_dim), in the engine's order
  float* scores;     // (tile_kv, kBlockRows)
  Operand* weights;  // (tile_kv / kPerWord, kBlockRows * kPerWord); unused when weights replace the scores
  float* sums;       // (blocks, value_dim, kBlockRows): O^T before the division
  float* row_max;    // (blocks * kBlockRows)
  float* row_sum;
  float* factors;   // (kBlockRows)
  Row* rows;        // (tile_q)
  uint64_t* seen;   // (tile_kv): see CollectSeen
  uint8_t* spoilt;  // (tile_kv): keys whose V is not all finite
  int64_t bytes;

  Workspace(const TileShape& shape, std::byte* base) {
    const int64_t rows_padded = RoundUp(shape.tile_q, kBlockRows);
    const int64_t depth = Engine::Depth(shape.head_dim_qk), value_dim = Engine::ValueDim(shape.head_dim_v);
    Carver carver{base};
    carver.Take(q, rows_padded * depth);
    carver.Take(k, shape.tile_kv * depth);
    carver.Take(v, shape.tile_kv * value_dim);
    carver.Take(scores, int64_t{shape.tile_kv} * kBlockRows);
    carver.Take(weights, Engine::kSeparateWeights ? int64_t{shape.tile_kv} * kBlockRows : 0);
    carver.Take(sums, rows_padded * value_dim);
    carver.Take(row_max, rows_padded);
    carver.Take(row_sum, rows_padded);
    carver.Take(factors, kBlockRows);
    carver.Take(rows, shape.tile_q);
    carver.Take(seen, shape.tile_kv);
    carver.Take(spoilt, shape.tile_kv);
    bytes = carver.bytes;
  }
};

template <typename Engine, typename T>
[[gnu::noinline]] void PackQueries(const FusedTask& task, const TileShape& shape, Workspace<Engine>& work) {
  const tessera_attention_problem& problem = *task.problem;
  const bool negate = problem.scale < 0;  // tiles are scaled by |scale|: maxima stay maxima
  const int32_t words = Engine::Depth(shape.head_dim_qk) / Engine::kPerWord;
  for (int32_t first = 0; first < task.rows; first += kLanes) {
    float* const block = reinterpret_cast<float*>(work.q) + int64_t{first / kBlockRows} * words * kBlockRows;
    for (int32_t word = 0; word < words; word += kLanes) {
      Vec tile[kLanes];
      for (int32_t lane = 0; lane < kLanes; ++lane) {
        tile[lane] = Set(0.0f);
        if (first + lane >= task.rows) continue;
        const Row& row = work.rows[first + lane];
        const T* const source = RowOf<T>(problem.q, task.sequence->q_begin + row.query, row.head);
        tile[lane] = Engine::LoadQuery(source, word, shape.head_dim_qk, negate);
        if constexpr (std::is_same_v<T, E4M3>) tile[lane] = tile[lane] * Set(row.query_scale);
      }
      Transpose(tile);
      for (int32_t i = 0; i < kLanes; ++i)
        Store(block + (word + i) * kBlockRows + first % kBlockRows, tile[i]);
    }
  }
}

// Packs keys [tile_begin, tile_begin + num_keys). Returns whether V is finite there; where it is not, the
// value is packed as 0 (a weight of 0 would not silence it) and its key marked in work.spoilt.
template <typename Engine, typename T>
[[gnu::noinline]] bool PackTile(const FusedTask& task, const TileShape& shape, int64_t tile_begin,
                                int32_t num_keys, Workspace<Engine>& work) {
  const tessera_attention_problem& problem = *task.problem;
  const int64_t token = task.sequence->kv_begin + tile_begin;
  Engine::PackKeys(RowOf<T>(problem.k, token, task.kv_head), problem.k.token_stride, num_keys, shape, work.k);
  const T* const v = RowOf<T>(problem.v, token, task.kv_head);
  if (Engine::PackValues(v, problem.v.token_stride, num_keys, shape, work.v)) return true;
  for (int32_t j = 0; j < num_keys; ++j) {
    work.spoilt[j] = 0;
    for (int32_t d = 0; d < shape.head_dim_v; ++d) {
      if (IsFinite(ToFloat(v[j * problem.v.token_stride + d]))) continue;
      Engine::ZeroValue(shape, j, d, work.v);
      work.spoilt[j] = 1;
    }
  }
  return false;
}

// Adds the non-finite values that PackTile left out, to the rows that see them.
template <typename T>
void AddSpoilt(const FusedTask& task, const TileShape& shape, int64_t tile_begin, BlockKeys keys,
               const uint8_t* spoilt, const uint64_t* seen, float* sums) {
  const tessera_tensor& tensor = task.problem->v;
  for (int32_t j = keys.begin; j < keys.end; ++j) {
    if (!spoilt[j]) continue;
    const T* const v = RowOf<T>(tensor, task.sequence->kv_begin + tile_begin + j, task.kv_head);
    for (int32_t d = 0; d < shape.head_dim_v; ++d) {
      const float value = ToFloat(v[d]);
      if (IsFinite(value)) continue;
      for (int32_t r = 0; r < kBlockRows; ++r) {
        if (seen[j] >> r & 1) sums[int64_t{d} * kBlockRows + r] += value;
      }
    }
  }
}

inline void Rescale(const float* factors, int32_t dim, int32_t num_vectors, float* sums) {
  for (int32_t v = 0; v < num_vectors; ++v) {
    const Vec factor = Load(factors + v * kLanes);
    float* const column = sums + v * kLanes;
    for (int32_t d = 0; d < dim; ++d) Store(column + d * kBlockRows, Load(column + d * kBlockRows) * factor);
  }
}

// One block of rows against one packed tile.
template <typename Engine>
void BlockStep(const FusedTask& task, const TileShape& shape, int32_t first_row, int64_t tile_begin,
               BlockKeys keys, bool finite, bool features, TilePrefetch& next, Workspace<Engine>& work) {
  const int32_t num_rows = static_cast<int32_t>(Least(kBlockRows, task.rows - first_row));
  const int32_t num_vectors = (num_rows + kLanes - 1) / kLanes;
  const int32_t block = first_row / kBlockRows;
  const int32_t value_dim = Engine::ValueDim(shape.head_dim_v);
  const auto* const q = work.q + int64_t{block} * Engine::Depth(shape.head_dim_qk) * kBlockRows;
  float* const sums = work.sums + int64_t{block} * value_dim * kBlockRows;

  Engine::Scores(shape, q, work.k, keys, num_vectors, work.scores, next);
  float multiplier = task.logit_scale * kLog2E;
  if (features || keys.partial) {
    FinishLogits(task, work.rows + first_row, num_rows, num_vectors, tile_begin + keys.begin,
                 keys.end - keys.begin, kBlockRows, work.scores + keys.begin * kBlockRows);
    multiplier = features ? 1.0f : kLog2E;
  }
  if (!finite) {
    CollectSeen(work.scores + keys.begin * kBlockRows, keys.end - keys.begin, num_rows, kBlockRows,
                work.seen + keys.begin);
  }
  const SoftmaxState state = {work.row_max + first_row, work.row_sum + first_row, features};
  if (Engine::Softmax(multiplier, keys, num_vectors, work.scores, work.weights, state, work.factors)) {
    Rescale(work.factors, value_dim, num_vectors, sums);
  }
  if constexpr (Engine::kSeparateWeights) {
    Engine::Accumulate(shape, work.v, work.weights, keys, num_vectors, sums, next);
  } else {
    Engine::Accumulate(shape, work.v, work.scores, keys, num_vectors, sums, next);
  }
  if (!finite) {
    WithInputType(task.problem->v.dtype, [&](auto* element) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
      AddSpoilt<T>(task, shape, tile_begin, keys, work.spoilt, work.seen, sums);
    });
  }
}

// Turns sums into outputs of dtype T, or writes them out as partials.
template <typename Engine, typename T>
[[gnu::noinline]] void StoreRows(const FusedTask& task, const TileShape& shape, Workspace<Engine>& work) {
  const int32_t value_dim = Engine::ValueDim(shape.head_dim_v);
  const int32_t partial_row = shape.head_dim_v + 2;
  for (int32_t first = 0; first < task.rows; first += kLanes) {
    const int32_t count = static_cast<int32_t>(Least(kLanes, task.rows - first));
    alignas(64) float factors[kLanes];
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      factors[lane] = 1.0f;
      if (lane >= count) continue;
      const float row_max = work.row_max[first + lane], row_sum = work.row_sum[first + lane];
      if (task.partial == nullptr) {
        const Row& row = work.rows[first + lane];
        const int64_t token = task.sequence->q_begin + row.query;
        factors[lane] = FinishRow(*task.problem, *task.sequence, token, row.head, row_max, row_sum);
      } else {
        float* const tail = task.partial + (first + lane) * partial_row + shape.head_dim_v;
        tail[0] = row_max;
        tail[1] = row_sum;
      }
    }
    const Vec factor = Load(factors);
    const float* const column =
        work.sums + int64_t{first / kBlockRows} * value_dim * kBlockRows + first % kBlockRows;
    for (int32_t d = 0; d < shape.head_dim_v; d += kLanes) {
      Vec tile[kLanes];
      for (int32_t i = 0; i < kLanes; ++i) tile[i] = Load(column + (d + i) * kBlockRows) * factor;
      Transpose(tile);
      for (int32_t lane = 0; lane < count; ++lane) {
        if (task.partial != nullptr) {
          StorePadded(task.partial + (first + lane) * partial_row, d, shape.head_dim_v, tile[lane]);
          continue;
        }
        const Row& row = work.rows[first + lane];
        T* const out = MutableRowOf<T>(task.problem->o, task.sequence->q_begin + row.query, row.head);
        StorePadded(out, d, shape.head_dim_v, tile[lane]);
      }
    }
  }
}

// The tile that starts at key tile_begin, to be fetched while the one before it is worked on.
template <typename T>
TilePrefetch PrefetchOf(const FusedTask& task, const TileShape& shape, int64_t tile_begin) {
  TilePrefetch next;
  if (tile_begin >= task.key_end) return next;
  constexpr int32_t kStepsPerBlock = 8;  // at least so many micro-tiles go into a block
  const tessera_attention_problem& problem = *task.problem;
  const int64_t token = task.sequence->kv_begin + tile_begin;
  const int32_t blocks = (task.rows + kBlockRows - 1) / kBlockRows;
  next.k = reinterpret_cast<const std::byte*>(RowOf<T>(problem.k, token, task.kv_head));
  next.v = reinterpret_cast<const std::byte*>(RowOf<T>(problem.v, token, task.kv_head));
  next.k_stride = problem.k.token_stride * static_cast<int64_t>(sizeof(T));
  next.v_stride = problem.v.token_stride * static_cast<int64_t>(sizeof(T));
  next.k_bytes = shape.head_dim_qk * static_cast<int64_t>(sizeof(T));
  next.v_bytes = shape.head_dim_v * static_cast<int64_t>(sizeof(T));
  next.keys_left = static_cast<int32_t>(Least(shape.tile_kv, task.key_end - tile_begin));
  next.keys_per_step = next.keys_left / (blocks * kStepsPerBlock) + 1;
  return next;
}

// T: element type of Q, K and V.
template <typename Engine, typename T>
void RunTiles(const FusedTask& task, const TileShape& shape, std::byte* scratch) {
  Workspace<Engine> work(shape, scratch);
  const tessera_attention_problem& problem = *task.problem;
  for (int32_t r = 0; r < task.rows; ++r) work.rows[r] = MakeRow(task, task.row_begin + r);
  const int32_t rows_padded = RoundUp(task.rows, kBlockRows);
  for (int32_t r = 0; r < rows_padded; ++r) {
    work.row_max[r] = -kInfinity;
    work.row_sum[r] = 0.0f;
  }
  std::memset(work.sums, 0, sizeof(float) * rows_padded * Engine::ValueDim(shape.head_dim_v));
  PackQueries<Engine, T>(task, shape, work);

  const bool features = HasLogitFeatures(problem);
  Engine::Begin();
  for (int64_t tile_begin = task.key_begin; tile_begin < task.key_end; tile_begin += shape.tile_kv) {
    const int32_t num_keys = static_cast<int32_t>(Least(shape.tile_kv, task.key_end - tile_begin));
    bool packed = false, finite = true;
    TilePrefetch next = PrefetchOf<T>(task, shape, tile_begin + shape.tile_kv);
    for (int32_t first = 0; first < task.rows; first += kBlockRows) {
      const int32_t num_rows = static_cast<int32_t>(Least(kBlockRows, task.rows - first));
      const BlockKeys keys = VisibleKeysOf(work.rows + first, num_rows, tile_begin, num_keys);
      if (keys.end <= keys.begin) continue;
      if (!packed) finite = PackTile<Engine, T>(task, shape, tile_begin, num_keys, work);
      packed = true;
      BlockStep<Engine>(task, shape, first, tile_begin, keys, finite, features, next, work);
    }
  }
  Engine::End();

  WithOutputType(problem.o.dtype, [&](auto* element) {
    using Out = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    StoreRows<Engine, Out>(task, shape, work);
  });
}

template <typename Engine>
int64_t ScratchBytes(const TileShape& shape) {
  return Most(Workspace<Engine>(shape, nullptr).bytes, StreamWorkspace(shape, nullptr).bytes);
}

}  // namespace
}  // namespace tessera::kernels::cpu
