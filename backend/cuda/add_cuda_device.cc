#include "backend/cuda/add_cuda_device.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/cuda/cuda_device.h"
#include "backend/cuda/cuda_error.h"
#include "backend/cuda/fused_backend.h"
#include "backend/cuda/standard_backend.h"

namespace tessera {
namespace {

constexpr int32_t kOldestCapability = 80;  // what the kernels are compiled for: see TesseraCuda.cmake

std::string Dotted(int32_t capability) { return absl::StrCat(capability / 10, ".", capability % 10); }

absl::StatusOr<int> CountGpus() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  int driver_version = 0;  // stays 0 without a driver
  cudaDriverGetVersion(&driver_version);
  cudaGetLastError();
  return WhyNoGpu(error == cudaSuccess ? cudaErrorNoDevice : error, driver_version);
}

absl::Status TooOld(const std::string& id, const cudaDeviceProp& properties) {
  const std::string needed = absl::StrCat("compute capability ", Dotted(kOldestCapability), " or later");
  const std::string actual = Dotted(properties.major * 10 + properties.minor);
  return MakeError(absl::StatusCode::kUnavailable,
                   absl::StrCat(id, ": ", properties.name, " has compute capability ", actual, ": expected ",
                                needed, "; choose another GPU with --cuda-device"),
                   {.reason = "GPU_TOO_OLD",
                    .metadata = {{"device", id}, {"expected", needed}, {"actual", actual}},
                    .retry_after = std::nullopt});
}

// A GPU that is there and cannot be opened is unavailable, whatever the error.
absl::Status NotOpened(const absl::Status& error) {
  return MakeError(
      absl::StatusCode::kUnavailable,
      absl::StrCat(
          std::string(error.message()),
          ": the GPU cannot be opened; nvidia-smi says whether it has failed, or another process holds it or "
          "its memory; --cuda-device=none does without it"),
      GetErrorDetail(error).value_or(ErrorDetail{}));
}

absl::StatusOr<std::unique_ptr<CudaDevice>> Open(int32_t ordinal) {
  TESSERA_ASSIGN_OR_RETURN(const int count, CountGpus());
  if (ordinal >= count) {
    return InvalidArgument("CUDA_DEVICE_INVALID", "CUDA device",
                           count == 1 ? "0, the only GPU here" : absl::StrCat("0..", count - 1),
                           absl::StrCat(ordinal));
  }
  const std::string id = absl::StrCat("cuda:", ordinal);
  cudaDeviceProp properties;
  const absl::Status found =
      ToStatus(cudaGetDeviceProperties(&properties, ordinal), id, "cudaGetDeviceProperties");
  if (!found.ok()) return NotOpened(found);
  if (properties.major * 10 + properties.minor < kOldestCapability) return TooOld(id, properties);
  absl::StatusOr<std::unique_ptr<CudaDevice>> device = CudaDevice::Create(ordinal);
  if (!device.ok()) return NotOpened(device.status());
  if (const absl::Status info = (*device)->Info().status(); !info.ok()) return NotOpened(info);
  return device;
}

// An error when this build has no code for the GPU, or the driver refuses it: better now than in each
// request.
absl::Status CheckFused(const CudaDevice& device) {
  TESSERA_RETURN_IF_ERROR(device.MakeCurrent());
  return device.Check(kernels::cuda::CheckFusedKernels(), "cudaFuncGetAttributes of the fused kernels");
}

}  // namespace

absl::StatusOr<Device*> AddCudaDevice(int32_t ordinal, BackendRegistry& registry) {
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<CudaDevice> owned, Open(ordinal));
  CudaDevice& device = *owned;
  const absl::Status fused = CheckFused(device);
  if (!device.Health().ok()) return NotOpened(device.Health());
  registry.AddDevice(std::move(owned));
  if (fused.ok()) {
    TESSERA_RETURN_IF_ERROR(registry.Add(std::make_unique<CudaFusedBackend>(device)));
  } else {
    registry.AddUnavailable({"cuda_fused", fused});
  }
  absl::StatusOr<std::unique_ptr<CudaStandardBackend>> standard = CudaStandardBackend::Create(device);
  if (standard.ok()) {
    TESSERA_RETURN_IF_ERROR(registry.Add(*std::move(standard)));
  } else {
    registry.AddUnavailable({"cuda_standard", standard.status()});
  }
  return &device;
}

}  // namespace tessera
