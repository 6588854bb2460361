// What can be said of a GPU without having it: plans, refusals, health.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "backend/cuda/cuda_device.h"
#include "backend/cuda/fused_backend.h"
#include "tests/backend/status_expectations.h"

namespace tessera {
namespace {

using testing::ExpectError;
using ::testing::HasSubstr;
using ::testing::StartsWith;

cudaDeviceProp Hopper() {
  cudaDeviceProp properties{};
  std::strcpy(properties.name, "a made-up GPU");
  properties.major = 9;
  properties.multiProcessorCount = 132;
  properties.totalGlobalMem = size_t{140} << 30;
  properties.sharedMemPerBlockOptin = 227 << 10;
  properties.sharedMemPerMultiprocessor = 228 << 10;
  properties.l2CacheSize = 50 << 20;
  return properties;
}

struct Shape {
  int64_t length;
  int32_t heads = 4, head_dim = 128;
  tessera_dtype dtype = TESSERA_DTYPE_BF16;
  tessera_dtype output_dtype = TESSERA_DTYPE_INVALID;  // INVALID: as dtype
  bool lse = false;
};

// A problem of one sequence without memory behind it.
class ShapesOnly {
 public:
  explicit ShapesOnly(const Shape& shape) {
    const int64_t row = int64_t{shape.heads} * shape.head_dim;
    problem_ = {.struct_size = sizeof(AttentionProblem),
                .num_q_heads = shape.heads,
                .num_kv_heads = shape.heads,
                .head_dim_qk = shape.head_dim,
                .head_dim_v = shape.head_dim,
                .scale = 0.1f};
    problem_.q = problem_.k = problem_.v =
        problem_.o = {nullptr, shape.length * row, row, shape.head_dim, shape.dtype};
    if (shape.output_dtype != TESSERA_DTYPE_INVALID) problem_.o.dtype = shape.output_dtype;
    if (shape.lse) problem_.lse = {nullptr, shape.length * shape.heads, shape.heads, 1};
    sequence_ = {.q_len = shape.length, .kv_len = shape.length, .window_left = -1, .window_right = -1};
    problem_.sequences = &sequence_;
    problem_.num_sequences = 1;
  }
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;
  const AttentionProblem& problem() const { return problem_; }

