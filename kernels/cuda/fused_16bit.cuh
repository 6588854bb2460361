// Fused attention for fp16 and bf16 on tensor cores (mma.sync, compute capability 8.0 and later), after
// FlashAttention-2 (arXiv:2307.08691, Algorithm 1). A block takes a tile of query rows, walks the K/V tiles
// that its rows see from the last to the first, and keeps scores (S), the running row maximum (m), row sum
// (l) and output (O) in registers. K of the next tile loads while P V is computed, V while Q K^T is.
#pragma once

#include "kernels/cuda/block_work.cuh"
#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/fused_kernel.h"
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda {

// Element: __half or __nv_bfloat16. kHeadDim: what head_dim_qk and head_dim_v are padded to, by zeros in
// shared memory. kFeatures: the logits are more than a positive scale times q.k.
template <typename ElementType, int kHeadDimPadded, bool kWithFeatures>
struct Fused16BitConfig {
  using Element = ElementType;
  static constexpr int kHeadDim = kHeadDimPadded;
  static constexpr bool kFeatures = kWithFeatures;
  static constexpr int kWarps = kHeadDim <= 192 ? 4 : 8;
  // Two m16 tiles a warp let it use each K and V fragment twice; above 128 the accumulators leave room for
  // one.
  static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;
  static constexpr int kTileKv = 64;
  static constexpr int kBlocksPerMultiprocessor = kHeadDim <= 64 ? 3 : kHeadDim <= 192 ? 2 : 1;
  // Follow from the above.
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTileQ = kWarps * kRowTiles * 16;
  static constexpr int kStages = 1;
};

// For GPUs whose blocks cannot have the 128 KiB of shared memory that 128 rows of head dim 256 take.
template <typename ElementType, bool kWithFeatures>
struct Fused16BitNarrowConfig : Fused16BitConfig<ElementType, 256, kWithFeatures> {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 128;
  static constexpr int kTileQ = 64;
};

// (kRows, kColumns) 16-bit elements in shared memory. Rows are whole 128-byte lines; in each line the 16-byte
// chunks are permuted by the row's number, so that eight rows' chunks of a column lie in different banks.
template <typename Element, int kRows, int kColumns>
struct SwizzledTile {
  static constexpr int kChunks = kColumns / 8;              // that hold data
  static constexpr int kPitch = (kColumns + 63) / 64 * 64;  // elements
  static constexpr int kPitchBytes = kPitch * 2;
  static constexpr int kSwizzleMask = 7;

  Element data[kRows * kPitch];

  __device__ static int Offset(int row, int chunk) {
    return row * kPitchBytes + ((chunk ^ (row & kSwizzleMask)) << 4);
  }
  __device__ uint4* Chunk(int row, int chunk) {
    return reinterpret_cast<uint4*>(reinterpret_cast<std::byte*>(data) + Offset(row, chunk));
  }
  __device__ Element* At(int row, int column) {
    return reinterpret_cast<Element*>(Chunk(row, column / 8)) + column % 8;
  }
};

template <class Config>
struct Fused16BitShared {
  using Element = typename Config::Element;
  SwizzledTile<Element, Config::kTileQ, Config::kHeadDim> q;
  SwizzledTile<Element, Config::kTileKv, Config::kHeadDim> k;
  SwizzledTile<Element, Config::kTileKv, Config::kHeadDim> v;
};

// Moves tiles from global to shared memory.
template <class Config>
struct Producer {
  using Element = typename Config::Element;
  using Shared = Fused16BitShared<Config>;

  const DeviceProblem& problem;
  const BlockWork& work;
  Shared& shared;

  __device__ void LoadQuery() {
    const DeviceTensor& q = problem.q;
    LoadTile(shared.q, q, problem.head_dim_qk, Config::kTileQ, [&](int row) {
      const int32_t at = work.first_row + row;
      return Source(q, work.sequence.q_begin + work.Query(at), work.Head(at));
    });
  }
  __device__ void LoadKeys(int32_t tile) { LoadKv(shared.k, problem.k, problem.head_dim_qk, tile); }
  __device__ void LoadValues(int32_t tile) { LoadKv(shared.v, problem.v, problem.head_dim_v, tile); }

 private:
  __device__ static const Element* Source(const DeviceTensor& tensor, int64_t token, int64_t head) {
    return static_cast<const Element*>(tensor.data) + token * tensor.token_stride + head * tensor.head_stride;
  }

  template <class Tile>
  __device__ void LoadKv(Tile& tile, const DeviceTensor& tensor, int32_t head_dim, int32_t index) {
    const int32_t first_key = index * Config::kTileKv;
    const Element* const base = Source(tensor, work.sequence.kv_begin + first_key, work.kv_head);
    LoadTile(tile, tensor, head_dim, work.sequence.kv_len - first_key,
             [&](int row) { return base + row * tensor.token_stride; });
  }

  // Rows from `num_rows` on, and columns from `head_dim` on, become zeros.
  template <class Tile, class RowSource>
  __device__ void LoadTile(Tile& tile, const DeviceTensor& tensor, int32_t head_dim, int32_t num_rows,
                           RowSource row_source) {
    constexpr int kChunks = Tile::kChunks, kRows = sizeof(Tile) / Tile::kPitchBytes;
    static_assert(kRows * kChunks % Config::kThreads == 0);
    if (tensor.vectorised) {
      const uint32_t base = ptx::SharedAddress(tile.data);
#pragma unroll
      for (int i = 0; i < kRows * kChunks / Config::kThreads; ++i) {
        const int index = i * Config::kThreads + static_cast<int>(threadIdx.x);
        const int row = index / kChunks, chunk = index % kChunks;
        const bool valid = row < num_rows && chunk * 8 < head_dim;
        // What is not read must still be an address that could be.
        ptx::CpAsync16(base + Tile::Offset(row, chunk), valid ? row_source(row) + chunk * 8 : row_source(0),
                       valid ? 16 : 0);
      }
      return;
    }
#pragma unroll 1
    for (int index = threadIdx.x; index < kRows * kChunks; index += Config::kThreads) {
      const int row = index / kChunks, chunk = index % kChunks;
      alignas(16) Element elements[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int column = chunk * 8 + e;
        elements[e] = row < num_rows && column < head_dim ? row_source(row)[column] : Element(0.0f);
      }
      *tile.Chunk(row, chunk) = *reinterpret_cast<const uint4*>(elements);
    }
  }
};

// A warp's share of the score and output tiles, in the fragments of mma.m16n8k16: kRowTiles tiles of 16 rows.
// Of each, a thread holds two rows ("halves"), g = lane / 4 and g + 8, and of each eight columns two
// neighbours.
template <class Config>
struct Consumer {
  using Element = typename Config::Element;
  using Shared = Fused16BitShared<Config>;
  static constexpr int kRowTiles = Config::kRowTiles;
  static constexpr int kKeyTiles = Config::kTileKv / 8;   // n8 tiles of the scores
  static constexpr int kDimTiles = Config::kHeadDim / 8;  // n8 tiles of the output

  float scores[kRowTiles][kKeyTiles][4];  // (kTileQ, kTileKv) of the block
  float output[kRowTiles][kDimTiles][4];  // (kTileQ, kHeadDim) of the block, unnormalised
  int warp, lane;

  __device__ Consumer() : warp(threadIdx.x / 32), lane(threadIdx.x % 32) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output[m][n][e] = 0;
      }
    }
  }

  // Of the block's tile, the row that holds `half` of row tile m.
  __device__ int Row(int m, int half) const { return (warp * kRowTiles + m) * 16 + half * 8 + lane / 4; }
  // Of the tile of keys (or dims), the column of element e of n8 tile n.
  __device__ int Column(int n, int e) const { return n * 8 + lane % 4 * 2 + e % 2; }

  // scores = Q K^T: (kTileQ, kHeadDim) x (kHeadDim, kTileKv).
  __device__ void Scores(const Shared& shared) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[m][n][e] = 0;
      }
    }
    // Lane l names row l % 16, chunk l / 16 of a (16, 16) block of Q, ...
    const uint32_t q = RowAddress(shared.q, warp * kRowTiles * 16 + lane % 16);
    const uint32_t q_swizzle = (lane / 16 ^ lane % 8) << 4;
    // ... and key l / 16 * 8 + l % 8, chunk l / 8 % 2 of a (16, 16) block of K.
    const uint32_t k = RowAddress(shared.k, lane / 16 * 8 + lane % 8);
    const uint32_t k_swizzle = (lane / 8 % 2 ^ lane % 8) << 4;
