// cuda_fused: the tiled kernel with an online softmax as a backend; the default where there is a GPU.
#pragma once

#include "backend/core/backend.h"
#include "backend/cuda/cuda_device.h"
#include "kernels/cuda/fused_attention.h"

namespace tessera {

class CudaFusedBackend : public Backend {
 public:
  // `device` outlives the backend.
  explicit CudaFusedBackend(CudaDevice& device);

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }
  // Beyond the capabilities: UNIMPLEMENTED, reason PROBLEM_UNSUPPORTED, with why the kernels refuse it.
  absl::Status Supports(const AttentionProblem& problem) const override;
  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override;
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override;
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override;

 private:
  CudaDevice& device_;
  BackendInfo info_;
};

}  // namespace tessera
