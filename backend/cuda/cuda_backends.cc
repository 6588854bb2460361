#include "backend/cuda/cuda_backends.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/cuda/add_cuda_device.h"

namespace tessera {
namespace {

constexpr int32_t kNoDevice = -1;

absl::StatusOr<Device*> TryRegister(int32_t ordinal, BackendRegistry& registry) {
  if (ordinal != kNoDevice) return AddCudaDevice(ordinal, registry);
  return MakeError(
      absl::StatusCode::kUnavailable, "the use of GPUs is switched off (--cuda-device=none)",
      {.reason = "CUDA_SWITCHED_OFF", .metadata = {{"fix", "--cuda-device=0"}}, .retry_after = std::nullopt});
}

}  // namespace

absl::StatusOr<Device*> RegisterCudaBackends(const CudaOptions& options, BackendRegistry& registry) {
  if (options.device < kNoDevice) {
    return InvalidArgument("CUDA_DEVICE_INVALID", "CUDA device", "0 or more, or -1 for none",
                           absl::StrCat(options.device));
  }
  absl::StatusOr<Device*> device = TryRegister(options.device, registry);
  if (!absl::IsUnavailable(device.status())) return device;
  for (const char* name : {"cuda_fused", "cuda_standard"}) registry.AddUnavailable({name, device.status()});
  return nullptr;
}

}  // namespace tessera
