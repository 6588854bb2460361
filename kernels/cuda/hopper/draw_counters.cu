#include "kernels/cuda/hopper/draw_counters.h"

#include <atomic>

namespace tessera::kernels::cuda::hopper {

namespace {
__device__ uint32_t draw_counters[kDrawCounters];
}  // namespace

cudaError_t TakeDrawCounter(uint32_t** counter) {
  static std::atomic<uint32_t> next{0};
  void* base = nullptr;
  const cudaError_t error = cudaGetSymbolAddress(&base, draw_counters);
  if (error == cudaSuccess) *counter = static_cast<uint32_t*>(base) + next++ % kDrawCounters;
  return error;
}

}  // namespace tessera::kernels::cuda::hopper
