#include "backend/cpu/plan_parts.h"

#include <algorithm>

#include "backend/core/dtype.h"
#include "backend/core/ledger.h"
#include "backend/core/saturating.h"

namespace tessera {

Capabilities CpuCapabilities(int32_t max_head_dim) {
  const uint32_t dtypes =
      DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP16) | DTypeBit(TESSERA_DTYPE_BF16);
  return {.struct_size = sizeof(Capabilities),
          .features = TESSERA_FEATURE_ALL,
          .input_dtypes = dtypes | DTypeBit(TESSERA_DTYPE_FP8_E4M3),
          .output_dtypes = dtypes,
          .max_head_dim = max_head_dim,
          .head_dim_multiple = 1};
}

Plan EmptyPlan(std::string_view kernel) {
  Plan plan{.struct_size = sizeof(Plan), .num_splits = 1, .launches = 1};
  kernel.copy(plan.kernel, std::min(kernel.size(), sizeof(plan.kernel) - 1));
  return plan;
}

ModelledTraffic MaterialisedTraffic(const AttentionProblem& problem, int64_t score_bytes) {
  // One tile of all queries: every operand moves once.
  const Plan one_tile = EmptyPlan("");
  const ModelledTraffic operands = FusedTraffic(problem, one_tile, /*cache_bytes=*/0);
  const int64_t scores = SaturatingProduct(SizeOf(problem).visible_scores, int64_t{2}, score_bytes);
  return {SaturatingAdd(operands.read_bytes, scores), SaturatingAdd(operands.write_bytes, scores)};
}

}  // namespace tessera
