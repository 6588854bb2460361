#include "tests/benchmark/cuda_ceilings.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/cuda/cuda_device.h"
#include "kernels/cuda/cublas.h"
#include "tests/benchmark/cuda_cell_run.h"
#include "tests/benchmark/cuda_fill.h"

namespace tessera::benchmark {
namespace {

constexpr int kRounds = 7;

absl::StatusOr<double> MedianMicroseconds(Device& device, tessera_stream* stream, int64_t repeats,
                                          const auto& body) {
  std::vector<double> rounds;
  for (int i = 0; i <= kRounds; ++i) {
    TESSERA_ASSIGN_OR_RETURN(const double time, TimeOnDevice(device, stream, repeats, body));
    if (i > 0) rounds.push_back(time);  // the first warms up
  }
  std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  return rounds[kRounds / 2];
}

absl::StatusOr<DeviceBuffer> RandomBf16(Device& device, int64_t count, tessera_stream* stream) {
  TESSERA_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE,
                                                                     static_cast<size_t>(count) * 2));
  const cudaError_t error = FillNormal(buffer.data(), TESSERA_DTYPE_BF16, count, std::random_device{}(),
                                       CudaDevice::Unwrap(stream));
  if (error != cudaSuccess)
    return absl::InternalError(absl::StrCat("FillNormal: ", cudaGetErrorString(error)));
  return buffer;
}

absl::StatusOr<double> MeasureCopy(Device& device, tessera_stream* stream) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  TESSERA_ASSIGN_OR_RETURN(const DeviceBuffer from, RandomBf16(device, kBytes / 2, stream));
  TESSERA_ASSIGN_OR_RETURN(const DeviceBuffer to,
                           DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, size_t{kBytes}));
  TESSERA_ASSIGN_OR_RETURN(const double time, MedianMicroseconds(device, stream, 4, [&] {
                             return device.CopyAsync(to.data(), from.data(), size_t{kBytes},
                                                     TESSERA_COPY_DEVICE_TO_DEVICE, stream);
                           }));
  return 2e-3 * kBytes / time;
}

absl::StatusOr<double> MeasureMatmul(Device& device, tessera_stream* stream) {
  using kernels::cuda::Cublas;
  constexpr int32_t kSize = 8192;
  constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  std::string reason;
  const std::unique_ptr<Cublas> blas = Cublas::Create(&reason);
  if (blas == nullptr) return 0;
  TESSERA_ASSIGN_OR_RETURN(const DeviceBuffer a, RandomBf16(device, int64_t{kSize} * kSize, stream));
  TESSERA_ASSIGN_OR_RETURN(const DeviceBuffer b, RandomBf16(device, int64_t{kSize} * kSize, stream));
  TESSERA_ASSIGN_OR_RETURN(const DeviceBuffer c, RandomBf16(device, int64_t{kSize} * kSize, stream));
  TESSERA_ASSIGN_OR_RETURN(const DeviceBuffer workspace,
                           DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, kWorkspaceBytes));
  const auto matrix = [](const DeviceBuffer& buffer) {
    return kernels::cuda::GemmMatrices{buffer.data(), kSize, 0, TESSERA_DTYPE_BF16};
  };
  Cublas::Calls calls(*blas, CudaDevice::Unwrap(stream), workspace.data(), kWorkspaceBytes);
  TESSERA_ASSIGN_OR_RETURN(const double time, MedianMicroseconds(device, stream, 4, [&] {
                             const bool queued = calls.Gemm({.rows = kSize,
                                                             .columns = kSize,
                                                             .depth = kSize,
                                                             .batches = 1,
                                                             .transpose_b = false,
                                                             .accumulate = false,
                                                             .a = matrix(a),
                                                             .b = matrix(b),
                                                             .c = matrix(c)});
                             return queued ? absl::OkStatus() : absl::InternalError(calls.error());
                           }));
  return 2e-6 * kSize * kSize * kSize / time;
}

}  // namespace

absl::StatusOr<Ceilings> MeasureCeilings(Device& device) {
  TESSERA_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(device));
  Ceilings ceilings;
  TESSERA_ASSIGN_OR_RETURN(ceilings.copy_gb_per_s, MeasureCopy(device, stream.get()));
  TESSERA_ASSIGN_OR_RETURN(ceilings.matmul_tflop_per_s, MeasureMatmul(device, stream.get()));
  return ceilings;
}

}  // namespace tessera::benchmark
