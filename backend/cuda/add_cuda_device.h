// The part of RegisterCudaBackends that needs CUDA: add_cuda_device.cc in a build with it,
// cuda_backends_absent.cc in one without.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "backend/core/registry.h"

namespace tessera {

// Adds GPU `ordinal` (>= 0) and its backends. UNAVAILABLE, saying what to do about it, when it cannot be
// used: reason NO_GPU without driver or GPU, CUDA_NOT_BUILT, GPU_TOO_OLD, or that of the CUDA error when it
// is there and cannot be opened. INVALID_ARGUMENT when there are GPUs, but not so many. The registry is then
// as it was.
absl::StatusOr<Device*> AddCudaDevice(int32_t ordinal, BackendRegistry& registry);

}  // namespace tessera
