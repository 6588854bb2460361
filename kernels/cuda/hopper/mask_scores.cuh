// Reads dense masks for the scores of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/hopper/quad.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

// A masked logit: a hidden score is replaced, for it may be NaN.
__device__ inline float MaskedLogit(float score, float scale, float value) {
  return value == NegativeInfinity() ? value : fmaf(score, scale, value);
}

// scores * scale + mask, whatever the mask's dtype and strides. The elements go through local memory: read
// straight to the scores they would take far more code than the rare tile that comes here is worth.
template <class Config>
__device__ inline void MaskScores(const DeviceProblem& problem, const BlockWork& work,
                                  Consumer<Config>& consumer, int32_t tile, float scale) {
  // Keys past the end, whose scores the window hides, have no element.
  const int32_t first_key = tile * Config::kTileKv + consumer.Column(0, 0);
  const int32_t last_key = work.sequence.kv_len - 1;
  if (last_key < 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const RowFeatures f = FeaturesOf(problem, work, work.first_row + consumer.Row(half));
    float values[Config::kTileKv / 4];
#pragma unroll 4
    for (int i = 0; i < Config::kTileKv / 4; ++i) {
      values[i] = MaskValue(problem, f, min(first_key + i / 2 * 8 + i % 2, last_key));
    }
#pragma unroll
    for (int i = 0; i < Config::kTileKv / 4; ++i) {
      float& score = consumer.scores[i / 2 * 4 + 2 * half + i % 2];
      score = MaskedLogit(score, scale, values[i]);
    }
  }
}

// A mask whose elements can be read in pairs, two neighbouring columns at a time; others go to MaskScores.
template <class Config>
class MaskPairs {
 public:
  __device__ void Enter(const DeviceProblem& problem, const BlockWork& work,
                        const Consumer<Config>& consumer) {
    const DeviceSequence& s = work.sequence;
    scale_ = __shfl_sync(~0u, problem.scale, 0);  // as it is, it would be read anew for every score
    element_bytes_ = problem.mask_dtype == TESSERA_DTYPE_FP32   ? 4
                     : problem.mask_dtype == TESSERA_DTYPE_BOOL ? 1
                                                                : 2;
    const auto aligned = reinterpret_cast<uintptr_t>(s.mask) |
                         static_cast<uintptr_t>((s.mask_head_stride | s.mask_q_stride) * element_bytes_);
    const bool paired = s.mask_kv_stride == 1 && aligned % (2 * element_bytes_) == 0;
    pieces_ = kPieces && paired && element_bytes_ != 4 && aligned % (8 * element_bytes_) == 0;
    // Pieces past the end can be left out, pairs only as whole tiles.
    const bool ends_anywhere = pieces_ && s.kv_len % 8 == 0;
    paired_end_ = paired ? (s.kv_len + (ends_anywhere ? Config::kTileKv - 1 : 0)) / Config::kTileKv : 0;
    const int first_column = pieces_ ? consumer.lane % 4 * 8 : consumer.Column(0, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowFeatures f = FeaturesOf(problem, work, work.first_row + consumer.Row(half));
      row_[half] = static_cast<const std::byte*>(f.mask) + first_column * element_bytes_;
    }
  }

  // Starts to read what Apply needs, where registers are left for it.
  __device__ void Load(const BlockWork& work, int32_t tile) {
    if constexpr (!kPieces) return;
    if (tile < paired_end_ && pieces_) {
      LoadPieces(work, tile);
    } else {
      // Or the last tile's would be kept for the next.
#pragma unroll
      for (uint32_t i = 0; i < kTiles * 2; ++i) pairs_[i] = 0;
    }
  }

  // scores * scale + mask.
  __device__ void Apply(const DeviceProblem& problem, const BlockWork& work, Consumer<Config>& consumer,
                        int32_t tile) {
    if (tile >= paired_end_) {
      MaskScores(problem, work, consumer, tile, scale_);
      return;
    }
    if (element_bytes_ == 4) {
      ApplyWide(consumer, tile, scale_);
      return;
    }
    if (kPieces && __any_sync(~0u, pieces_)) {  // the vote makes the branch uniform to the compiler
      TransposePieces();
      ApplyPairs<0, 4>(problem, consumer, pairs_);
    } else {
      uint32_t pairs[kTiles * 2];
      LoadPairs<0, 2>(tile, pairs);
      ApplyPairs<0, 1>(problem, consumer, pairs);
      LoadPairs<2, 3>(tile, pairs);
      ApplyPairs<1, 2>(problem, consumer, pairs);
      LoadPairs<3, 4>(tile, pairs);
      ApplyPairs<2, 4>(problem, consumer, pairs);
    }
  }

 private:
  static constexpr int kTiles = Config::kTileKv / 8;
  // Scores, weights, output, pairs, and what else a consumer keeps.
  static constexpr bool kAhead =
      Config::kTileKv / 2 + Config::kTileKv / 4 + Config::kDimV / 2 + Config::kTileKv / 4 + 36 <=
      Config::kConsumerRegisters;
  // Of eight columns: four of them hold the elements of four n8 tiles of scores for the four threads of a
  // row.
  static constexpr bool kPieces = kAhead && kTiles % 4 == 0;
  __device__ static constexpr int Begin(int quarter) { return kTiles * quarter / 4; }

