// Runs one problem on a backend the way a server does, and checks everything about the run.
#pragma once

#include <cstdint>
#include <string>

#include "backend/core/backend.h"
#include "tests/conformance/error_metric.h"
#include "tests/conformance/problem_spec.h"

namespace tessera::testing {

enum class Verdict {
  kPassed,
  kFailed,
  kSkipped,  // refused, as the backend's capabilities declare
};

struct CaseResult {
  Verdict verdict = Verdict::kPassed;
  std::string message;  // why it failed or was skipped
  ErrorReport error;
  std::string kernel;  // that the plan names; empty where there was none
};

// Draws the problem from `seed`, takes it through Validate, Supports, MakePlan (without data, then with) and
// Enqueue on memory of the backend's device, spec.runs times, and holds the results to the reference. Fails
// as well when
// - the backend refuses what its capabilities claim;
// - plans of equal problems differ;
// - the run writes outside o, lse and its workspace, to rows of no sequence, or to its inputs;
// - two runs, whose workspaces hold different garbage, differ in any bit.
CaseResult RunCase(Backend& backend, const ProblemSpec& spec, uint64_t seed);

}  // namespace tessera::testing
