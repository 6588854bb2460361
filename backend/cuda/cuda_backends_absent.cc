// A build without CUDA.
#include <optional>

#include "backend/core/error.h"
#include "backend/cuda/add_cuda_device.h"

namespace tessera {

absl::StatusOr<Device*> AddCudaDevice(int32_t, BackendRegistry&) {
  return MakeError(
      absl::StatusCode::kUnavailable,
      "this build has no CUDA: build with -DTESSERA_CUDA=ON where nvcc 12.8 or later is installed",
      {.reason = "CUDA_NOT_BUILT",
       .metadata = {{"fix", "build with -DTESSERA_CUDA=ON and nvcc 12.8 or later"}},
       .retry_after = std::nullopt});
}

}  // namespace tessera