#pragma unroll
    for (int d = 0; d < Config::kHeadDim / 16; ++d) {
      uint32_t a[kRowTiles][4], b[kKeyTiles / 2][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        ptx::LoadMatrices(q + m * 16 * kPitchBytes + ((d << 5) ^ q_swizzle), a[m]);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles / 2; ++n) {
        ptx::LoadMatrices(k + n * 16 * kPitchBytes + ((d << 5) ^ k_swizzle), b[n]);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles / 2; ++n) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          ptx::MultiplyAdd(Element{}, scores[m][2 * n], a[m], b[n][0], b[n][1]);
          ptx::MultiplyAdd(Element{}, scores[m][2 * n + 1], a[m], b[n][2], b[n][3]);
        }
      }
    }
  }

  // output += P V: (kTileQ, kTileKv) x (kTileKv, kHeadDim); `scores` hold P. Two neighbouring n8 tiles of
  // scores, rounded to 16 bits, are the a-fragment of 16 keys as they lie.
  __device__ void Accumulate(const Shared& shared) {
    const uint32_t v = RowAddress(shared.v, lane % 16);
    const uint32_t v_swizzle = (lane / 16 ^ lane % 8) << 4;
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        a[m][0] = ptx::Pack(Element{}, scores[m][n][0], scores[m][n][1]);
        a[m][1] = ptx::Pack(Element{}, scores[m][n][2], scores[m][n][3]);
        a[m][2] = ptx::Pack(Element{}, scores[m][n + 1][0], scores[m][n + 1][1]);
        a[m][3] = ptx::Pack(Element{}, scores[m][n + 1][2], scores[m][n + 1][3]);
      }
