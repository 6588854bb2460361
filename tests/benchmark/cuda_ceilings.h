// What the GPU can do at best, measured: the figures that kernels are held against.
#pragma once

#include "absl/status/statusor.h"
#include "backend/core/device.h"

namespace tessera::benchmark {

struct Ceilings {
  double copy_gb_per_s = 0;       // device to device, bytes read plus bytes written
  double matmul_tflop_per_s = 0;  // bf16, 8192 x 8192 x 8192, by cuBLAS on random data; 0: there is no cuBLAS
};

// On a CUDA device. Medians of several rounds, after warming up.
absl::StatusOr<Ceilings> MeasureCeilings(Device& device);

}  // namespace tessera::benchmark
