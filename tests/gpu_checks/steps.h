// The checks, in the order in which they run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/gpu_checks/environment.h"
#include "tests/gpu_checks/step.h"

namespace tessera::gpu_checks {

struct Settings {
  std::string out;                   // the folder of the report
  std::string filter;                // conformance cases whose names contain this
  int64_t cases = 300;               // of verify, per backend
  std::vector<std::string> lengths;  // of compare
  int64_t memory_length = 16384;     // of the memory check
  bool quick = false;                // fewer cells of the kernel benchmark
  std::string compute_sanitizer;     // its path; empty: no such steps
  std::string sanitizer_filter;      // conformance cases to run under it; empty: see --sanitizer_filter
  std::string ncu;                   // its path; empty: no such step
  std::string python;                // one that has PyTorch; empty: no comparison with it
};

// conformance.BACKEND, verify.BACKEND, memory, compare.DTYPE, kernel.DTYPE, and with the tools
// memcheck.BACKEND, racecheck.BACKEND, traffic.BACKEND, peers.GROUP, sweep, features, ragged and fp8. Keeps
// references to both arguments.
std::vector<Step> MakeSteps(const Settings& settings, const Environment& environment);

// Workspace and device memory of fused and standard attention at one length, 4 heads, head_dim 128, through a
// server: what the ledger says, its bounds, and whether the device's free memory fell by as much.
StepResult CheckMemory(int64_t length, const Environment& environment, std::chrono::seconds timeout);

}  // namespace tessera::gpu_checks
