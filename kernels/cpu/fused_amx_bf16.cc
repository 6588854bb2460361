// bf16 products on AMX tiles. Scores are K times Q^T, so that K is an operand in its natural layout and the
// scores come out transposed, as the softmax wants them; outputs are V^T times the weights.
#include "kernels/cpu/simd_avx512.inc.h"
// The vector type comes first.
#include "kernels/cpu/fused_bf16.inc.h"
#include "kernels/cpu/fused_run.inc.h"

namespace tessera::kernels::cpu {
namespace {

constexpr int32_t kTileRows = 16;   // of any operand
constexpr int32_t kTileDepth = 32;  // bf16 elements of a tile row
constexpr int32_t kTileElements = kTileRows * kTileDepth;

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tile intrinsics do not tell the compiler that they touch memory.
inline void MemoryFence() { __asm__ volatile("" ::: "memory"); }

// v: (value_dim / 16, tile_kv / 32) tiles of (16 dims, 32 keys): V^T
struct AmxEngine : Bf16Operands {
  static void Begin() {
    static constexpr TileConfig kConfig;
    _tile_loadconfig(&kConfig);
  }
  static void End() { _tile_release(); }

  static int32_t ValueDim(int32_t head_dim_v) { return RoundUp(head_dim_v, 2 * kTileRows); }

  static uint16_t* ValueTile(const TileShape& shape, int32_t dim_block, int32_t key_block, uint16_t* v) {
    return v + (int64_t{dim_block} * (shape.tile_kv / kTileDepth) + key_block) * kTileElements;
  }

