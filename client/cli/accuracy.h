// How far a result is from the oracle's, and how far it may be (DESIGN 7.16).
#pragma once

#include <cstdint>
#include <string>

#include "client/attend_call.h"

namespace tessera::client {

struct Accuracy {
  double relative = 0;  // Frobenius norm of the difference over that of the reference
  double worst_row =
      0;           // the same of the worst (token, head) row; rows that fp16 cannot resolve count as larger
  double lse = 0;  // largest |difference| / max(1, |reference|)
  // What no tolerance covers, in words; empty when there is none: another shape, NaN or infinity on one side
  // only, a row without keys that is not exactly zero.
  std::string defect;

  // The larger of each number; the first defect.
  void Merge(const Accuracy& other);
};

// `reference`: fp32. LSE is compared when both have one.
Accuracy Compare(const AttendResult& actual, const AttendResult& reference);

struct Bounds {
  double relative, worst_row, lse;
};
// For results of so many elements whose least precise type, of input and output, is `dtype`: fp32, fp16, bf16
// or fp8. The relative bound speaks of roundings that average out; a few elements may all round badly, and
// get twice of it.
Bounds BoundsOf(DType dtype, int64_t elements);
// The less precise of the two.
DType LessPrecise(DType a, DType b);

// "" when `accuracy` is within `bounds`, else the first thing that is not.
std::string Violation(const Accuracy& accuracy, const Bounds& bounds);

}  // namespace tessera::client
