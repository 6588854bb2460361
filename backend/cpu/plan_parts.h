// What the plans of the CPU backends have in common.
#pragma once

#include <cstdint>
#include <string_view>

#include "backend/core/backend.h"

namespace tessera {

// Dtypes and features that every CPU kernel has, for head dims up to `max_head_dim`.
Capabilities CpuCapabilities(int32_t max_head_dim);

// A plan of one launch with `kernel` as its name (cut to fit) and nothing else set.
Plan EmptyPlan(std::string_view kernel);

// The traffic of an implementation that writes the scores to memory: each query head moves its operands and
// outputs once, and writes and reads the scores inside the window twice (as S and as P), `score_bytes` each.
ModelledTraffic MaterialisedTraffic(const AttentionProblem& problem, int64_t score_bytes);

}  // namespace tessera
