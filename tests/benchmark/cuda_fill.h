// Random tensors, drawn on the GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "tessera/attention.h"

namespace tessera::benchmark {

// Writes `count` unit-normal numbers, rounded to fp32, fp16 or bf16, to device memory. The same seed gives
// the same numbers.
cudaError_t FillNormal(void* data, tessera_dtype dtype, int64_t count, uint64_t seed, cudaStream_t stream);

}  // namespace tessera::benchmark
