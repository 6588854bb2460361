// Reads dense masks for the scores of a consumer warpgroup.
#pragma once

#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

// A bit for each of the keys first_key, first_key + 1, and these 8, 16, ... further, that the mask hides;
// `count` at most 32. Not inlined: the rare tile that comes here is not worth the room beside the main loop.
__device__ __noinline__ inline uint32_t HiddenKeys(const DeviceProblem& problem, const BlockWork& work,
                                                   int32_t row, int32_t first_key, int count) {
  const RowFeatures f = FeaturesOf(problem, work, row);
  uint32_t hidden = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int32_t key = first_key + i / 2 * 8 + i % 2;
    if (key < work.sequence.kv_len && IsMasked(problem, f, key)) hidden |= 1u << i;
  }
  return hidden;
}

// scores + mask, whatever the mask's dtype and strides. The elements go through local memory: read
// straight to the scores they would take far more code than the rare tile that comes here is worth.
template <class Config>
__device__ inline void MaskScores(const DeviceProblem& problem, const BlockWork& work,
                                  Consumer<Config>& consumer, int32_t tile) {
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
      // A hidden score is replaced, for it may be NaN.
      score = values[i] == NegativeInfinity() ? values[i] : score + values[i];
    }
  }
}

// A dense mask whose elements are neighbours in rows that start on 4 bytes (MaskAlignment), or, slowly, on
// any. Every consumer warp copies the elements of its own 16 rows, a tile of keys at a time and a tile ahead,
// to a strip of shared memory that no other warp touches. Those of 16 bits come from there as ldmatrix gives
// them: just as the scores lie. Masks of 32 bits are read straight from device memory.
template <class Config>
class MaskStrip {
  static constexpr int kKeys = Config::kTileKv;
  // Of a row of the strip: an odd number of pieces of 16 bytes, so that eight rows at one piece are in eight
  // different groups of banks.
  static constexpr int kPitch = (kKeys / 8 | 1) * 16;

 public:
  // The strips of all consumer warps: (16, kTileKv) elements of up to 16 bits each.
  struct Storage {
    alignas(16) std::byte strips[Config::kConsumers * 4][16 * kPitch];
  };

  __device__ explicit MaskStrip(Storage& storage)
      : strip_(ptx::SharedAddress(storage.strips[threadIdx.x / 32 - 4])) {}

  __device__ void Enter(const DeviceProblem& problem, const BlockWork& work,
                        const Consumer<Config>& consumer) {
    scale_ = __shfl_sync(~0u, problem.scale, 0);  // as it is, it would be read anew for every score
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = work.first_row + consumer.Row(half) - consumer.lane / 4 + consumer.lane % 8;
      row_[half] =
          static_cast<const std::byte*>(FeaturesOf(problem, work, row).mask) + consumer.lane / 8 * 16;
    }
  }

  // Starts to copy the elements of a row tile's last tile of keys.
  __device__ void Load(const DeviceProblem& problem, const BlockWork& work, int32_t tile) {
    const int element_bytes = ElementBytes(problem);
#pragma unroll
    for (int half = 0; half < 2; ++half) row_[half] += int64_t{tile} * (kKeys * element_bytes);
    if (element_bytes == 4) return;
    __syncwarp();
    // Keys past the end, which the window hides, have no elements.
    CopyCarefully(element_bytes, (work.sequence.kv_len - tile * kKeys) * element_bytes,
                  problem.mask_alignment);
    ptx::CpAsyncCommit();
  }

  // Likewise, of the tile before the one that has been applied.
  __device__ void LoadNext(const DeviceProblem& problem) {
    const int element_bytes = ElementBytes(problem);
#pragma unroll
    for (int half = 0; half < 2; ++half) row_[half] -= kKeys * element_bytes;
    if (element_bytes == 4) {
      // The four lanes that share a row: 128 bytes each.
#pragma unroll
      for (int half = 0; half < 2; ++half) ptx::PrefetchL2(row_[half] + threadIdx.x % 32 / 8 * (128 - 16));
      return;
    }
    __syncwarp();
    if (problem.mask_alignment < 16) {
      CopyCarefully(element_bytes, INT32_MAX, problem.mask_alignment);
    } else if (element_bytes == 1) {
      CopyWhole<1>();
    } else {
      CopyWhole<2>();
    }
    ptx::CpAsyncCommit();
  }

  // scores * scale + mask. What is hidden may come out as NaN, where its score is not finite: HideNan.
  __device__ void Apply(const DeviceProblem& problem, const BlockWork& work, Consumer<Config>& consumer,
                        int32_t tile) const {
    ptx::CpAsyncWait<0>();
    __syncwarp();
    switch (problem.mask_dtype) {
      case TESSERA_DTYPE_BF16:
        return ApplyPairs(consumer, [](uint32_t pair) {
          return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
        });
      case TESSERA_DTYPE_FP16:
        return ApplyPairs(
            consumer, [](uint32_t pair) { return __half22float2(reinterpret_cast<const __half2&>(pair)); });
      case TESSERA_DTYPE_BOOL:
        return ApplyBytes(consumer);
      default:
        return problem.mask_alignment >= 8 && IsWhole(work, tile)
                   ? ApplyWide<true>(consumer, tile, 0)
                   : ApplyWide<false>(consumer, tile, work.sequence.kv_len);
    }
  }

 private:
  uint32_t strip_;  // shared address of the warp's own
  float scale_;
  const std::byte* row_[2];  // at the tile: piece lane / 8 of rows lane % 8 and 8 further

  // The vote makes branches uniform to the compiler.
  __device__ static bool IsWhole(const BlockWork& work, int32_t tile) {
    return __any_sync(~0u, (tile + 1) * kKeys <= work.sequence.kv_len);
  }

  __device__ static int ElementBytes(const DeviceProblem& problem) {
    return problem.mask_dtype == TESSERA_DTYPE_FP32 ? 4 : problem.mask_dtype == TESSERA_DTYPE_BOOL ? 1 : 2;
  }

  // Eight lanes bring a piece each of the same columns, for the same reason as kPitch.
  template <int kElementBytes>
  __device__ void CopyWhole() const {
    constexpr int kRowBytes = kKeys * kElementBytes;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t to = strip_ + lane % 8 * kPitch + lane / 8 * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int byte = 0; byte < kRowBytes; byte += 64) {
        if (byte + 64 <= kRowBytes || lane / 8 * 16 < kRowBytes - byte) {
          ptx::CpAsync16(to + half * 8 * kPitch + byte, row_[half] + byte, 16);
        }
      }
    }
  }
  // Of rows that have `end` bytes left, or do not start on 16 bytes.
  __device__ void CopyCarefully(int element_bytes, int32_t end, int alignment) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first = lane / 8 * 16;
