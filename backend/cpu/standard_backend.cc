#include "backend/cpu/standard_backend.h"

#include <cstddef>

#include "backend/cpu/plan_parts.h"
#include "kernels/cpu/standard_attention.h"

namespace tessera {
namespace {

constexpr int32_t kMaxHeadDim = 4096;  // bounds the scratch of a worker

}  // namespace

CpuStandardBackend::CpuStandardBackend(CpuDevice& device)
    : device_(device),
      info_{.name = "cpu_standard",
            .description = "Standard attention in float64, the scores in memory: the oracle",
            .auto_priority = 0,
            .capabilities = CpuCapabilities(kMaxHeadDim)} {}

absl::StatusOr<Plan> CpuStandardBackend::MakePlan(const AttentionProblem& problem) const {
  Plan plan = EmptyPlan("oracle_attention_fp64");
  plan.workspace_bytes = kernels::cpu::OracleWorkspaceBytes(problem, device_.num_workers());
  plan.materialises_scores = 1;
  return plan;
}

absl::Status CpuStandardBackend::Enqueue(const Plan&, const AttentionProblem& problem, void* workspace,
                                         tessera_stream* stream) {
  kernels::cpu::OracleAttention(problem, static_cast<std::byte*>(workspace), CpuDevice::PoolOf(stream));
  return absl::OkStatus();
}

absl::StatusOr<ModelledTraffic> CpuStandardBackend::ModelTraffic(const Plan&,
                                                                 const AttentionProblem& problem) const {
  return MaterialisedTraffic(problem, sizeof(double));
}

}  // namespace tessera
