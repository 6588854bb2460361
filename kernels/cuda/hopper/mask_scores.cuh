// Reads dense masks for the scores of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

// A masked logit: a hidden score is replaced, for it may be NaN.
__device__ inline float MaskedLogit(float score, float scale, float value) {
  return value == NegativeInfinity() ? value : fmaf(score, scale, value);
}

// Of mask elements that are as wide as Bits.
__device__ inline float MaskValueOf(tessera_dtype, float bits) { return bits; }
__device__ inline float MaskValueOf(tessera_dtype dtype, uint16_t bits) {
  return dtype == TESSERA_DTYPE_FP16 ? __half2float(__ushort_as_half(bits))
                                     : __uint_as_float(uint32_t{bits} << 16);
}
__device__ inline float MaskValueOf(tessera_dtype, uint8_t bits) {
  return bits != 0 ? 0.0f : NegativeInfinity();
}

template <typename Bits, class Config>
__device__ inline void MaskScoresOf(const DeviceProblem& problem, const BlockWork& work,
                                    Consumer<Config>& consumer, int half, int32_t tile, float scale) {
  const RowFeatures f = FeaturesOf(problem, work, work.first_row + consumer.Row(half));
  const auto* const row = static_cast<const Bits*>(f.mask);
  // Keys past the end, whose scores the window hides, have no element.
  const int32_t first_key = tile * Config::kTileKv, last_key = work.sequence.kv_len - 1;
#pragma unroll
  for (int n = 0; n < Config::kTileKv / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int32_t key = max(min(first_key + consumer.Column(n, e), last_key), 0);
      float& score = consumer.scores[4 * n + 2 * half + e];
      score = MaskedLogit(score, scale, MaskValueOf(problem.mask_dtype, __ldg(row + key * f.mask_kv_stride)));
    }
  }
}

// scores * scale + mask of one of the thread's rows, whatever the mask's dtype and strides.
template <class Config>
__device__ inline void MaskScores(const DeviceProblem& problem, const BlockWork& work,
                                  Consumer<Config>& consumer, int half, int32_t tile, float scale) {
  if (work.sequence.kv_len == 0) return;
  switch (problem.mask_dtype) {
    case TESSERA_DTYPE_FP32:
      return MaskScoresOf<float>(problem, work, consumer, half, tile, scale);
    case TESSERA_DTYPE_BOOL:
      return MaskScoresOf<uint8_t>(problem, work, consumer, half, tile, scale);
    default:
      return MaskScoresOf<uint16_t>(problem, work, consumer, half, tile, scale);
  }
}

// Masks of one or two bytes whose elements can be read in pairs, two neighbouring columns at a time; others
// go to MaskScores.
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
    const bool paired = element_bytes_ != 4 && s.mask_kv_stride == 1 && aligned % (2 * element_bytes_) == 0;
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
    if (kAhead && tile < paired_end_) LoadPairs<0, kTiles>(tile);
  }

  // scores * scale + mask.
  __device__ void Apply(const DeviceProblem& problem, const BlockWork& work, Consumer<Config>& consumer,
                        int32_t tile) {
    if (tile >= paired_end_) {
#pragma unroll
      for (int half = 0; half < 2; ++half) MaskScores(problem, work, consumer, half, tile, problem.scale);
      return;
    }
    if constexpr (kAhead) {
      ApplyPairs<0, kTiles>(problem, consumer);
    } else {
      constexpr int kBatch = kTiles / 4;
      LoadPairs<0, kBatch>(tile);
      ApplyPairs<0, kBatch>(problem, consumer);
      LoadPairs<kBatch, 2 * kBatch>(tile);
      ApplyPairs<kBatch, 2 * kBatch>(problem, consumer);
      LoadPairs<2 * kBatch, 3 * kBatch>(tile);
      ApplyPairs<2 * kBatch, 3 * kBatch>(problem, consumer);
      LoadPairs<3 * kBatch, kTiles>(tile);
      ApplyPairs<3 * kBatch, kTiles>(problem, consumer);
    }
  }

 private:
  static constexpr int kTiles = Config::kTileKv / 8;
  // Scores, weights, output, pairs, and what else a consumer keeps.
  static constexpr bool kAhead =
      Config::kTileKv / 2 + Config::kTileKv / 4 + Config::kDimV / 2 + Config::kTileKv / 4 + 36 <=
      Config::kConsumerRegisters;

  int32_t element_bytes_, paired_end_;
  const std::byte* row_[2];  // at the thread's first column
  uint32_t pairs_[kTiles * 2];

  // Of n8 tiles kFirst..kEnd.
  template <int kFirst, int kEnd>
  __device__ void LoadPairs(int32_t tile) {
    const int64_t offset = int64_t{tile} * Config::kTileKv * element_bytes_;
    if (element_bytes_ == 2) {
      LoadPairsOf<uint32_t, kFirst, kEnd>(offset);
    } else {
      LoadPairsOf<uint16_t, kFirst, kEnd>(offset);
    }
  }
  template <typename Pair, int kFirst, int kEnd>
  __device__ void LoadPairsOf(int64_t offset) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto* const row = reinterpret_cast<const Pair*>(row_[half] + offset);
#pragma unroll
      for (int n = kFirst; n < kEnd; ++n) pairs_[2 * n + half] = ptx::LoadReadOnly(row + n * 4);
    }
  }

  template <int kFirst, int kEnd>
  __device__ void ApplyPairs(const DeviceProblem& problem, Consumer<Config>& consumer) const {
    const float scale = problem.scale;
    switch (problem.mask_dtype) {
      case TESSERA_DTYPE_BF16:
        return ForEachPair<kFirst, kEnd>(consumer, [&](float& low, float& high, uint32_t pair) {
          low = MaskedLogit(low, scale, __uint_as_float(pair << 16));
          high = MaskedLogit(high, scale, __uint_as_float(pair & 0xffff0000u));
        });
      case TESSERA_DTYPE_FP16:
        return ForEachPair<kFirst, kEnd>(consumer, [&](float& low, float& high, uint32_t pair) {
          low = MaskedLogit(low, scale, __half2float(__ushort_as_half(static_cast<uint16_t>(pair))));
          high = MaskedLogit(high, scale, __half2float(__ushort_as_half(static_cast<uint16_t>(pair >> 16))));
        });
      default:
        return ForEachPair<kFirst, kEnd>(consumer, [&](float& low, float& high, uint32_t pair) {
          low = (pair & 0xffu) != 0 ? low * scale : NegativeInfinity();
          high = (pair & 0xff00u) != 0 ? high * scale : NegativeInfinity();
        });
    }
  }
  template <int kFirst, int kEnd, class Body>
  __device__ void ForEachPair(Consumer<Config>& consumer, Body body) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = kFirst; n < kEnd; ++n) {
        float* const at = consumer.scores + 4 * n + 2 * half;
        body(at[0], at[1], pairs_[2 * n + half]);
      }
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
