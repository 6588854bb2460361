#include "backend/cuda/cuda_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "backend/cuda/cuda_device.h"
#include "tests/backend/status_expectations.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using testing::ErrorMetadata;
using testing::ExpectError;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(CudaErrorTest, SuccessIsOk) {
  EXPECT_TRUE(ToStatus(cudaSuccess, "cuda:0", "cudaMalloc").ok());
  EXPECT_FALSE(IsSticky(cudaSuccess));
}

struct ErrorCase {
  cudaError_t error;
  absl::StatusCode code;
  const char* reason;
};

class CudaErrorClassTest : public ::testing::TestWithParam<ErrorCase> {};

TEST_P(CudaErrorClassTest, HasItsCodeAndReason) {
  const auto [error, code, reason] = GetParam();
  const absl::Status status = ToStatus(error, "cuda:1", "cudaEventQuery");
  ExpectError(status, code, reason);
  EXPECT_EQ(ErrorMetadata(status, "device"), "cuda:1");
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(StartsWith("cuda:1: "), HasSubstr(std::string("cudaEventQuery: ") + cudaGetErrorName(error) +
                                              ": " + cudaGetErrorString(error))));
  EXPECT_EQ(IsSticky(error), std::string(reason) == "DEVICE_LOST");
  if (IsSticky(error)) return;
  EXPECT_EQ(ErrorMetadata(status, "cuda_error"), cudaGetErrorName(error));
  EXPECT_EQ(ErrorMetadata(status, "call"), "cudaEventQuery");
}

constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kInternal = absl::StatusCode::kInternal;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    All, CudaErrorClassTest,
    ::testing::Values(ErrorCase{cudaErrorIllegalAddress, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorLaunchFailure, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorLaunchTimeout, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorAssert, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorHardwareStackError, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorIllegalInstruction, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorMisalignedAddress, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorInvalidAddressSpace, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorInvalidPc, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorECCUncorrectable, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorNvlinkUncorrectable, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorExternalDevice, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorContextIsDestroyed, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorMpsClientTerminated, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorUnknown, kUnavailable, "DEVICE_LOST"},
                      ErrorCase{cudaErrorMemoryAllocation, absl::StatusCode::kResourceExhausted,
                                "OUT_OF_MEMORY"},
                      ErrorCase{cudaErrorNoDevice, kUnavailable, "CUDA_UNAVAILABLE"},
                      ErrorCase{cudaErrorInsufficientDriver, kUnavailable, "CUDA_UNAVAILABLE"},
                      ErrorCase{cudaErrorDevicesUnavailable, kUnavailable, "CUDA_UNAVAILABLE"},
                      ErrorCase{cudaErrorSystemNotReady, kUnavailable, "CUDA_UNAVAILABLE"},
                      ErrorCase{cudaErrorNotSupported, kUnimplemented, "CUDA_UNSUPPORTED"},
                      ErrorCase{cudaErrorNoKernelImageForDevice, kUnimplemented, "CUDA_UNSUPPORTED"},
                      ErrorCase{cudaErrorUnsupportedPtxVersion, kUnimplemented, "CUDA_UNSUPPORTED"},
                      ErrorCase{cudaErrorInvalidValue, kInternal, "CUDA_ERROR"},
                      ErrorCase{cudaErrorInvalidConfiguration, kInternal, "CUDA_ERROR"},
                      ErrorCase{cudaErrorInvalidResourceHandle, kInternal, "CUDA_ERROR"},
                      ErrorCase{cudaErrorLaunchOutOfResources, kInternal, "CUDA_ERROR"},
                      ErrorCase{static_cast<cudaError_t>(54321), kInternal, "CUDA_ERROR"}),
    [](const auto& info) {
      const std::string name = cudaGetErrorName(info.param.error);
      return name.find(' ') == std::string::npos ? name : std::string("unknown");
    });

