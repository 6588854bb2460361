#include "backend/cpu/fused_backend.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "backend/core/ledger.h"
#include "backend/core/tile_choice.h"
#include "backend/cpu/plan_parts.h"
#include "kernels/cpu/fused_attention.h"

namespace tessera {
namespace {

using kernels::cpu::FusedConfig;
using kernels::cpu::FusedLimits;

constexpr int32_t kMaxSplits = 128;
// On 16 cores of a shared machine 8 tasks a core read K and V a third faster than one.
constexpr int32_t kDecodeTasksPerWorker = 8;

TileLimits TileLimitsOf(const AttentionProblem& problem, kernels::cpu::Isa isa, const CpuDevice& device) {
  const FusedLimits kernel = kernels::cpu::LimitsOf(isa, problem.q.dtype);
  return {// Half of L2 holds the tiles; the other half is for what streams past them.
          .fast_memory_bytes = std::min(device.caches().l2_bytes / 2, kernels::cpu::kMaxScratchPerWorker),
          .compute_units = device.num_workers(),
          .min_tile_q = kernel.min_tile_q,
          .max_tile_q = kernel.max_tile_q,
          .min_tile_kv = kernel.min_tile_kv,
          .max_tile_kv = kernel.max_tile_kv,
          .granularity_q = kernel.granularity_q,
          .granularity_kv = kernel.granularity_kv,
          .efficient_tile_q = kernel.efficient_tile_q,
          .max_stages = 1,
          .max_splits = kMaxSplits,
          .decode_tasks_per_unit = kDecodeTasksPerWorker,
          .q_element_bytes = kernel.q_element_bytes,
          .kv_element_bytes = kernel.kv_element_bytes,
          .score_element_bytes = kernel.score_element_bytes,
          .accumulator_element_bytes = kernel.accumulator_element_bytes};
}

}  // namespace

CpuFusedBackend::CpuFusedBackend(CpuDevice& device, kernels::cpu::Isa isa)
    : device_(device),
      isa_(isa),
      info_{.name = "cpu_fused",
            .description = absl::StrCat("Fused tiled attention with an online softmax, ",
                                        std::string(kernels::cpu::IsaName(isa))),
            .auto_priority = 100,
            .capabilities = CpuCapabilities(kernels::cpu::kMaxHeadDim)} {}

absl::StatusOr<Plan> CpuFusedBackend::MakePlan(const AttentionProblem& problem) const {
  const TileChoice choice = ChooseTile(problem, TileLimitsOf(problem, isa_, device_));
  Plan plan = EmptyPlan(kernels::cpu::FusedKernelName(isa_, problem.q.dtype));
  plan.tile_q = choice.tile_q;
  plan.tile_kv = choice.tile_kv;
  plan.stages = choice.stages;
  plan.num_splits = choice.num_splits;
  // The kernel has the last word.
  const kernels::cpu::FusedTiles tiles = kernels::cpu::TilesOf(problem, ConfigOf(plan));
  plan.tile_q = tiles.tile_q;
  plan.tile_kv = tiles.tile_kv;
  plan.num_splits = tiles.num_splits;
  plan.launches = tiles.num_splits > 1 ? 2 : 1;  // the second merges the splits
  plan.fast_memory_bytes = tiles.scratch_bytes;
  plan.workspace_bytes = kernels::cpu::FusedWorkspaceBytes(problem, ConfigOf(plan));
  return plan;
}

FusedConfig CpuFusedBackend::ConfigOf(const Plan& plan) const {
  return {.isa = isa_,
          .tile_q = plan.tile_q,
          .tile_kv = plan.tile_kv,
          .num_splits = plan.num_splits,
          .num_workers = device_.num_workers()};
}

absl::Status CpuFusedBackend::Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                                      tessera_stream* stream) {
  kernels::cpu::FusedAttention(problem, ConfigOf(plan), static_cast<std::byte*>(workspace),
                               CpuDevice::PoolOf(stream));
  return absl::OkStatus();
}

absl::StatusOr<ModelledTraffic> CpuFusedBackend::ModelTraffic(const Plan& plan,
                                                              const AttentionProblem& problem) const {
  return FusedTraffic(problem, plan, device_.caches().last_level_bytes);
}

}  // namespace tessera
