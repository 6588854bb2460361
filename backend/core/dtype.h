// Element types: sizes, names and the set operations that capabilities need.
#pragma once

#include <cstdint>
#include <string>

#include "tessera/attention.h"

namespace tessera {

using DType = tessera_dtype;

// Bytes of one element; 0 for INVALID.
int64_t DTypeSize(DType dtype);

// "fp32", "fp16", "bf16", "fp8_e4m3", "bool"; "invalid(<n>)" for any other value.
std::string DTypeName(DType dtype);

// Bit of `dtype` in tessera_capabilities::input_dtypes and output_dtypes.
constexpr uint32_t DTypeBit(DType dtype) { return uint32_t{1} << static_cast<int32_t>(dtype); }

// "fp32, fp16, bf16" for a set of bits.
std::string DTypeSetNames(uint32_t bits);

}  // namespace tessera