TEST(CudaErrorTest, AnOpenGpuIsLostWithItsDriverOrService) {
  for (const cudaError_t lost :
       {cudaErrorIllegalAddress, cudaErrorNoDevice, cudaErrorDevicesUnavailable, cudaErrorSystemNotReady,
        cudaErrorMpsRpcFailure, cudaErrorMpsServerNotReady, cudaErrorOperatingSystem}) {
    EXPECT_TRUE(MeansLost(lost)) << cudaGetErrorName(lost);
    const absl::Status status = LostStatus(lost, "cuda:0", "cudaLaunchKernel");
    ExpectError(status, kUnavailable, "DEVICE_LOST");
    EXPECT_THAT(std::string(status.message()), HasSubstr(cudaGetErrorName(lost)));
  }
  for (const cudaError_t passing : {cudaSuccess, cudaErrorMemoryAllocation, cudaErrorInvalidValue,
                                    cudaErrorNotReady, cudaErrorNoKernelImageForDevice}) {
    EXPECT_FALSE(MeansLost(passing)) << cudaGetErrorName(passing);
  }
}

// Only properties: a GPU that is not opened.
TEST(CudaErrorTest, ADeviceRemembersThatItIsLost) {
  const CudaDevice device(0, cudaDeviceProp{});
  EXPECT_FALSE(device.Check(cudaErrorMemoryAllocation, "cudaMalloc").ok());
  EXPECT_TRUE(device.Health().ok());
  ExpectError(device.Check(cudaErrorDevicesUnavailable, "cudaMalloc"), kUnavailable, "DEVICE_LOST");
  EXPECT_FALSE(device.Check(cudaErrorUnknown, "cudaFree").ok());
  EXPECT_THAT(std::string(device.Health().message()), HasSubstr("cudaMalloc: cudaErrorDevicesUnavailable"));
}

std::string Why(cudaError_t error, int driver_version, const char* reason = "NO_GPU") {
  const absl::Status status = WhyNoGpu(error, driver_version);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(GetErrorDetail(status)->reason, reason);
  EXPECT_EQ(ErrorMetadata(status, "cuda_error"), cudaGetErrorName(error));
  return std::string(status.message());
}

TEST(WhyNoGpuTest, TellsTheOperatorWhatToDo) {
  EXPECT_THAT(Why(cudaErrorInsufficientDriver, 0), HasSubstr("no NVIDIA driver is found: install one"));
  EXPECT_THAT(Why(cudaErrorInsufficientDriver, 11080, "CUDA_UNAVAILABLE"),
              HasSubstr("the NVIDIA driver is too old, it is for CUDA 11.8: install one for CUDA 1"));
  EXPECT_THAT(Why(cudaErrorNoDevice, 13000), HasSubstr("see what nvidia-smi lists"));
  EXPECT_THAT(Why(cudaErrorSystemDriverMismatch, 13000, "CUDA_UNAVAILABLE"), HasSubstr("reboot"));
  EXPECT_THAT(Why(cudaErrorSystemNotReady, 13000, "CUDA_UNAVAILABLE"), HasSubstr("nvidia-fabricmanager"));
  EXPECT_THAT(Why(cudaErrorOperatingSystem, 13000, "CUDA_UNAVAILABLE"),
              HasSubstr("cudaErrorOperatingSystem"));
}

TEST(WhyNoGpuTest, NamesTheVariableThatHidesGpus) {
  const char* const before = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string saved = before == nullptr ? "" : before;
  setenv("CUDA_VISIBLE_DEVICES", "7", 1);
  EXPECT_THAT(Why(cudaErrorNoDevice, 13000), HasSubstr("CUDA_VISIBLE_DEVICES is \"7\""));
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_THAT(Why(cudaErrorNoDevice, 13000), ::testing::Not(HasSubstr("CUDA_VISIBLE_DEVICES")));
  if (before != nullptr) setenv("CUDA_VISIBLE_DEVICES", saved.c_str(), 1);
}

}  // namespace
}  // namespace tessera
