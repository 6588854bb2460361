// Puts the CPU device and its backends into a registry; what the server and the tests call.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "backend/core/registry.h"
#include "kernels/cpu/isa.h"
#include "tessera/backend.h"

namespace tessera {

struct CpuOptions {
  int num_threads = 0;                   // 0: every core that this process may use
  std::optional<kernels::cpu::Isa> isa;  // nullopt: the best usable one
};

// Adds the CPU device, and cpu_fused (auto_priority 100), cpu_unfused (10; unavailable, with its reason, on a
// machine without a BLAS) and cpu_standard (0). The device belongs to the registry. INVALID_ARGUMENT for a
// thread count out of range, FAILED_PRECONDITION for an instruction set that this processor or build lacks.
absl::StatusOr<Device*> RegisterCpuBackends(const CpuOptions& options, BackendRegistry& registry);

// The services for plugins that run on the streams of a CPU device.
const tessera_host& CpuHostServices();

}  // namespace tessera
