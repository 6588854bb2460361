#include "backend/cuda/cuda_backends.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/cuda/add_cuda_device.h"

namespace tessera {
namespace {

absl::Status SwitchedOff() {
  return MakeError(absl::StatusCode::kUnavailable, "the use of GPUs is switched off (--cuda-device=none)",
                   {.reason = "CUDA_SWITCHED_OFF",
                    .metadata = {{"fix", "--cuda-device=auto"}},
                    .retry_after = std::nullopt});
}

// Whether `error` says that this machine and build have no GPU to use, rather than one that fails.
bool IsWithoutGpu(const absl::Status& error) {
  const std::optional<ErrorDetail> detail = GetErrorDetail(error);
  if (!detail.has_value()) return false;
  return detail->reason == "NO_GPU" || detail->reason == "CUDA_NOT_BUILT" || detail->reason == "GPU_TOO_OLD";
}

Device* AddNamesOnly(const absl::Status& reason, BackendRegistry& registry) {
  for (const char* name : {"cuda_fused", "cuda_standard"}) registry.AddUnavailable({name, reason});
  return nullptr;
}

}  // namespace

absl::StatusOr<Device*> RegisterCudaBackends(const CudaOptions& options, BackendRegistry& registry) {
  if (options.device == CudaOptions::kNone) return AddNamesOnly(SwitchedOff(), registry);
  if (options.device == CudaOptions::kAuto) {
    const absl::StatusOr<Device*> device = AddCudaDevice(0, registry);
    return IsWithoutGpu(device.status()) ? AddNamesOnly(device.status(), registry) : device;
  }
  if (options.device >= 0) return AddCudaDevice(options.device, registry);
  return InvalidArgument("CUDA_DEVICE_INVALID", "CUDA device", "0 or more, -1 for auto or -2 for none",
                         absl::StrCat(options.device));
}

}  // namespace tessera
