// Puts a CUDA device and its backends into a registry; what the server and the tests call. No CUDA header
// shows through, and the same call stands in a build without CUDA.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "backend/core/registry.h"

namespace tessera {

struct CudaOptions {
  // The first GPU where there is one that can run the kernels; else none.
  static constexpr int32_t kAuto = -1;
  static constexpr int32_t kNone = -2;

  int32_t device = kAuto;  // or an ordinal: that GPU and no other
};

// Adds the CUDA device and cuda_fused (auto_priority 200) and cuda_standard (50: behind cpu_fused, since it
// materialises the scores); a backend that cannot run on that GPU (cuda_fused without code for it,
// cuda_standard without cuBLAS) is added as unavailable, with the reason. Adds nothing but the names with the
// reason, and returns null, for kNone; and for kAuto where this build has no CUDA, there is no driver, no GPU
// is visible, or the first one is older than the kernels. An error for every other GPU that cannot be used:
// with kAuto one that is there and cannot be opened, so that no process computes on the CPU because its GPU
// has failed; with an ordinal whatever the cause. It is INVALID_ARGUMENT for a device that this machine,
// having GPUs, does not have, else mostly UNAVAILABLE.
absl::StatusOr<Device*> RegisterCudaBackends(const CudaOptions& options, BackendRegistry& registry);

}  // namespace tessera
