// bf16 products by VDPBF16PS: two products and a sum in fp32 for each 32-bit lane.
#include "kernels/cpu/simd_avx512.inc.h"
// The vector type comes first.
#include "kernels/cpu/fused_bf16.inc.h"
#include "kernels/cpu/fused_run.inc.h"

namespace tessera::kernels::cpu {
namespace {

struct MacBf16 {
  static Vec Apply(Vec a, Vec b, Vec sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

// v: (tile_kv / 2, value_dim) pairs of keys
struct DotEngine : Bf16Operands {
  static void Begin() {}
  static void End() {}
  static int32_t ValueDim(int32_t head_dim_v) { return RoundUp(head_dim_v, 32); }

  template <typename T>
  static bool PackValues(const T* source, int64_t stride, int32_t num_keys, const TileShape& shape,
                         uint16_t* v) {
    const int32_t dim = ValueDim(shape.head_dim_v);
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                         38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    FiniteCheck check;
    const int32_t padded = RoundUp(num_keys, kKeyGranularity);
    for (int32_t j = 0; j < padded; j += 2) {
      for (int32_t d = 0; d < dim; d += 32) {
        const __m512i first =
            j < num_keys ? LoadRow(source + j * stride, d, shape.head_dim_v) : _mm512_setzero_si512();
        const __m512i second = j + 1 < num_keys ? LoadRow(source + (j + 1) * stride, d, shape.head_dim_v)
                                                : _mm512_setzero_si512();
        check.Add(first);
        check.Add(second);
        uint16_t* const out = v + j * dim + d * 2;
        _mm512_store_si512(out, _mm512_permutex2var_epi16(first, low, second));
        _mm512_store_si512(out + 32, _mm512_permutex2var_epi16(first, high, second));
      }
    }
    return check.AllFinite();
  }

  static void ZeroValue(const TileShape& shape, int32_t key, int32_t d, uint16_t* v) {
    v[key / 2 * 2 * ValueDim(shape.head_dim_v) + d * 2 + key % 2] = 0;
  }

  static void Scores(const TileShape& shape, const uint16_t* q, const uint16_t* k, BlockKeys keys,
                     int32_t num_vectors, float* scores, TilePrefetch& next) {
    const int32_t words = Depth(shape.head_dim_qk) / 2;
    Multiply<MacBf16>(Words(k) + keys.begin * words, words, 1, Words(q), words,
                      scores + keys.begin * kBlockRows, keys.end - keys.begin, num_vectors, false, next);
  }

  static void Accumulate(const TileShape& shape, const uint16_t* v, const uint16_t* weights, BlockKeys keys,
                         int32_t num_vectors, float* sums, TilePrefetch& next) {
    const int32_t dim = ValueDim(shape.head_dim_v);
    Multiply<MacBf16>(Words(v) + keys.begin / 2 * dim, 1, dim, Words(weights) + keys.begin / 2 * kBlockRows,
                      (keys.end - keys.begin + 1) / 2, sums, shape.head_dim_v, num_vectors, true, next);
  }

 private:
  // Pairs travel as the 32 bits of a float; no arithmetic is done on them as such.
  static const float* Words(const uint16_t* pairs) { return reinterpret_cast<const float*>(pairs); }
};

void Run(const FusedTask& task, const TileShape& shape, std::byte* scratch) {
  if (IsStream(task)) return RunStreamTask<BFloat16>(task, shape, scratch);
  RunTiles<DotEngine, BFloat16>(task, shape, scratch);
}

}  // namespace

constinit const FusedKernel kFusedAvx512Bf16 = {.block_q = kBlockRows,
                                                .lanes = kLanes,
                                                .max_tile_q = 256,
                                                .default_tile_kv = 96,
                                                .max_tile_kv = kMaxTileKv,
                                                .operand_bytes = 2,
                                                .pack_rows = 8,
                                                .scratch_bytes = ScratchBytes<DotEngine>,
                                                .run = Run};

}  // namespace tessera::kernels::cpu
