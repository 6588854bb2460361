// In every build, on every machine: with CUDA or without, with a GPU or without.
#include "backend/cuda/cuda_backends.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "tests/backend/status_expectations.h"

namespace tessera {
namespace {

using testing::ExpectError;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(RegisterCudaBackendsTest, SaysWhyWhenSwitchedOff) {
  BackendRegistry registry;
  const auto device = RegisterCudaBackends({.device = CudaOptions::kNone}, registry);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(*device, nullptr);
  EXPECT_TRUE(registry.backends().empty());
  EXPECT_TRUE(registry.devices().empty());
  for (const char* name : {"cuda_fused", "cuda_standard"}) {
    const absl::Status status = registry.Find(name).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_EQ(GetErrorDetail(status)->reason, "CUDA_SWITCHED_OFF");
    EXPECT_THAT(std::string(status.message()), HasSubstr("--cuda-device=none"));
  }
}

TEST(RegisterCudaBackendsTest, RefusesAnImpossibleOrdinal) {
  BackendRegistry registry;
  const auto device = RegisterCudaBackends({.device = -3}, registry);
  ExpectError(device.status(), absl::StatusCode::kInvalidArgument, "CUDA_DEVICE_INVALID");
}

TEST(RegisterCudaBackendsTest, OffersTheGpuOrSaysWhyThereIsNone) {
  BackendRegistry registry;
  const auto device = RegisterCudaBackends({}, registry);
  ASSERT_TRUE(device.ok()) << device.status();
  if (*device != nullptr) {
    EXPECT_EQ((*device)->id(), "cuda:0");
    EXPECT_FALSE((*device)->host_accessible());
    ASSERT_TRUE(registry.Find("cuda_fused").ok());
    EXPECT_EQ(registry.backends().front()->info().name, "cuda_fused");
    EXPECT_EQ(registry.backends().front()->info().auto_priority, 200);
    const absl::Status standard = registry.Find("cuda_standard").status();
    EXPECT_TRUE(standard.ok() || absl::IsUnavailable(standard)) << standard;
    return;
  }
  EXPECT_TRUE(registry.devices().empty());
  for (const char* name : {"cuda_fused", "cuda_standard"}) {
    const absl::Status status = registry.Find(name).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                StartsWith("backend \"" + std::string(name) + "\" is unavailable here: "));
    std::printf("%s\n", std::string(status.message()).c_str());
  }
}

TEST(RegisterCudaBackendsTest, AGpuAskedForByNumberIsMandatory) {
  BackendRegistry found, asked;
  const auto gpu = RegisterCudaBackends({}, found);
  const auto zero = RegisterCudaBackends({.device = 0}, asked);
  if (gpu.ok() && *gpu != nullptr) {
    ASSERT_TRUE(zero.ok()) << zero.status();
    EXPECT_EQ((*zero)->id(), "cuda:0");
    return;
  }
  ASSERT_FALSE(zero.ok());
  EXPECT_TRUE(absl::IsUnavailable(zero.status())) << zero.status();
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  EXPECT_EQ(zero.status().message(), found.unavailable().front().reason.message());
  EXPECT_TRUE(asked.unavailable().empty());
}

TEST(RegisterCudaBackendsTest, RefusesAGpuThatIsNotThere) {
  BackendRegistry registry;
  const auto device = RegisterCudaBackends({.device = 1000}, registry);
  ASSERT_FALSE(device.ok()) << "no machine has a thousand GPUs";
  EXPECT_TRUE(registry.devices().empty());
  EXPECT_TRUE(registry.unavailable().empty());
  // Where it has none, it cannot be said which numbers would do.
  if (absl::IsUnavailable(device.status())) return;
  ExpectError(device.status(), absl::StatusCode::kInvalidArgument, "CUDA_DEVICE_INVALID");
}

}  // namespace
}  // namespace tessera
