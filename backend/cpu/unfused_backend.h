// cpu_unfused: the honest baseline, fp32 GEMMs of the machine's BLAS around a softmax, as a backend.
#pragma once

#include "backend/core/backend.h"
#include "backend/cpu/cpu_device.h"
#include "kernels/cpu/blas.h"

namespace tessera {

class CpuUnfusedBackend : public Backend {
 public:
  // `device` and `blas` outlive the backend.
  CpuUnfusedBackend(CpuDevice& device, const kernels::cpu::Blas& blas);

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }
  absl::Status Supports(const AttentionProblem& problem) const override;
  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override;
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override;
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override;

 private:
  CpuDevice& device_;
  const kernels::cpu::Blas& blas_;
  BackendInfo info_;
};

}  // namespace tessera
