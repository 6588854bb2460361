// What the bf16 engines share: operands stay bf16 and are read as pairs, 32 bits at a time, summed in fp32.
//   q: (depth / 2, kBlockRows) pairs   k: (tile_kv, depth)   weights: (tile_kv / 2, kBlockRows) pairs of keys
#pragma once

#include "kernels/cpu/fused_gemm.inc.h"

namespace tessera::kernels::cpu {
namespace {

// Interleaves the bf16 roundings of two keys' weights: lane r becomes the pair (first[r], second[r]).
inline __m512i PackPair(Vec first, Vec second) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                              23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleave, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}

struct Bf16Operands {
  using Operand = uint16_t;
  static constexpr int32_t kPerWord = 2;
  static constexpr bool kSeparateWeights = true;

  static int32_t Depth(int32_t head_dim_qk) { return RoundUp(head_dim_qk, 32); }

  // Words [word, word + kLanes) of a row: 32 elements, zero past its end.
  static __m512i LoadRow(const BFloat16* row, int32_t element, int32_t head_dim) {
    if (element + 32 <= head_dim) return _mm512_loadu_si512(row + element);
    const int32_t left = head_dim > element ? head_dim - element : 0;
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << left) - 1), row + element);
  }

  template <typename T>
  static Vec LoadQuery(const T* row, int32_t word, int32_t head_dim, bool negate) {
    const __m512i value = LoadRow(row, word * 2, head_dim);
    const __m512i sign = _mm512_set1_epi32(negate ? static_cast<int32_t>(0x80008000u) : 0);
    return _mm512_castsi512_ps(_mm512_xor_si512(value, sign));
  }

  // Keys up to the next multiple of kKeyGranularity become zero.
  template <typename T>
  static void PackKeys(const T* source, int64_t stride, int32_t num_keys, const TileShape& shape,
                       uint16_t* k) {
    const int32_t depth = Depth(shape.head_dim_qk);
    for (int32_t j = 0; j < num_keys; ++j) {
      for (int32_t d = 0; d < depth; d += 32) {
        _mm512_store_si512(k + j * depth + d, LoadRow(source + j * stride, d, shape.head_dim_qk));
      }
    }
    const int32_t padded = RoundUp(num_keys, kKeyGranularity);
    std::memset(k + num_keys * depth, 0, sizeof(uint16_t) * (padded - num_keys) * depth);
  }

  // As SoftmaxInPlace, with the weights rounded to bf16 on their way to `weights`; zero up to
  // kKeyGranularity.
  [[gnu::noinline]] static bool Softmax(float multiplier, BlockKeys keys, int32_t num_vectors, float* scores,
                                        uint16_t* weights, SoftmaxState state, float* factors) {
    bool rescale = false;
    const int32_t num_keys = keys.end - keys.begin;
    const int32_t padded = RoundUp(num_keys, kKeyGranularity);
    for (int32_t v = 0; v < num_vectors; ++v) {
      float* const column = scores + keys.begin * kBlockRows + v * kLanes;
      uint16_t* const out = weights + keys.begin * kBlockRows + v * kLanes * 2;
      const Vec tile_max = ColumnMax(column, num_keys, kBlockRows) * Set(multiplier);
      const MaxUpdate update = UpdateMax(Load(state.row_max + v * kLanes), tile_max, state.natural);
      const auto [scale, shift] =
          PrepareExponents(update.reference, multiplier, state.natural, num_keys, kBlockRows, column);
      Vec sum[4] = {Set(0.0f), Set(0.0f), Set(0.0f), Set(0.0f)};
      int32_t j = 0;
      for (; j + 4 <= num_keys; j += 4) {
        Vec weight[4];
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) {
          weight[u] = Exp2<FastExp2>(Fma(Load(column + (j + u) * kBlockRows), scale, shift));
          sum[u] = sum[u] + weight[u];
        }
        _mm512_store_si512(out + j * kBlockRows, PackPair(weight[0], weight[1]));
        _mm512_store_si512(out + (j + 2) * kBlockRows, PackPair(weight[2], weight[3]));
      }
      for (; j < padded; j += 2) {
        Vec weight[2] = {Set(0.0f), Set(0.0f)};
        for (int u = 0; u < 2; ++u) {
          if (j + u >= num_keys) continue;
          weight[u] = Exp2<FastExp2>(Fma(Load(column + (j + u) * kBlockRows), scale, shift));
          sum[u] = sum[u] + weight[u];
        }
        _mm512_store_si512(out + j * kBlockRows, PackPair(weight[0], weight[1]));
      }
      const Vec total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      Store(state.row_sum + v * kLanes, Fma(Load(state.row_sum + v * kLanes), update.factor, total));
      Store(state.row_max + v * kLanes, update.row_max);
      Store(factors + v * kLanes, update.factor);
      rescale |= AnyDiffers(update.factor, Set(1.0f));
    }
    return rescale;
  }
};

// Largest bf16 magnitude seen, as the bits without the sign: to tell finite tiles.
struct FiniteCheck {
  __m512i largest = _mm512_setzero_si512();
  void Add(__m512i values) { largest = _mm512_max_epu16(largest, _mm512_slli_epi16(values, 1)); }
  bool AllFinite() const {
    return _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(static_cast<int16_t>(0xFF00u))) == 0;
  }
};

}  // namespace
}  // namespace tessera::kernels::cpu
