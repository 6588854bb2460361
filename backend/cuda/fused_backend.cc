#include "backend/cuda/fused_backend.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/core/ledger.h"

namespace tessera {
namespace {

using kernels::cuda::ChooseFused;
using kernels::cuda::FusedChoice;

Capabilities FusedCapabilities() {
  const uint32_t dtypes =
      DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP16) | DTypeBit(TESSERA_DTYPE_BF16);
  return {.struct_size = sizeof(Capabilities),
          .features = TESSERA_FEATURE_ALL,
          .input_dtypes = dtypes,
          .output_dtypes = dtypes,
          .max_head_dim = kernels::cuda::kFusedMaxHeadDim,
          .head_dim_multiple = 1};
}

}  // namespace

CudaFusedBackend::CudaFusedBackend(CudaDevice& device)
    : device_(device),
      info_{.name = "cuda_fused",
            .description = "Fused tiled attention with an online softmax, one launch",
            .auto_priority = 200,
            .capabilities = FusedCapabilities()} {}

absl::Status CudaFusedBackend::Supports(const AttentionProblem& problem) const {
  TESSERA_RETURN_IF_ERROR(CheckCapabilities(info_, problem));
  const FusedChoice choice = ChooseFused(problem, device_.traits());
  if (choice.kernel != nullptr) return absl::OkStatus();
  return MakeError(absl::StatusCode::kUnimplemented, absl::StrCat(info_.name, ": ", choice.refusal),
                   {.reason = "PROBLEM_UNSUPPORTED",
                    .metadata = {{"backend", info_.name},
                                 {"expected", "a problem within the limits of the kernels"},
                                 {"actual", choice.refusal}},
                    .retry_after = std::nullopt});
}

absl::StatusOr<Plan> CudaFusedBackend::MakePlan(const AttentionProblem& problem) const {
  const FusedChoice choice = ChooseFused(problem, device_.traits());
  Plan plan{.struct_size = sizeof(Plan),
            .workspace_bytes = choice.workspace_bytes,
            .tile_q = choice.tile_q,
            .tile_kv = choice.tile_kv,
            .stages = choice.stages,
            .num_splits = 1,
            .fast_memory_bytes = choice.shared_memory_bytes,
            .launches = 1};
  const std::string_view kernel = choice.kernel;
  kernel.copy(plan.kernel, std::min(kernel.size(), sizeof(plan.kernel) - 1));
  const int64_t concurrent_tiles =
      int64_t{choice.blocks_per_multiprocessor} * device_.traits().multiprocessors;
  const ModelledTraffic traffic = FusedTraffic(problem, plan, device_.traits().l2_bytes, concurrent_tiles);
  plan.hbm_read_bytes = traffic.read_bytes;
  plan.hbm_write_bytes = traffic.write_bytes;
  return plan;
}

absl::Status CudaFusedBackend::Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                                       tessera_stream* stream) {
  TESSERA_RETURN_IF_ERROR(device_.MakeCurrent());
  TESSERA_RETURN_IF_ERROR(device_.Check(
      kernels::cuda::FusedAttention(problem, device_.traits(), workspace, CudaDevice::Unwrap(stream)),
      plan.kernel));
  return device_.Check(cudaGetLastError(), plan.kernel);
}

}  // namespace tessera
