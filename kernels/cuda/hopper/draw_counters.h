// The counters that persistent kernels draw their row tiles from.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace tessera::kernels::cuda::hopper {

// Launches of a device that may be under way at the same time. More would share counters and skip row tiles.
inline constexpr uint32_t kDrawCounters = 4096;

// A counter in memory of the current device: 0, and left at 0 by the launch that it is for. Counters take
// turns, so no other launch among the next kDrawCounters - 1 has it. Thread-safe.
cudaError_t TakeDrawCounter(uint32_t** counter);

}  // namespace tessera::kernels::cuda::hopper
