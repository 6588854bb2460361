// Reads dense masks for the scores of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
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
    element_bytes_ = problem.mask_dtype == TESSERA_DTYPE_FP32   ? 4
                     : problem.mask_dtype == TESSERA_DTYPE_BOOL ? 1
                                                                : 2;
    const auto aligned = reinterpret_cast<uintptr_t>(s.mask) |
                         static_cast<uintptr_t>((s.mask_head_stride | s.mask_q_stride) * element_bytes_);
    const bool paired = s.mask_kv_stride == 1 && aligned % (2 * element_bytes_) == 0;
    // Tiles that end within the sequence.
    paired_end_ = paired ? s.kv_len / Config::kTileKv : 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowFeatures f = FeaturesOf(problem, work, work.first_row + consumer.Row(half));
      row_[half] = static_cast<const std::byte*>(f.mask) + consumer.Column(0, 0) * element_bytes_;
    }
  }

  // Starts to read what Apply needs, where registers are left for it.
  __device__ void Load(const BlockWork&, int32_t tile) {
    if constexpr (!kAhead) return;
    if (tile < paired_end_ && element_bytes_ != 4) {
      LoadPairs<0, 4>(tile, pairs_);
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
      MaskScores(problem, work, consumer, tile, problem.scale);
      return;
    }
    if (element_bytes_ == 4) {
      ApplyWide(consumer, tile, problem.scale);
      return;
    }
    if constexpr (kAhead) {
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
  __device__ static constexpr int Begin(int quarter) { return kTiles * quarter / 4; }

  int32_t element_bytes_, paired_end_;
  const std::byte* row_[2];  // at the thread's first column
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
      for (int n = Begin(kFirst); n < Begin(kEnd); ++n) pairs[2 * n + half] = ptx::LoadReadOnly(row + n * 4);
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
    const float scale = problem.scale;
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
        body(at[0], at[1], pairs[2 * n + half]);
      }
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
