// cpu_fused: the tiled kernel with an online softmax as a backend; the default without a GPU.
#pragma once

#include "backend/core/backend.h"
#include "backend/cpu/cpu_device.h"
#include "kernels/cpu/fused_attention.h"
#include "kernels/cpu/isa.h"

namespace tessera {

class CpuFusedBackend : public Backend {
 public:
  // `device` outlives the backend; `isa` is usable here.
  CpuFusedBackend(CpuDevice& device, kernels::cpu::Isa isa);

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }
  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override;
  // Runs with the plan's tile and splits.
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override;
  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override;

 private:
  kernels::cpu::FusedConfig ConfigOf(const Plan& plan) const;

  CpuDevice& device_;
  kernels::cpu::Isa isa_;
  BackendInfo info_;
};

}  // namespace tessera
