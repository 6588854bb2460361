// What kernels are chosen by.
#pragma once

#include <cstdint>

namespace tessera::kernels::cuda {

struct DeviceTraits {
  int32_t compute_capability = 0;  // 90 for 9.0
  int32_t multiprocessors = 0;
  int64_t shared_memory_per_block = 0;  // the most that a kernel may opt in to
  int64_t shared_memory_per_multiprocessor = 0;
  int64_t l2_bytes = 0;
};

}  // namespace tessera::kernels::cuda