 private:
  Sequence sequence_{};
  AttentionProblem problem_{};
};

class CudaPlanTest : public ::testing::Test {
 protected:
  CudaDevice device_{0, Hopper()};
  CudaFusedBackend fused_{device_};
};

TEST_F(CudaPlanTest, FusedPlanSaysWhatItChose) {
  const std::pair<tessera_dtype, const char*> dtypes[] = {{TESSERA_DTYPE_FP32, "tessera_fused_fp32_d128"},
                                                          {TESSERA_DTYPE_FP16, "tessera_hopper_fp16_d128"},
                                                          {TESSERA_DTYPE_BF16, "tessera_hopper_bf16_d128"}};
  for (const auto& [dtype, kernel] : dtypes) {
    const ShapesOnly shape({.length = 4096, .dtype = dtype});
    ASSERT_TRUE(fused_.Supports(shape.problem()).ok());
    const Plan plan = *fused_.MakePlan(shape.problem());
    EXPECT_THAT(std::string(plan.kernel), HasSubstr(kernel));
    EXPECT_GT(plan.tile_q, 0);
    EXPECT_GT(plan.tile_kv, 0);
    EXPECT_GE(plan.stages, 1);
    EXPECT_EQ(plan.num_splits, 1);
    EXPECT_EQ(plan.launches, 1);
    EXPECT_EQ(plan.materialises_scores, 0);
    EXPECT_GT(plan.fast_memory_bytes, 0);
    EXPECT_LE(plan.fast_memory_bytes, device_.traits().shared_memory_per_block);
    const int64_t tensor = int64_t{4096} * 4 * 128 * DTypeSize(dtype);
    const ModelledTraffic traffic = *fused_.ModelTraffic(plan, shape.problem());
    EXPECT_GE(traffic.read_bytes, 3 * tensor);
    EXPECT_EQ(traffic.write_bytes, tensor);
  }
}

TEST_F(CudaPlanTest, FusedWorkspaceDoesNotGrowWithTheScores) {
  for (const int64_t length : {int64_t{16384}, int64_t{1} << 20}) {
    EXPECT_EQ(fused_.MakePlan(ShapesOnly({.length = length}).problem())->workspace_bytes, 0);
    EXPECT_LE(fused_.MakePlan(ShapesOnly({.length = length, .lse = true}).problem())->workspace_bytes,
              1 << 20);
  }
}

TEST_F(CudaPlanTest, FusedRefusesInItsOwnName) {
  ExpectError(fused_.Supports(ShapesOnly({.length = 8, .head_dim = 264}).problem()),
              absl::StatusCode::kUnimplemented, "HEAD_DIM_UNSUPPORTED");
  const absl::Status long_sequence = fused_.Supports(ShapesOnly({.length = int64_t{1} << 30}).problem());
  ExpectError(long_sequence, absl::StatusCode::kUnimplemented, "PROBLEM_UNSUPPORTED");
  EXPECT_THAT(std::string(long_sequence.message()),
              StartsWith("cuda_fused: 1073741824 keys of sequence 0, expected fewer than 1073741824"));
}

// A client learns which dtypes it may send instead.
TEST_F(CudaPlanTest, FusedRefusesFp8OnGpusOtherThanHopper) {
  const ShapesOnly fp8({.length = 64, .dtype = TESSERA_DTYPE_FP8_E4M3, .output_dtype = TESSERA_DTYPE_BF16});
  EXPECT_TRUE(fused_.Supports(fp8.problem()).ok()) << fused_.Supports(fp8.problem());
  for (const auto& [major, minor] : {std::pair{8, 0}, {8, 9}, {10, 0}}) {
    cudaDeviceProp other = Hopper();
    other.major = major;
    other.minor = minor;
    CudaDevice device(1, other);
    const absl::Status status = CudaFusedBackend(device).Supports(fp8.problem());
    ExpectError(status, absl::StatusCode::kUnimplemented, "DTYPE_UNSUPPORTED");
    EXPECT_THAT(std::string(status.message()),
                StartsWith("cuda_fused: input dtype fp8_e4m3 is not supported; supported: fp32, fp16, bf16"));
    EXPECT_EQ(testing::ErrorMetadata(status, "field"), "input_dtype");
    EXPECT_EQ(testing::ErrorMetadata(status, "actual"), "fp8_e4m3");
  }
}

TEST_F(CudaPlanTest, FusedRefusesAGpuWithTooLittleSharedMemory) {
  cudaDeviceProp small = Hopper();
  small.sharedMemPerBlockOptin = small.sharedMemPerMultiprocessor = 8 << 10;
  CudaDevice device(1, small);
  const absl::Status status = CudaFusedBackend(device).Supports(ShapesOnly({.length = 64}).problem());
  ExpectError(status, absl::StatusCode::kUnimplemented, "PROBLEM_UNSUPPORTED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("shared memory"));
}

TEST_F(CudaPlanTest, HealthRemembersTheFirstStickyError) {
  EXPECT_TRUE(device_.Check(cudaSuccess, "cudaMalloc").ok());
  ExpectError(device_.Check(cudaErrorInvalidValue, "cudaMemcpyAsync"), absl::StatusCode::kInternal,
              "CUDA_ERROR");
  EXPECT_TRUE(device_.Health().ok());
  ExpectError(device_.Check(cudaErrorIllegalAddress, "cudaEventQuery"), absl::StatusCode::kUnavailable,
              "DEVICE_LOST");
  EXPECT_TRUE(absl::IsUnavailable(device_.Check(cudaErrorAssert, "cudaMalloc")));
  const absl::Status health = device_.Health();
  ExpectError(health, absl::StatusCode::kUnavailable, "DEVICE_LOST");
  EXPECT_THAT(std::string(health.message()), HasSubstr("cudaErrorIllegalAddress"));
}

TEST_F(CudaPlanTest, NeverAsksForMoreMemoryThanThereIs) {
  const absl::Status status = device_.Allocate(TESSERA_MEMORY_PINNED, SIZE_MAX).status();
  ExpectError(status, absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY");
  EXPECT_FALSE(GetErrorDetail(status)->retry_after.has_value()) << "it can never fit";
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot allocate " + std::to_string(SIZE_MAX)));
}

}  // namespace
}  // namespace tessera
