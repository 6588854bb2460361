// Register-tiled products on vectors, and the engine that computes in fp32.
#pragma once

#include "kernels/cpu/fused_tensors.inc.h"

namespace tessera::kernels::cpu {
namespace {

struct MacF32 {
  static Vec Apply(Vec a, Vec b, Vec sum) { return Fma(a, b, sum); }
};

// c (kRows, kVectors * kLanes) (+)= sum over steps of a[row * a_row + step * a_step] * b[step]. a is read a
// scalar (32 bits: one float, or a pair of bf16) at a time; rows of b and c are kBlockRows apart.
// The products are summed apart from c and added to it once, so that rounding errors do not grow with the
// number of keys.
template <typename Mac, int kRows, int kVectors>
inline void MicroTile(const float* a, int64_t a_row, int64_t a_step, const float* b, int32_t steps, float* c,
                      bool accumulate) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Set(0.0f);
  }
#pragma GCC unroll 2
  for (int32_t step = 0; step < steps; ++step) {
    Vec column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = Load(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec scalar = Broadcast(a + r * a_row);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Mac::Apply(scalar, column[v], sum[r][v]);
    }
    a += a_step;
    b += kBlockRows;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* const out = c + r * kBlockRows + v * kLanes;
      Store(out, accumulate ? Load(out) + sum[r][v] : sum[r][v]);
    }
  }
}

// MicroTile over num_rows rows, kMicroRows at a time.
template <typename Mac, int kVectors>
void MultiplyPanel(const float* a, int64_t a_row, int64_t a_step, const float* b, int32_t steps, float* c,
                   int32_t num_rows, bool accumulate, TilePrefetch& next) {
  int32_t r = 0;
  for (; r + kMicroRows <= num_rows; r += kMicroRows) {
    next.Step();
    MicroTile<Mac, kMicroRows, kVectors>(a + r * a_row, a_row, a_step, b, steps, c + r * kBlockRows,
                                         accumulate);
  }
  for (; r + 2 <= num_rows; r += 2) {
    MicroTile<Mac, 2, kVectors>(a + r * a_row, a_row, a_step, b, steps, c + r * kBlockRows, accumulate);
  }
  if (r < num_rows) {
    MicroTile<Mac, 1, kVectors>(a + r * a_row, a_row, a_step, b, steps, c + r * kBlockRows, accumulate);
  }
}

template <typename Mac>
inline void Multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int32_t steps, float* c,
                     int32_t num_rows, int32_t num_vectors, bool accumulate, TilePrefetch& next) {
  if (num_vectors == 1)
    return MultiplyPanel<Mac, 1>(a, a_row, a_step, b, steps, c, num_rows, accumulate, next);
  if constexpr (kBlockVectors > 2) {
    if (num_vectors > 2)
      return MultiplyPanel<Mac, kBlockVectors>(a, a_row, a_step, b, steps, c, num_rows, accumulate, next);
  }
  MultiplyPanel<Mac, 2>(a, a_row, a_step, b, steps, c, num_rows, accumulate, next);
}

// Everything in fp32, inputs converted while they are packed.
//   q: (depth, kBlockRows)   k: (tile_kv, depth)   v: (tile_kv, v_row)   weights: the scores, in place
struct F32Engine {
  using Operand = float;
  static constexpr int32_t kPerWord = 1;  // operands in 32 bits
  static constexpr bool kSeparateWeights = false;

  static void Begin() {}
  static void End() {}

  static int32_t Depth(int32_t head_dim_qk) { return RoundUp(head_dim_qk, kLanes); }
  static int32_t ValueDim(int32_t head_dim_v) { return RoundUp(head_dim_v, kLanes); }

  template <typename T>
  static Vec LoadQuery(const T* row, int32_t word, int32_t head_dim, bool negate) {
    const Vec value = LoadPadded(row, word, head_dim);
    return negate ? Set(0.0f) - value : value;
  }

  template <typename T>
  static void PackKeys(const T* source, int64_t stride, int32_t num_keys, const TileShape& shape, float* k) {
    const int32_t depth = Depth(shape.head_dim_qk);
    for (int32_t j = 0; j < num_keys; ++j) {
      const T* const row = source + j * stride;
      for (int32_t d = 0; d < depth; d += kLanes)
        Store(k + j * depth + d, LoadPadded(row, d, shape.head_dim_qk));
    }
  }

  // Returns whether every value is finite.
  template <typename T>
  static bool PackValues(const T* source, int64_t stride, int32_t num_keys, const TileShape& shape,
                         float* v) {
    const int32_t dim = ValueDim(shape.head_dim_v);
    Vec residue = Set(0.0f);  // x - x is 0, or NaN where x is not finite
    for (int32_t j = 0; j < num_keys; ++j) {
      const T* const row = source + j * stride;
      for (int32_t d = 0; d < dim; d += kLanes) {
        const Vec value = LoadPadded(row, d, shape.head_dim_v);
        residue = residue + (value - value);
        Store(v + j * dim + d, value);
      }
    }
    return !AnyDiffers(residue, Set(0.0f));
  }

  static void ZeroValue(const TileShape& shape, int32_t key, int32_t d, float* v) {
    v[key * ValueDim(shape.head_dim_v) + d] = 0.0f;
  }

  static void Scores(const TileShape& shape, const float* q, const float* k, BlockKeys keys,
                     int32_t num_vectors, float* scores, TilePrefetch& next) {
    const int32_t depth = Depth(shape.head_dim_qk);
    Multiply<MacF32>(k + keys.begin * depth, depth, 1, q, shape.head_dim_qk, scores + keys.begin * kBlockRows,
                     keys.end - keys.begin, num_vectors, false, next);
  }

  static bool Softmax(float multiplier, BlockKeys keys, int32_t num_vectors, float* scores,
                      float* /*weights*/, SoftmaxState state, float* factors) {
    return SoftmaxInPlace(multiplier, keys.end - keys.begin, num_vectors, kBlockRows,
                          scores + keys.begin * kBlockRows, state, factors);
  }

  // sums (v_row, kBlockRows) += V^T (v_row, keys) * weights (keys, rows)
  static void Accumulate(const TileShape& shape, const float* v, const float* weights, BlockKeys keys,
                         int32_t num_vectors, float* sums, TilePrefetch& next) {
    const int32_t dim = ValueDim(shape.head_dim_v);
    Multiply<MacF32>(v + keys.begin * dim, 1, dim, weights + keys.begin * kBlockRows, keys.end - keys.begin,
                     sums, shape.head_dim_v, num_vectors, true, next);
  }
};

}  // namespace
}  // namespace tessera::kernels::cpu
