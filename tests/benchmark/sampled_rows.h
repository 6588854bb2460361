// Whether an attention result is right, from a few hundred of its rows: fast enough for problems of any size.
#pragma once

#include <cstdint>
#include <string>

#include "backend/core/attention_problem.h"

namespace tessera::benchmark {

struct SampledError {
  double relative = 0;   // Frobenius norm over the sampled rows, against float64
  double worst_row = 0;  // largest error of a row in units of the size that its terms give it
  int64_t rows = 0;
  std::string failure;  // empty when all is within the bounds of DESIGN 7.16
};

// `problem` in host memory, packed, without soft-cap, ALiBi, masks and sinks. Draws a few (sequence, kv head)
// pairs and rows of each by `seed`, the last row always among them, and computes them in float64 on all
// processors. Every element of o must have been written: none may be the NaN of all ones.
SampledError CheckSampledRows(const AttentionProblem& problem, uint64_t seed);

}  // namespace tessera::benchmark
