#include "backend/cuda/cuda_error.h"

#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "backend/core/device.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

// Newer than the oldest toolkit that we build with.
constexpr int kErrorContained = 226;
constexpr int kErrorTensorMemoryLeak = 721;

struct ErrorClass {
  absl::StatusCode code;
  const char* reason;
};

// Of an error that is not sticky.
ErrorClass ClassOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return {absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY"};

    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorStubLibrary:
    case cudaErrorInitializationError:
    case cudaErrorStartupFailure:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceNotLicensed:
    case cudaErrorSoftwareValidityNotEstablished:
    case cudaErrorOperatingSystem:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsRpcFailure:
    case cudaErrorMpsServerNotReady:
    case cudaErrorMpsMaxClientsReached:
    case cudaErrorMpsMaxConnectionsReached:
      return {absl::StatusCode::kUnavailable, "CUDA_UNAVAILABLE"};

    case cudaErrorNotSupported:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidPtx:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorJitCompilationDisabled:
      return {absl::StatusCode::kUnimplemented, "CUDA_UNSUPPORTED"};

    default:
      return {absl::StatusCode::kInternal, "CUDA_ERROR"};
  }
}

std::string CauseOf(cudaError_t error, const std::string& call) {
  return absl::StrCat(call, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
}

std::string CudaVersion(int version) {
  return absl::StrCat("CUDA ", version / 1000, ".", version % 1000 / 10);
}

std::string HiddenBy() {
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible == nullptr ? "" : absl::StrCat(" (CUDA_VISIBLE_DEVICES is \"", visible, "\")");
}

// "<what is wrong>: <what to do>".
std::string Diagnosis(cudaError_t error, int driver_version) {
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorCallRequiresNewerDriver:
      if (driver_version == 0) {
        return "no NVIDIA driver is found: install one, or start the container with GPUs (docker run --gpus "
               "all)";
      }
      // Minor versions of one major version are compatible.
      return absl::StrCat("the NVIDIA driver is too old, it is for ", CudaVersion(driver_version),
                          ": install one for ", CudaVersion(CUDART_VERSION / 1000 * 1000), " or later");
    case cudaErrorNoDevice:
      return absl::StrCat(
          "no GPU is visible to this process", HiddenBy(),
          ": see what nvidia-smi lists, and start a container with GPUs (docker run --gpus all)");
    case cudaErrorSystemDriverMismatch:
      return "the NVIDIA driver's library and kernel module are of different versions: reboot, or reload the "
             "module";
    case cudaErrorSystemNotReady:
      return "the GPUs are not ready: start nvidia-fabricmanager";
    default:
      return absl::StrCat("CUDA does not start (", cudaGetErrorName(error), ": ", cudaGetErrorString(error),
                          "): see what nvidia-smi says");
  }
}

bool IsWithoutGpu(cudaError_t error, int driver_version) {
  if (error == cudaErrorNoDevice || error == cudaErrorStubLibrary) return true;
  return error == cudaErrorInsufficientDriver && driver_version == 0;
}

}  // namespace

bool IsSticky(cudaError_t error) {
  switch (static_cast<int>(error)) {
    // Faults of a kernel.
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case kErrorTensorMemoryLeak:
    // Faults of the hardware.
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case kErrorContained:
    case cudaErrorExternalDevice:
    // The context went away under us: somebody reset the device, or its MPS server ended.
    case cudaErrorContextIsDestroyed:
    case cudaErrorDeviceUninitialized:
    case cudaErrorMpsClientTerminated:
    // What a GPU that fell off the bus gives. Starting anew is safer than serving errors for ever.
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

bool MeansLost(cudaError_t error) {
  return IsSticky(error) || ClassOf(error).code == absl::StatusCode::kUnavailable;
}

absl::Status LostStatus(cudaError_t error, const std::string& device, const std::string& call) {
  return DeviceLostError(device, CauseOf(error, call));
}

absl::Status ToStatus(cudaError_t error, const std::string& device, const std::string& call) {
  if (error == cudaSuccess) return absl::OkStatus();
  if (IsSticky(error)) return LostStatus(error, device, call);
  const char* const name = cudaGetErrorName(error);
  const ErrorClass error_class = ClassOf(error);
  return MakeError(error_class.code, absl::StrCat(device, ": ", CauseOf(error, call)),
                   {.reason = error_class.reason,
                    .metadata = {{"device", device},
                                 {"call", call},
                                 {"cuda_error", name},
                                 {"expected", "cudaSuccess"},
                                 {"actual", name}},
                    .retry_after = std::nullopt});
}

absl::Status WhyNoGpu(cudaError_t error, int driver_version) {
  const bool without_gpu = IsWithoutGpu(error, driver_version);
  return MakeError(absl::StatusCode::kUnavailable,
                   absl::StrCat(Diagnosis(error, driver_version),
                                without_gpu ? "" : "; --cuda-device=none does without GPUs"),
                   {.reason = without_gpu ? "NO_GPU" : "CUDA_UNAVAILABLE",
                    .metadata = {{"cuda_error", cudaGetErrorName(error)},
                                 {"driver_version", absl::StrCat(driver_version)}},
                    .retry_after = std::nullopt});
}

}  // namespace tessera
