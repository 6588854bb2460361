// How far a result may be from the reference, and how far it is (DESIGN 7.16).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tessera/attention.h"
#include "tests/conformance/reference.h"

namespace tessera::testing {

// What an implementation wrote, decoded, in the reference's order of rows. `lse` is empty where it was not
// asked for.
struct Outputs {
  std::vector<double> o;
  std::vector<double> lse;
};

// Reads o and lse of `problem` from its host memory.
Outputs ReadOutputs(const tessera_attention_problem& problem);

// Rows (sequence, query, head) of `problem` as "sequence 1, query 3, head 0".
std::string DescribeRow(const tessera_attention_problem& problem, int64_t row);

struct ErrorBounds {
  double relative;  // of all of o, Frobenius norm
  double row;       // of the worst (row, head)
  double lse;       // times max(1, |lse|)
  // Allowed on top, in absolute terms, by row: of |o - reference|, of |lse - reference|. Empty: nothing. The
  // error of all of o may be as large as the largest row_slack.
  std::vector<double> row_slack = {}, lse_slack = {};
};

// The bounds for inputs and outputs of these dtypes, whichever of them allows more; five times as much for a
// row. Those for fp8 hold of many outputs: fewer than a thousand may stray further from what is expected of
// them, but not so a row's.
ErrorBounds BoundsFor(tessera_dtype input, tessera_dtype output, int64_t num_outputs);

// `bounds`, widened where plain fp32 arithmetic itself strays on this problem: to twice its error, and for a
// row by four times what rounding its logits may be expected to do, six standard deviations of it. (One run
// of fp32 is no measure for a row: where few keys count, its error is luck.) For problems other than
// unit-normal ones of usual size.
ErrorBounds WidenToFp32(const tessera_attention_problem& problem, const ReferenceResult& reference,
                        ErrorBounds bounds);

struct ErrorReport {
  double relative = 0;   // of all finite rows
  double worst_row = 0;  // largest |o - reference| / max(|reference|, row_size, what o's dtype can resolve)
  double worst_lse = 0;  // largest |lse - reference| / max(1, |reference|)
  std::string failure;   // empty when within bounds; else what is wrong and where
};

// First NaN and infinities, which must be where the reference has them; then rows that the reference has as
// zero, which must be exactly zero; then the errors. A logit of +Inf makes a row of NaN, whose lse may be NaN
// or +Inf.
ErrorReport CompareOutputs(const tessera_attention_problem& problem, const ReferenceResult& reference,
                           const Outputs& actual, const ErrorBounds& bounds);

}  // namespace tessera::testing
