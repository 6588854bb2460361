#include "backend/cuda/cuda_error.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
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

ErrorClass ClassOf(cudaError_t error) {
  if (IsSticky(error)) return {absl::StatusCode::kUnavailable, "DEVICE_LOST"};
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

absl::Status ToStatus(cudaError_t error, const std::string& device, const std::string& call) {
  if (error == cudaSuccess) return absl::OkStatus();
  const ErrorClass error_class = ClassOf(error);
  const char* const name = cudaGetErrorName(error);
  return MakeError(error_class.code,
                   absl::StrCat(device, ": ", call, ": ", name, ": ", cudaGetErrorString(error)),
                   {.reason = error_class.reason,
                    .metadata = {{"device", device},
                                 {"call", call},
                                 {"cuda_error", name},
                                 {"expected", "cudaSuccess"},
                                 {"actual", name}},
                    .retry_after = std::nullopt});
}

}  // namespace tessera
