#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/benchmark/cuda_fill.h"

namespace tessera::benchmark {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4096;

// SplitMix64 (Steele, Lea, Flood 2014): a bijection whose outputs for successive states pass as random.
__device__ uint64_t Mix(uint64_t state) {
  state *= 0x9e3779b97f4a7c15u;
  state = (state ^ state >> 30) * 0xbf58476d1ce4e5b9u;
  state = (state ^ state >> 27) * 0x94d049bb133111ebu;
  return state ^ state >> 31;
}

// Box and Muller's transform: two uniform numbers to a normal one.
__device__ float Normal(uint64_t bits) {
  const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
  const float angle = static_cast<float>(bits & 0xffffffu) * 0x1p-23f;  // in half turns
  return sqrtf(-2.0f * logf(u)) * cospif(angle);
}

template <typename Element>
__global__ void FillNormalKernel(Element* data, int64_t count, uint64_t seed) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    data[i] = Element(Normal(Mix(seed + static_cast<uint64_t>(i))));
  }
}

}  // namespace

cudaError_t FillNormal(void* data, tessera_dtype dtype, int64_t count, uint64_t seed, cudaStream_t stream) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      FillNormalKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<float*>(data), count, seed);
      break;
    case TESSERA_DTYPE_FP16:
      FillNormalKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<__half*>(data), count, seed);
      break;
    case TESSERA_DTYPE_BF16:
      FillNormalKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(data), count, seed);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace tessera::benchmark
