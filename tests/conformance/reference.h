// The definition in tessera/attention.h, computed the slow way. Shares nothing with any kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "tessera/attention.h"

namespace tessera::testing {

// Whether `sequence` shows key j to query i of query head h.
bool IsVisible(const tessera_attention_problem& problem, const tessera_sequence& sequence, int32_t h,
               int64_t i, int64_t j);

// Results by row: the rows of sequence 0, then of sequence 1, ...; within a sequence by query, then by query
// head.
struct ReferenceResult {
  int64_t dim = 0;
  std::vector<double> o;    // (rows, dim)
  std::vector<double> lse;  // (rows)
  // sqrt(sum_j p[j]^2 |v[j]|^2): the size that a row of o has when its terms have random signs. What a row's
  // error is held against, as o itself may come out close to 0 by chance.
  std::vector<double> row_size;  // (rows)

  int64_t rows() const { return static_cast<int64_t>(lse.size()); }
};

// In float64 from the inputs as quantised. Reads the problem's host memory; o and lse of the problem are not
// touched.
ReferenceResult ComputeReference(const tessera_attention_problem& problem);

// The same loops in fp32 throughout: what plain unfused fp32 arithmetic loses on this problem.
ReferenceResult ComputeReferenceFp32(const tessera_attention_problem& problem);

}  // namespace tessera::testing
