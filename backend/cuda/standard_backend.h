// cuda_standard: the honest baseline, two products by cuBLAS around a softmax, as a backend.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "backend/core/backend.h"
#include "backend/cuda/cuda_device.h"
#include "kernels/cuda/standard_attention.h"

namespace tessera {

class CudaStandardBackend : public Backend {
 public:
  // UNAVAILABLE, reason CUBLAS_UNAVAILABLE, where cuBLAS cannot be opened on this machine: the message says
  // which libraries were tried. `device` outlives the backend.
  static absl::StatusOr<std::unique_ptr<CudaStandardBackend>> Create(CudaDevice& device);
  ~CudaStandardBackend() override;

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }
  // Beyond the capabilities: UNIMPLEMENTED, reason PROBLEM_UNSUPPORTED, with why the kernels refuse it.
  absl::Status Supports(const AttentionProblem& problem) const override;
  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override;
  // Also INTERNAL, reason CUBLAS_ERROR. Streams take turns: cuBLAS has one handle.
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override;
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override;

 private:
  CudaStandardBackend(CudaDevice& device, std::unique_ptr<kernels::cuda::Cublas> blas);

  CudaDevice& device_;
  std::unique_ptr<kernels::cuda::Cublas> blas_;
  BackendInfo info_;
};

}  // namespace tessera
