#include "backend/cpu/unfused_backend.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/cpu/plan_parts.h"
#include "kernels/cpu/standard_attention.h"

namespace tessera {
namespace {

constexpr int32_t kMaxHeadDim = 4096;                  // bounds the scratch of a worker
constexpr int64_t kMaxKeys = (int64_t{1} << 31) - 64;  // BLAS takes 32-bit extents; room for padded rows

}  // namespace

CpuUnfusedBackend::CpuUnfusedBackend(CpuDevice& device, const kernels::cpu::Blas& blas)
    : device_(device),
      blas_(blas),
      info_{.name = "cpu_unfused",
            .description = absl::StrCat("Standard attention in fp32, the scores in memory, by ", blas.name()),
            .auto_priority = 10,
            .capabilities = CpuCapabilities(kMaxHeadDim)} {}

absl::Status CpuUnfusedBackend::Supports(const AttentionProblem& problem) const {
  TESSERA_RETURN_IF_ERROR(CheckCapabilities(info_, problem));
  for (int64_t s = 0; s < problem.num_sequences; ++s) {
    const int64_t kv_len = problem.sequences[s].kv_len;
    if (kv_len <= kMaxKeys) continue;
    return MakeError(
        absl::StatusCode::kUnimplemented,
        absl::StrCat("cpu_unfused: kv_len ", kv_len, " is not supported; supported: up to ", kMaxKeys),
        {.reason = "KV_LEN_UNSUPPORTED",
         .metadata = {{"backend", info_.name},
                      {"field", absl::StrCat("sequences[", s, "].kv_len")},
                      {"expected", absl::StrCat("at most ", kMaxKeys)},
                      {"actual", absl::StrCat(kv_len)}},
         .retry_after = std::nullopt});
  }
  return absl::OkStatus();
}

absl::StatusOr<Plan> CpuUnfusedBackend::MakePlan(const AttentionProblem& problem) const {
  Plan plan = EmptyPlan("unfused_attention_sgemm");
  plan.workspace_bytes = kernels::cpu::UnfusedWorkspaceBytes(problem, device_.num_workers());
  plan.materialises_scores = 1;
  return plan;
}

absl::Status CpuUnfusedBackend::Enqueue(const Plan&, const AttentionProblem& problem, void* workspace,
                                        tessera_stream* stream) {
  kernels::cpu::UnfusedAttention(problem, blas_, static_cast<std::byte*>(workspace),
                                 CpuDevice::PoolOf(stream));
  return absl::OkStatus();
}

absl::StatusOr<ModelledTraffic> CpuUnfusedBackend::ModelTraffic(const Plan&,
                                                                const AttentionProblem& problem) const {
  return MaterialisedTraffic(problem, sizeof(float));
}

}  // namespace tessera
