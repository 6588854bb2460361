// The second level of the output's sums in a Hopper kernel for fp8.
#pragma once

#include "kernels/cuda/hopper/fp8_consumer.cuh"

namespace tessera::kernels::cuda::hopper {

// What a thread's part of the output came to over the chains of kChainTiles tiles that are complete, in fp32;
// output then starts again from nothing. Rarely touched, so not in registers: in shared memory, or where that
// is taken in local memory.
template <Fp8 Config>
class RunningSums {
 public:
  __device__ explicit RunningSums(Shared<Config>& shared) : shared_(&shared.sums[0][threadIdx.x - 128]) {}

  __device__ void Reset() {
    tiles_ = 0;
    scale_ = {1, 1};
  }

  // Whether the next P V is added to the output, or overwrites it.
  __device__ bool Continues() const { return tiles_ % Config::kChainTiles != 0; }

  // P V of another tile has joined the output.
  __device__ __forceinline__ void CountTile(const Consumer<Config>& consumer) {
    ++tiles_;
    if (!Any(!Continues())) return;
    const bool first = Any(tiles_ == Config::kChainTiles);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const float4 sum = first ? float4{} : Read(i);
      Write(i, Joint(consumer.output + 4 * i, sum));
    }
    scale_ = {1, 1};
  }

  // The units change: what is there is to be multiplied by `scale`.
  __device__ __forceinline__ void Scale(float2 scale) {
    scale_.x *= scale.x;
    scale_.y *= scale.y;
  }

  __device__ __forceinline__ void AddTo(Consumer<Config>& consumer) const {
    if (!Any(HasSums())) return;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float* const o = consumer.output + 4 * i;
      const float4 joint = Joint(o, Read(i));
      o[0] = joint.x;
      o[1] = joint.y;
      o[2] = joint.z;
      o[3] = joint.w;
    }
  }

 private:
  static constexpr int kPieces = Config::kDimV / 8;

  float4* shared_;
  volatile float local_[Config::kSumsInShared ? 1 : 4 * kPieces];  // volatile keeps it out of registers
  uint32_t tiles_ = 0;
  float2 scale_ = {1, 1};  // of what is stored, by half

  __device__ bool HasSums() const { return tiles_ >= Config::kChainTiles; }
  // A vote makes a branch uniform to the compiler.
  __device__ static bool Any(bool condition) { return __any_sync(~0u, condition); }

  __device__ float4 Joint(const float* output, float4 sum) const {
    return {fmaf(sum.x, scale_.x, output[0]), fmaf(sum.y, scale_.x, output[1]),
            fmaf(sum.z, scale_.y, output[2]), fmaf(sum.w, scale_.y, output[3])};
  }
  __device__ __forceinline__ float4 Read(int piece) const {
    if constexpr (Config::kSumsInShared) {
      return shared_[piece * Config::kConsumers * 128];
    } else {
      const volatile float* const at = local_ + 4 * piece;
      return {at[0], at[1], at[2], at[3]};
    }
  }
  __device__ __forceinline__ void Write(int piece, float4 sum) {
    if constexpr (Config::kSumsInShared) {
      shared_[piece * Config::kConsumers * 128] = sum;
    } else {
      volatile float* const at = local_ + 4 * piece;
      at[0] = sum.x;
      at[1] = sum.y;
      at[2] = sum.z;
      at[3] = sum.w;
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
