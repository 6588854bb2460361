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

// How far rounding the logits to fp32 may be expected to move the results of ComputeReference, by row; 0 for
// rows without keys.
//
// Where Q K^T cancels, its terms set the error and not the logit. Of d terms with random signs and deviation
// s the partial sum of i terms is a random walk of variance i s^2, and rounding it moves it by up to u =
// 2^-24 of itself, u^2 / 3 in variance: in all u s d / sqrt(6), whatever d is some 0.64 u sum |q[d] k[d]| (N.
// J. Higham and T. Mary, SIAM J. Sci. Comput. 42(5), 2020, prove the like). Taken here is u (scale sum |q[d]
// k[d]| + |x|), the second term for what comes after the sum, times sech^2(x / softcap), as the derivative of
// a cap is. With dx[j] for that, errors of different keys being independent:
struct LogitRounding {
  std::vector<double> o;    // (rows): of |o|, sqrt(sum_j (p[j] dx[j] |v[j] - o|)^2)
  std::vector<double> lse;  // (rows): sqrt(sum_j (p[j] dx[j])^2)
};
LogitRounding ComputeLogitRounding(const tessera_attention_problem& problem,
                                   const ReferenceResult& reference);

}  // namespace tessera::testing
