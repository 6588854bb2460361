// What holds the throughput back, told from where the time of the requests went.
#pragma once

#include <string>
#include <vector>

#include "client/load/phase.h"

namespace tessera::load {

struct Verdict {
  // "compute", "wire", "the load generator", ...; "none at this rate, ..." where an open loop got all it
  // asked for and nothing was used up.
  std::string bottleneck;
  std::vector<std::string> reasons;  // with figures, the decisive one first
};

// `open`: of an open loop; `cores`: those that this process may use.
Verdict JudgeBottleneck(const PhaseResult& result, bool open, int cores);

}  // namespace tessera::load
