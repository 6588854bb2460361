#include "backend/core/ledger.h"

#include <algorithm>
#include <cstring>

namespace tessera {

void AccountProblem(const AttentionProblem& problem, const ModelledTraffic& modelled, Ledger& ledger) {
  TrafficLedger& traffic = ledger.traffic;
  traffic.hbm_read = modelled.read_bytes;
  traffic.hbm_write = modelled.write_bytes;
  traffic.standard_workspace = StandardWorkspaceBytes(problem);
  traffic.standard_hbm_bytes = StandardHbmBytes(problem);
  traffic.workspace_ratio = static_cast<double>(traffic.standard_workspace) /
                            static_cast<double>(std::max<int64_t>(ledger.memory.workspace_peak, 1));
  const double moved = static_cast<double>(traffic.hbm_read) + static_cast<double>(traffic.hbm_write);
  traffic.hbm_ratio = moved > 0 ? static_cast<double>(traffic.standard_hbm_bytes) / moved : 0;

  ledger.flops = SizeOf(problem).flops;
}

ChoiceLedger ChoiceOf(const AttentionProblem& problem, const Plan& plan, const Backend& backend) {
  ChoiceLedger choice;
  choice.backend = backend.info().name;
  choice.device = backend.device().id();
  choice.kernel.assign(plan.kernel, strnlen(plan.kernel, sizeof(plan.kernel)));
  choice.tile_q = plan.tile_q;
  choice.tile_kv = plan.tile_kv;
  choice.stages = plan.stages;
  choice.num_splits = plan.num_splits;
  choice.fast_memory_bytes = plan.fast_memory_bytes;
  choice.launches = plan.launches;
  choice.batch_sequences = problem.num_sequences;
  return choice;
}

}  // namespace tessera
