// Puts a CUDA device and its backends into a registry; what the server and the tests call. No CUDA header
// shows through, and the same call stands in a build without CUDA.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "backend/core/registry.h"

namespace tessera {

struct CudaOptions {
  int32_t device = 0;  // ordinal; -1: use no GPU
};

// Adds the CUDA device and cuda_fused (auto_priority 200) and cuda_standard (50: behind cpu_fused, since it
// materialises the scores). Where there is no GPU, no driver or no CUDA in this build, adds nothing but the
// names with their reasons (UNAVAILABLE), and returns null; so for cuda_standard alone where cuBLAS cannot be
// opened. INVALID_ARGUMENT for a device that this machine, having GPUs, does not have.
absl::StatusOr<Device*> RegisterCudaBackends(const CudaOptions& options, BackendRegistry& registry);

}  // namespace tessera