  // Transposes 8 dims of 32 keys, rows[j] being where key j's are, into 8 rows of a V^T tile.
  static void TransposeValues(const uint16_t* const* rows, FiniteCheck& check, uint16_t* out) {
    __m512i a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {  // 128-bit lane l: key 8 l + i
      const auto at = [&](int j) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[j])); };
      a[i] = _mm512_castsi128_si512(at(i));
      a[i] = _mm512_inserti32x4(a[i], at(8 + i), 1);
      a[i] = _mm512_inserti32x4(a[i], at(16 + i), 2);
      a[i] = _mm512_inserti32x4(a[i], at(24 + i), 3);
      check.Add(a[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // pairs of keys (i, i + 4)
      b[2 * i] = _mm512_unpacklo_epi16(a[i], a[i + 4]);
      b[2 * i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 4]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // quads of keys
      a[2 * i] = _mm512_unpacklo_epi16(b[i], b[i + 4]);
      a[2 * i + 1] = _mm512_unpackhi_epi16(b[i], b[i + 4]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = _mm512_unpacklo_epi16(a[i], a[i + 4]);
      b[2 * i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 4]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) _mm512_store_si512(out + i * kTileDepth, b[i]);
  }

  template <typename T>
  static bool PackValues(const T* source, int64_t stride, int32_t num_keys, const TileShape& shape,
                         uint16_t* v) {
    static constexpr uint16_t kZeros[8] = {};
    const int32_t dim = ValueDim(shape.head_dim_v);
    FiniteCheck check;
    for (int32_t key = 0; key < num_keys; key += kTileDepth) {
      for (int32_t d = 0; d < dim; d += 8) {
        uint16_t edge[kTileDepth][8];
        const uint16_t* rows[kTileDepth];
        const bool whole = d + 8 <= shape.head_dim_v;
        for (int32_t j = 0; j < kTileDepth; ++j) {
          const auto* const row = reinterpret_cast<const uint16_t*>(source + (key + j) * stride);
          rows[j] = key + j < num_keys && d < shape.head_dim_v ? row + d : kZeros;
          if (whole || rows[j] == kZeros) continue;
          for (int32_t i = 0; i < 8; ++i) edge[j][i] = d + i < shape.head_dim_v ? row[d + i] : uint16_t{0};
          rows[j] = edge[j];
        }
        uint16_t* const tile = ValueTile(shape, d / kTileRows, key / kTileDepth, v);
        TransposeValues(rows, check, tile + d % kTileRows * kTileDepth);
      }
    }
    return check.AllFinite();
  }

  static void ZeroValue(const TileShape& shape, int32_t key, int32_t d, uint16_t* v) {
    ValueTile(shape, d / kTileRows, key / kTileDepth, v)[d % kTileRows * kTileDepth + key % kTileDepth] = 0;
  }

  // Products of 2 x 2 tiles: four accumulators, each operand loaded for two products. A group's accumulators
  // are stored while the next group's products start, one accumulator at a time: a store right behind its
  // product would hold up everything after it. (0, 2: first a; 1, 3: second a; 0, 1: first b; 2, 3: second
  // b.)
  struct Group {
    const uint16_t* a[2];  // rows kTileDepth or more elements apart
    const uint16_t* b;     // the second 16 rows of pairs follow the first
    float* c[2];
  };

  static constexpr int64_t kRowBytes = kBlockRows * sizeof(float);

  static void StorePair(const Group& group) {
    _tile_stored(0, group.c[0], kRowBytes);
    _tile_stored(1, group.c[1], kRowBytes);
    _tile_stored(2, group.c[0] + kLanes, kRowBytes);
    _tile_stored(3, group.c[1] + kLanes, kRowBytes);
  }

  static void LoadOperands(const Group& group, int64_t a_bytes, int32_t step, int64_t a_step,
                           int64_t b_step) {
    _tile_loadd(4, group.a[0] + step * a_step, a_bytes);
    _tile_loadd(6, group.b + step * b_step, kRowBytes);
    _tile_loadd(5, group.a[1] + step * a_step, a_bytes);
    _tile_loadd(7, group.b + step * b_step + kLanes * 2, kRowBytes);
  }

  // c (+)= a times b over `steps` tiles, for each group that next_group yields. a_bytes: between rows of a
  // tile.
  template <bool kAdd, typename NextGroup>
  static void MultiplyGroups(int64_t a_bytes, int64_t a_step, int64_t b_step, int32_t steps,
                             const NextGroup& next_group) {
    Group group, stored;
    if (!next_group(&group)) return;
    MemoryFence();
    if constexpr (kAdd) {
      _tile_loadd(0, group.c[0], kRowBytes);
      _tile_loadd(1, group.c[1], kRowBytes);
      _tile_loadd(2, group.c[0] + kLanes, kRowBytes);
      _tile_loadd(3, group.c[1] + kLanes, kRowBytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    LoadOperands(group, a_bytes, 0, a_step, b_step);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    for (;;) {
      for (int32_t step = 1; step < steps; ++step) {
        LoadOperands(group, a_bytes, step, a_step, b_step);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      stored = group;
      if (!next_group(&group)) break;
      LoadOperands(group, a_bytes, 0, a_step, b_step);
      _tile_stored(0, stored.c[0], kRowBytes);
      if constexpr (kAdd) {
        _tile_loadd(0, group.c[0], kRowBytes);
      } else {
        _tile_zero(0);
      }
      _tile_dpbf16ps(0, 4, 6);
      _tile_stored(1, stored.c[1], kRowBytes);
      if constexpr (kAdd) {
        _tile_loadd(1, group.c[1], kRowBytes);
      } else {
        _tile_zero(1);
      }
      _tile_dpbf16ps(1, 5, 6);
      _tile_stored(2, stored.c[0] + kLanes, kRowBytes);
      if constexpr (kAdd) {
        _tile_loadd(2, group.c[0] + kLanes, kRowBytes);
      } else {
        _tile_zero(2);
      }
      _tile_dpbf16ps(2, 4, 7);
      _tile_stored(3, stored.c[1] + kLanes, kRowBytes);
      if constexpr (kAdd) {
        _tile_loadd(3, group.c[1] + kLanes, kRowBytes);
      } else {
        _tile_zero(3);
      }
      _tile_dpbf16ps(3, 5, 7);
    }
    StorePair(stored);
    MemoryFence();
  }

  // Two tiles of keys by all tiles of rows, then the next two of keys. Rows come in pairs of tiles: an odd
  // last one is multiplied with whatever lies beside it, which nobody reads.
  [[gnu::noinline]] static void Scores(const TileShape& shape, const uint16_t* q, const uint16_t* k,
                                       BlockKeys keys, int32_t num_vectors, float* scores,
                                       TilePrefetch& next) {
    const int32_t depth = Depth(shape.head_dim_qk);
    int32_t j = keys.begin, t = 0;
    const auto next_group = [&](Group* group) {
      if (j >= keys.end) return false;
      const uint16_t* const k0 = k + j * depth;
      float* const s0 = scores + j * kBlockRows + t * kLanes;
      *group = {{k0, k0 + kTileRows * depth}, q + t * kLanes * 2, {s0, s0 + kTileRows * kBlockRows}};
      t += 2;
      if (t >= num_vectors) {
        next.Step();
        t = 0;
        j += 2 * kTileRows;
      }
      return true;
    };
    MultiplyGroups<false>(depth * 2, kTileDepth, kTileDepth * kBlockRows, depth / kTileDepth, next_group);
  }

  [[gnu::noinline]] static void Accumulate(const TileShape& shape, uint16_t* v, const uint16_t* weights,
                                           BlockKeys keys, int32_t num_vectors, float* sums,
                                           TilePrefetch& next) {
    const int32_t dim = ValueDim(shape.head_dim_v);
    const int32_t steps = (keys.end - keys.begin + kTileDepth - 1) / kTileDepth;
    int32_t d = 0, t = 0;
    const auto next_group = [&](Group* group) {
      if (d >= dim) return false;
      const int32_t key_block = keys.begin / kTileDepth, dim_block = d / kTileRows;
      float* const o0 = sums + d * kBlockRows + t * kLanes;
      *group = {{ValueTile(shape, dim_block, key_block, v), ValueTile(shape, dim_block + 1, key_block, v)},
                weights + keys.begin * kBlockRows + t * kLanes * 2,
                {o0, o0 + kTileRows * kBlockRows}};
      t += 2;
      if (t >= num_vectors) {
        next.Step();
        t = 0;
        d += 2 * kTileRows;
      }
      return true;
    };
    MultiplyGroups<true>(64, kTileElements, kTileDepth * kBlockRows, steps, next_group);
  }
};

void Run(const FusedTask& task, const TileShape& shape, std::byte* scratch) {
  if (IsStream(task)) return RunStreamTask<BFloat16>(task, shape, scratch);
  RunTiles<AmxEngine, BFloat16>(task, shape, scratch);
}

}  // namespace

constinit const FusedKernel kFusedAmxBf16 = {.block_q = kBlockRows,
                                             .lanes = kLanes,
                                             .max_tile_q = 512,
                                             .default_tile_kv = 256,
                                             .max_tile_kv = kMaxTileKv,
                                             .operand_bytes = 2,
                                             .pack_rows = 32,
                                             .scratch_bytes = ScratchBytes<AmxEngine>,
                                             .run = Run};

}  // namespace tessera::kernels::cpu