#pragma unroll 1
    for (int byte = first; byte < kKeys * element_bytes; byte += 64) {
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        const uint32_t to = strip_ + (lane % 8 + half * 8) * kPitch + byte;
        const std::byte* const from = (half == 0 ? row_[0] : row_[1]) + (byte - first);
        const int32_t left = min(max(end - byte, 0), 16);
        if (alignment == 16) {
          ptx::CpAsync16(to, from, left);
        } else if (alignment >= 4) {
#pragma unroll
          for (int i = 0; i < 16; i += 4) ptx::CpAsync4(to + i, from + i, min(max(left - i, 0), 4));
        } else {
          auto* const bytes = static_cast<std::byte*>(__cvta_shared_to_generic(to));
#pragma unroll 1
          for (int i = 0; i < left; ++i) bytes[i] = from[i];
        }
      }
    }
  }

  template <class Unpack>
  __device__ void ApplyPairs(Consumer<Config>& consumer, Unpack unpack) const {
    const uint32_t address = strip_ + consumer.lane % 16 * kPitch + consumer.lane / 16 * 16;
    // Of 16 columns: of rows and of those 8 further; of the next eight columns. Two loads are under way.
    uint32_t pairs[2][4];
    ptx::LoadMatrices(address, pairs[0]);
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      if (n + 2 < kKeys / 8) ptx::LoadMatrices(address + (n + 2) * 16, pairs[n / 2 % 2 ^ 1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* const at = consumer.scores + 4 * n + 2 * i;
        const float2 values = unpack(pairs[n / 2 % 2][i]);
        at[0] = fmaf(at[0], scale_, values.x);
        at[1] = fmaf(at[1], scale_, values.y);
      }
    }
  }

  __device__ void ApplyBytes(Consumer<Config>& consumer) const {
    // Of eight bytes the thread's own two.
    const uint32_t own = 0x10 + consumer.lane % 4 * 0x22;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t address = strip_ + (consumer.lane / 4 + half * 8) * kPitch;
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t bytes[4];
        ptx::LoadShared(address + n * 8, bytes);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t pair = __byte_perm(bytes[2 * i], bytes[2 * i + 1], own);
          float* const at = consumer.scores + 4 * (n + i) + 2 * half;
          at[0] = (pair & 0xffu) != 0 ? at[0] * scale_ : NegativeInfinity();
          at[1] = (pair & 0xff00u) != 0 ? at[1] * scale_ : NegativeInfinity();
        }
      }
    }
  }

  // Of four bytes to an element.
  template <bool kWhole>
  __device__ void ApplyWide(Consumer<Config>& consumer, int32_t tile, int32_t kv_len) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Lane lane / 4 has the row's first piece.
      const auto first = __shfl_sync(~0u, reinterpret_cast<uintptr_t>(row_[half]), consumer.lane / 4);
      const int32_t key = tile * kKeys + consumer.Column(0, 0);
      const float* const row = reinterpret_cast<const float*>(first) + consumer.Column(0, 0);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        float2 values;
        if constexpr (kWhole) {
          values = __ldg(reinterpret_cast<const float2*>(row + n * 8));
        } else {
          values.x = key + n * 8 < kv_len ? __ldg(row + n * 8) : 0;
          values.y = key + n * 8 + 1 < kv_len ? __ldg(row + n * 8 + 1) : 0;
        }
        float* const at = consumer.scores + 4 * n + 2 * half;
        at[0] = fmaf(at[0], scale_, values.x);
        at[1] = fmaf(at[1], scale_, values.y);
      }
    }
  }
};

// Makes weights 0 that are NaN although the mask hides their keys: a score that is not finite, less infinity.
template <class Config>
__device__ inline void HideNan(const DeviceProblem& problem, const BlockWork& work,
                               Consumer<Config>& consumer, int32_t tile) {
  constexpr int kCount = Config::kTileKv / 4;
  static_assert(kCount <= 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t hidden = HiddenKeys(problem, work, work.first_row + consumer.Row(half),
                                       tile * Config::kTileKv + consumer.Column(0, 0), kCount);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float& weight = consumer.scores[i / 2 * 4 + 2 * half + i % 2];
      if (isnan(weight) && (hidden >> i & 1) != 0) weight = 0;
    }
  }
}

}  // namespace tessera::kernels::cuda::hopper