#pragma unroll
      for (int d = 0; d < kDimTiles; d += 2) {
        uint32_t b[4];
        ptx::LoadMatricesTransposed(v + n * 8 * kPitchBytes + ((d << 4) ^ v_swizzle), b);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          ptx::MultiplyAdd(Element{}, output[m][d], a[m], b[0], b[1]);
          ptx::MultiplyAdd(Element{}, output[m][d + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

 private:
  static constexpr int kPitchBytes = decltype(Shared::k)::kPitchBytes;

  template <class Tile>
  __device__ static uint32_t RowAddress(const Tile& tile, int row) {
    return ptx::SharedAddress(tile.data) + row * Tile::kPitchBytes;
  }
};

// Everything between Q K^T and the softmax: the scores become logits in units of log 2, up to a factor that
// the softmax applies.
template <class Config>
struct Masking {
  const DeviceProblem& problem;
  const BlockWork& work;

  // What `scores` must be multiplied by to be logits to base 2.
  __device__ float Log2Factor() const { return Config::kFeatures ? 1.0f : problem.scale * kLog2E; }

  // Soft-cap, ALiBi and dense mask, in this order.
  __device__ void ApplyFeatures(Consumer<Config>& consumer, int32_t tile) const {
    const DeviceProblem& p = problem;
    ForEachRow([&](int m, int half) {
      const RowFeatures f = FeaturesOf(p, work, RowAt(consumer, m, half));
      ForEachScore(consumer, m, half, tile, [&](float& score, int32_t) { score *= p.scale; });
      if (p.softcap > 0) {
        const float inverse = 1.0f / p.softcap;
        ForEachScore(consumer, m, half, tile,
                     [&](float& score, int32_t) { score = p.softcap * Tanh(score * inverse); });
      }
      if (p.has_alibi) {
        ForEachScore(consumer, m, half, tile, [&](float& score, int32_t key) { score += AlibiBias(f, key); });
      }
      if (f.mask != nullptr) {
        // Keys past the end, whose scores are hidden anyway, have no element. A hidden score is replaced: it
        // may be NaN.
        ForEachScore(consumer, m, half, tile, [&](float& score, int32_t key) {
          const float value = MaskValue(p, f, min(key, work.sequence.kv_len - 1));
          score = value == NegativeInfinity() ? value : score + value;
        });
      }
      ForEachScore(consumer, m, half, tile, [&](float& score, int32_t) { score *= kLog2E; });
    });
  }

  // Hides what the window and the end of the keys hide.
  __device__ void ApplyWindow(Consumer<Config>& consumer, int32_t tile) const {
    ForEachRow([&](int m, int half) {
      const RowWindow window = WindowOf(work, RowAt(consumer, m, half));
      ForEachScore(consumer, m, half, tile, [&](float& score, int32_t key) {
        if (!window.Shows(key)) score = NegativeInfinity();
      });
    });
  }

  // A hidden key's P is 0, but 0 * NaN is NaN: values that are not finite are taken out of the tile of V,
  // after they have joined the output of the rows that see them. To be called by all threads, for tiles in
  // which something is hidden.
  __device__ void SetAsideNonFinite(Consumer<Config>& consumer, Fused16BitShared<Config>& shared,
                                    int32_t tile) const {
    if (!__syncthreads_or(HasNonFinite(shared))) return;
    ForEachRow([&](int m, int half) {
      const int32_t row = RowAt(consumer, m, half);
      const RowWindow window = WindowOf(work, row);
      const RowFeatures f = FeaturesOf(problem, work, row);
      const int32_t first_key = tile * Config::kTileKv;
#pragma unroll 1
      for (int32_t key = 0; key < Config::kTileKv; ++key) {
        if (!window.Shows(first_key + key) || IsMasked(problem, f, first_key + key)) continue;
#pragma unroll
        for (int n = 0; n < Consumer<Config>::kDimTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float value = static_cast<float>(*shared.v.At(key, consumer.Column(n, e)));
            if (!isfinite(value)) consumer.output[m][n][half * 2 + e] += value;
          }
        }
      }
    });
    __syncthreads();
    ForEachValueChunk(shared, [](uint4& chunk) {
      for (uint32_t* pair : {&chunk.x, &chunk.y, &chunk.z, &chunk.w}) {
        if (IsNonFinite(*pair)) *pair &= 0xffff0000u;
        if (IsNonFinite(*pair >> 16)) *pair &= 0x0000ffffu;
      }
    });
    __syncthreads();
  }

 private:
  using Element = typename Config::Element;

  // tanh to 1e-7 absolute, which tanh.approx is far from.
  __device__ static float Tanh(float x) { return 1.0f - 2.0f / (ptx::Exp2(x * (2 * kLog2E)) + 1.0f); }

  // Of the low 16 bits.
  __device__ static bool IsNonFinite(uint32_t bits) {
    constexpr uint32_t kExponent =
        sizeof(typename Config::Element) == 2 && IsBf16(Element{}) ? 0x7f80u : 0x7c00u;
    return (bits & kExponent) == kExponent;
  }
  __device__ static constexpr bool IsBf16(__nv_bfloat16) { return true; }
  __device__ static constexpr bool IsBf16(__half) { return false; }

  template <class Body>
  __device__ static void ForEachValueChunk(Fused16BitShared<Config>& shared, Body body) {
    using Tile = decltype(shared.v);
#pragma unroll 1
    for (int index = threadIdx.x; index < Config::kTileKv * Tile::kChunks; index += Config::kThreads) {
      body(*shared.v.Chunk(index / Tile::kChunks, index % Tile::kChunks));
    }
  }

  __device__ static bool HasNonFinite(Fused16BitShared<Config>& shared) {
    bool found = false;
    ForEachValueChunk(shared, [&found](uint4& chunk) {
      for (uint32_t pair : {chunk.x, chunk.y, chunk.z, chunk.w}) {
        found |= IsNonFinite(pair) || IsNonFinite(pair >> 16);
      }
    });
    return found;
  }

  __device__ int32_t RowAt(const Consumer<Config>& consumer, int m, int half) const {
    return work.first_row + consumer.Row(m, half);
  }

  template <class Body>
  __device__ static void ForEachRow(Body body) {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) body(m, half);
    }
  }

  template <class Body>
  __device__ static void ForEachScore(Consumer<Config>& consumer, int m, int half, int32_t tile, Body body) {
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        body(consumer.scores[m][n][half * 2 + e], tile * Config::kTileKv + consumer.Column(n, e));
      }
    }
  }
};

