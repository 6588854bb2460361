// What holds the throughput back, told from where the time of the requests went.
#pragma once

#include <string>
#include <vector>

#include "client/load/phase.h"

namespace tessera::load {

struct Verdict {
  std::string bottleneck;            // "compute", "wire", "the load generator", ...
  std::vector<std::string> reasons;  // with figures, the decisive one first
};

// `cores`: those that this process may use.
Verdict JudgeBottleneck(const PhaseResult& result, int cores);

}  // namespace tessera::load
