#include "backend/core/ledger.h"

#include <algorithm>
#include <cstring>

namespace tessera {

void AccountPlan(const AttentionProblem& problem, const Plan& plan, const std::string& backend,
                 const std::string& device, Ledger& ledger) {
  TrafficLedger& traffic = ledger.traffic;
  traffic.hbm_read = plan.hbm_read_bytes;
  traffic.hbm_write = plan.hbm_write_bytes;
  traffic.standard_workspace = StandardWorkspaceBytes(problem);
  traffic.standard_hbm_bytes = StandardHbmBytes(problem);
  traffic.workspace_ratio = static_cast<double>(traffic.standard_workspace) /
                            static_cast<double>(std::max<int64_t>(ledger.memory.workspace_peak, 1));
  const double moved = static_cast<double>(traffic.hbm_read) + static_cast<double>(traffic.hbm_write);
  traffic.hbm_ratio = moved > 0 ? static_cast<double>(traffic.standard_hbm_bytes) / moved : 0;

  ChoiceLedger& choice = ledger.choice;
  choice.backend = backend;
  choice.device = device;
  choice.kernel.assign(plan.kernel, strnlen(plan.kernel, sizeof(plan.kernel)));
  choice.tile_q = plan.tile_q;
  choice.tile_kv = plan.tile_kv;
  choice.stages = plan.stages;
  choice.num_splits = plan.num_splits;
  choice.fast_memory_bytes = plan.fast_memory_bytes;
  choice.launches = plan.launches;
  choice.batch_sequences = problem.num_sequences;

  ledger.flops = SizeOf(problem).flops;
}

}  // namespace tessera