  float scale_;
  int32_t element_bytes_, paired_end_;  // tiles from paired_end_ on go to MaskScores
  bool pieces_;                         // whether pieces are aligned
  const std::byte* row_[2];             // at the thread's first column, or piece
  uint32_t pairs_[kTiles * 2];

  // Of the quarters kFirst..kEnd - 1 of the tile's columns.
  template <int kFirst, int kEnd>
  __device__ void LoadPairs(int32_t tile, uint32_t (&pairs)[kTiles * 2]) const {
    const int64_t offset = int64_t{tile} * Config::kTileKv * element_bytes_;
    if (element_bytes_ == 2) {
      LoadPairsOf<uint32_t, kFirst, kEnd>(offset, pairs);
    } else {
      LoadPairsOf<uint16_t, kFirst, kEnd>(offset, pairs);
    }
  }
  template <typename Pair, int kFirst, int kEnd>
  __device__ void LoadPairsOf(int64_t offset, uint32_t (&pairs)[kTiles * 2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto* const row = reinterpret_cast<const Pair*>(row_[half] + offset);
#pragma unroll
      for (int n = Begin(kFirst); n < Begin(kEnd); ++n)
        pairs[half * kTiles + n] = ptx::LoadReadOnly(row + n * 4);
    }
  }

  // Reads whole pieces, the thread's own of every four: a fourth of the instructions that pairs would take,
  // and all of the sectors that they touch.
  __device__ void LoadPieces(const BlockWork& work, int32_t tile) {
    // Instead of pieces past the end, whose scores the window hides, the last one.
    const int32_t last_column = work.sequence.kv_len - 8 - static_cast<int32_t>(threadIdx.x) % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int m = 0; m < kTiles / 4; ++m) {
        const int32_t column = min(tile * Config::kTileKv + m * 32, last_column);
        const std::byte* const at = row_[half] + int64_t{column} * element_bytes_;
        uint32_t* const piece = pairs_ + half * kTiles + 4 * m;
        if (element_bytes_ == 2) {
          ptx::LoadReadOnly(reinterpret_cast<const uint4*>(at), piece);
        } else {
          ptx::LoadReadOnly(reinterpret_cast<const uint2*>(at), piece);
        }
      }
    }
  }
  // From pieces to pairs. Pair i of thread t's piece m belongs to the n8 tile 4 m + t of thread i.
  __device__ void TransposePieces() {
    const int thread = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < kTiles * 2; i += 4) {
      uint32_t x[4] = {pairs_[i], pairs_[i + 1], pairs_[i + 2], pairs_[i + 3]};
      if (element_bytes_ == 1) {
        x[2] = x[1];
        x[1] = x[0] >> 16;
        x[3] = x[2] >> 16;
      }
      TransposeQuad(x, thread);
#pragma unroll
      for (int e = 0; e < 4; ++e) pairs_[i + e] = x[e];
    }
  }

  // Of four bytes to an element.
  __device__ void ApplyWide(Consumer<Config>& consumer, int32_t tile, float scale) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto* const row = reinterpret_cast<const float2*>(row_[half]) + tile * (Config::kTileKv / 2);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const float2 values = __ldg(row + n * 4);
        float* const at = consumer.scores + 4 * n + 2 * half;
        at[0] = MaskedLogit(at[0], scale, values.x);
        at[1] = MaskedLogit(at[1], scale, values.y);
      }
    }
  }

  template <int kFirst, int kEnd>
  __device__ void ApplyPairs(const DeviceProblem& problem, Consumer<Config>& consumer,
                             const uint32_t (&pairs)[kTiles * 2]) const {
    const float scale = scale_;
    switch (problem.mask_dtype) {
      case TESSERA_DTYPE_BF16:
        return ForEachPair<kFirst, kEnd>(consumer, pairs, [&](float& low, float& high, uint32_t pair) {
          low = MaskedLogit(low, scale, __uint_as_float(pair << 16));
          high = MaskedLogit(high, scale, __uint_as_float(pair & 0xffff0000u));
        });
      case TESSERA_DTYPE_FP16:
        return ForEachPair<kFirst, kEnd>(consumer, pairs, [&](float& low, float& high, uint32_t pair) {
          low = MaskedLogit(low, scale, __half2float(__ushort_as_half(static_cast<uint16_t>(pair))));
          high = MaskedLogit(high, scale, __half2float(__ushort_as_half(static_cast<uint16_t>(pair >> 16))));
        });
      default:
        return ForEachPair<kFirst, kEnd>(consumer, pairs, [&](float& low, float& high, uint32_t pair) {
          low = (pair & 0xffu) != 0 ? low * scale : NegativeInfinity();
          high = (pair & 0xff00u) != 0 ? high * scale : NegativeInfinity();
        });
    }
  }
  template <int kFirst, int kEnd, class Body>
  __device__ void ForEachPair(Consumer<Config>& consumer, const uint32_t (&pairs)[kTiles * 2],
                              Body body) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = Begin(kFirst); n < Begin(kEnd); ++n) {
        float* const at = consumer.scores + 4 * n + 2 * half;
        body(at[0], at[1], pairs[half * kTiles + n]);
      }
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