// The running softmax of a thread's rows: row_max is m of the paper in units of the scores, row_sum is l over
// the thread's own columns.
template <class Config>
struct OnlineSoftmax {
  float factor;  // scores times this are logits to base 2; >= 0
  float row_max[Config::kRowTiles][2];
  float row_sum[Config::kRowTiles][2];

  __device__ explicit OnlineSoftmax(float log2_factor) : factor(log2_factor) {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      row_max[m][0] = row_max[m][1] = NegativeInfinity();
      row_sum[m][0] = row_sum[m][1] = 0;
    }
  }

  // The scores become P = 2^(scores * factor - maximum), and the output so far is brought to the new maximum.
  __device__ void Update(Consumer<Config>& consumer) {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      float rescale[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) rescale[half] = UpdateRow(consumer.scores[m], m, half);
      if (__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < Consumer<Config>::kDimTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) consumer.output[m][n][e] *= rescale[e / 2];
        }
      }
    }
  }

  // The maximum as a logit to base 2; 0 for a row that has seen no key.
  __device__ float Reference(int m, int half) const {
    return row_max[m][half] == NegativeInfinity() ? 0.0f : row_max[m][half] * factor;
  }

  // l of the row, over all columns.
  __device__ float RowSum(int m, int half) const { return QuadReduce(row_sum[m][half], Add); }

 private:
  __device__ float UpdateRow(float (&scores)[Consumer<Config>::kKeyTiles][4], int m, int half) {
    float& maximum = row_max[m][half];
    const float before = maximum;
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kKeyTiles; ++n) {
      maximum = fmaxf(maximum, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
    }
    maximum = QuadReduce(maximum, Max);
    const float reference = Reference(m, half);
    const float rescale = ptx::Exp2(before * factor - reference);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kKeyTiles; ++n) {
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; ++e) {
        scores[n][e] = ptx::Exp2(fmaf(scores[n][e], factor, -reference));
        sum += scores[n][e];
      }
    }
    row_sum[m][half] = fmaf(row_sum[m][half], rescale, sum);
    return rescale;
  }

  __device__ static float Max(float a, float b) { return fmaxf(a, b); }
  __device__ static float Add(float a, float b) { return a + b; }

  // Over the four threads that share a row.
  __device__ static float QuadReduce(float value, float (*combine)(float, float)) {
    value = combine(value, __shfl_xor_sync(~0u, value, 1));
    return combine(value, __shfl_xor_sync(~0u, value, 2));
  }
};

