#include "backend/cuda/fused_backend.h"

#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/core/ledger.h"
#include "backend/cuda/backend_parts.h"

namespace tessera {
namespace {

constexpr int32_t kFp8Capability = 90;

// fp8 takes the tensor cores of 9.0.
Capabilities FusedCapabilities(const kernels::cuda::DeviceTraits& traits) {
  Capabilities capabilities = CudaCapabilities(kernels::cuda::kFusedMaxHeadDim);
  if (traits.compute_capability == kFp8Capability)
    capabilities.input_dtypes |= DTypeBit(TESSERA_DTYPE_FP8_E4M3);
  return capabilities;
}

}  // namespace

using kernels::cuda::ChooseFused;
using kernels::cuda::FusedChoice;

CudaFusedBackend::CudaFusedBackend(CudaDevice& device)
    : device_(device),
      info_{.name = "cuda_fused",
            .description = "Fused tiled attention with an online softmax, one launch",
            .auto_priority = 200,
            .capabilities = FusedCapabilities(device.traits())} {}

absl::Status CudaFusedBackend::Supports(const AttentionProblem& problem) const {
  TESSERA_RETURN_IF_ERROR(CheckCapabilities(info_, problem));
  const FusedChoice choice = ChooseFused(problem, device_.traits());
  if (choice.kernel == nullptr) return ProblemUnsupported(info_, choice.refusal);
  return absl::OkStatus();
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
  SetKernelName(choice.kernel, plan);
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

absl::StatusOr<ModelledTraffic> CudaFusedBackend::ModelTraffic(const Plan& plan,
                                                               const AttentionProblem& problem) const {
  const FusedChoice choice = ChooseFused(problem, device_.traits());
  const GpuSchedule schedule{
      .concurrent_tiles = int64_t{choice.blocks_per_multiprocessor} * device_.traits().multiprocessors,
      .walked_bytes = choice.walked_bytes,
      .held_tiles = choice.held_tiles};
  return FusedTraffic(problem, plan, device_.traits().l2_bytes, schedule);
}

}  // namespace tessera
