// The element types as a test sees them: decoding any element to double, encoding one with correct rounding.
// Written for clarity and shared with no kernel.
#pragma once

#include <cstdint>

#include "tessera/attention.h"

namespace tessera::testing {

// Element `index` of an array of `dtype`: fp32, fp16, bf16, fp8 (its code, without a scale) or bool.
double ReadElement(const void* data, tessera_dtype dtype, int64_t index);

// Rounds `value` to nearest even in `dtype` and stores it there; NaN and infinities keep their kind,
// but that fp8 has no infinity: its largest number stands in.
void WriteElement(void* data, tessera_dtype dtype, int64_t index, double value);

// The largest relative error of rounding once to an output dtype: 2^-24, 2^-11, 2^-8.
double UnitRoundoff(tessera_dtype dtype);

// The smallest positive normal number; below it, rounding errors are absolute.
double SmallestNormal(tessera_dtype dtype);

}  // namespace tessera::testing