// Normalises, adds the sink, and writes O and LSE.
template <class Config>
struct Epilogue {
  const DeviceProblem& problem;
  const BlockWork& work;

  __device__ void Store(const Consumer<Config>& consumer, const OnlineSoftmax<Config>& softmax) const {
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float row_sum = softmax.RowSum(m, half);
        const int32_t row = work.first_row + consumer.Row(m, half);
        if (row >= work.num_rows) continue;
        const int32_t head = work.Head(row);
        const int64_t token = work.sequence.q_begin + work.Query(row);
        const RowResult result = Finish(softmax.row_max[m][half], softmax.Reference(m, half), row_sum,
                                        problem.has_sinks, Sink(head));
        if (problem.lse != nullptr && consumer.lane % 4 == 0) {
          problem.lse[token * problem.lse_token_stride + head * problem.lse_head_stride] = result.lse;
        }
        StoreRow(consumer, m, half, token * problem.o.token_stride + head * problem.o.head_stride,
                 result.scale);
      }
    }
  }

 private:
  __device__ float Sink(int32_t head) const { return problem.has_sinks ? problem.sinks()[head] : 0.0f; }

  __device__ void StoreRow(const Consumer<Config>& consumer, int m, int half, int64_t at, float scale) const {
    switch (problem.o.dtype) {
      case TESSERA_DTYPE_FP32:
        return StoreRowAs<float>(consumer, m, half, at, scale);
      case TESSERA_DTYPE_FP16:
        return StoreRowAs<__half>(consumer, m, half, at, scale);
      default:
        return StoreRowAs<__nv_bfloat16>(consumer, m, half, at, scale);
    }
  }

  template <typename Output>
  __device__ void StoreRowAs(const Consumer<Config>& consumer, int m, int half, int64_t at,
                             float scale) const {
    struct alignas(2 * sizeof(Output)) Pair {
      Output low, high;
    };
    Output* const row = static_cast<Output*>(problem.o.data) + at;
#pragma unroll
    for (int n = 0; n < Consumer<Config>::kDimTiles; ++n) {
      const int column = consumer.Column(n, 0);
      const Pair pair{Output(consumer.output[m][n][half * 2] * scale),
                      Output(consumer.output[m][n][half * 2 + 1] * scale)};
      if (problem.o.vectorised) {
        if (column < problem.head_dim_v) *reinterpret_cast<Pair*>(row + column) = pair;
      } else {
        if (column < problem.head_dim_v) row[column] = pair.low;
        if (column + 1 < problem.head_dim_v) row[column + 1] = pair.high;
      }
    }
  }
};

