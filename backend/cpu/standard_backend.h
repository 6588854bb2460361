// cpu_standard: the float64 oracle as a backend.
#pragma once

#include "backend/core/backend.h"
#include "backend/cpu/cpu_device.h"

namespace tessera {

class CpuStandardBackend : public Backend {
 public:
  // `device` outlives the backend.
  explicit CpuStandardBackend(CpuDevice& device);

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }
  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override;
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override;
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override;

 private:
  CpuDevice& device_;
  BackendInfo info_;
};

}  // namespace tessera
