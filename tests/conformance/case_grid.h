// The problems that every backend must solve.
#pragma once

#include <vector>

#include "tests/conformance/problem_spec.h"

namespace tessera::testing {

// The edges of DESIGN 7.17, each written out, for every input dtype.
std::vector<ProblemSpec> EdgeCases();

// Ordinary problems in which every pair of feature values occurs: dtypes, heads, head dims, lengths, layouts,
// windows and alignments, scale, soft-cap, ALiBi, sinks, masks and their broadcasts, LSE.
std::vector<ProblemSpec> PairwiseCases();

// How tensors and masks may lie in memory: every alignment of a mask's rows that copies may depend on,
// strides that leave room between aligned rows, rows that are not aligned.
std::vector<ProblemSpec> MemoryCases();

// All of the above; names are unique.
std::vector<ProblemSpec> ConformanceGrid();

// For GPUs, besides: problems of several row tiles for each multiprocessor, on the edges of DESIGN 7.17, some
// run over and over. On a CPU they would take longer than all others, and go through nothing that those do
// not.
std::vector<ProblemSpec> ManyTileCases();

// Whether the fp32 bound holds as it stands: unit-normal inputs at the usual scale, head dims up to 256, at
// most 4096 keys, and no mask that adds to the logits.
bool IsUnitNormal(const ProblemSpec& spec);

}  // namespace tessera::testing
