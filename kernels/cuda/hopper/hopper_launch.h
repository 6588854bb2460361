// Launches the Hopper kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device_traits.h"
#include "kernels/cuda/fused_kernel.h"
#include "kernels/cuda/row_tiling.h"
#include "tessera/attention.h"

namespace tessera::kernels::cuda::hopper {

// Bytes of keys and values that a launch walks at once (MakeDeviceProblem).
int64_t WalkedBytes(const tessera_attention_problem& problem, const DeviceTraits& traits);

// Queues `kernel`, of KernelFamily::kHopper, on `stream` of the current device. `workspace`:
// TableBytes(problem) bytes of device memory, 16-byte aligned.
cudaError_t Launch(const FusedKernel& kernel, const tessera_attention_problem& problem,
                   const RowTiling& tiling, const DeviceTraits& traits, void* workspace, cudaStream_t stream);

}  // namespace tessera::kernels::cuda::hopper