// The kernel's body, for the block's share of `problem`.
template <class Config>
__device__ void Fused16Bit(const DeviceProblem& problem) {
  extern __shared__ __align__(128) std::byte shared_memory[];
  auto& shared = *reinterpret_cast<Fused16BitShared<Config>*>(shared_memory);
  const BlockWork work = FindWork(problem, static_cast<int32_t>(blockIdx.x), Config::kTileQ);
  const KeyWalk walk = WalkOf(work, Config::kTileQ, Config::kTileKv);

  Producer<Config> producer{problem, work, shared};
  const Masking<Config> masking{problem, work};
  Consumer<Config> consumer;
  OnlineSoftmax<Config> softmax(masking.Log2Factor());

  if (walk.first_tile < walk.end_tile) {
    producer.LoadQuery();
    producer.LoadKeys(walk.end_tile - 1);
    ptx::CpAsyncCommit();
  }
  for (int32_t tile = walk.end_tile - 1; tile >= walk.first_tile; --tile) {
    ptx::CpAsyncWait<0>();
    __syncthreads();  // K of this tile is there, V of the one before is done with
    producer.LoadValues(tile);
    ptx::CpAsyncCommit();
    consumer.Scores(shared);

    ptx::CpAsyncWait<0>();
    __syncthreads();  // V is there, K is done with
    if (tile > walk.first_tile) producer.LoadKeys(tile - 1);
    ptx::CpAsyncCommit();

    const bool is_full = walk.IsFull(tile, Config::kTileKv);
    if constexpr (Config::kFeatures) masking.ApplyFeatures(consumer, tile);
    if (!is_full) masking.ApplyWindow(consumer, tile);
    softmax.Update(consumer);
    if (!is_full || (Config::kFeatures && problem.mask_kind != TESSERA_MASK_NONE)) {
      masking.SetAsideNonFinite(consumer, shared, tile);
    }
    consumer.Accumulate(shared);
  }
  Epilogue<Config>{problem, work}.Store(consumer, softmax);
}

// The kernel that runs Fused16Bit<Config>, as the dispatch sees it.
template <class Config>
FusedKernel Describe16Bit(const char* name, void (*function)(DeviceProblem)) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(function),
          .head_dim = Config::kHeadDim,
          .features = Config::kFeatures,
          .tile_q = Config::kTileQ,
          .tile_kv = Config::kTileKv,
          .stages = Config::kStages,
          .threads = Config::kThreads,
          .shared_memory_bytes = sizeof(Fused16BitShared<Config>),
          .blocks_per_multiprocessor = Config::kBlocksPerMultiprocessor};
}

}  // namespace tessera::kernels::cuda
