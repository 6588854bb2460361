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

// Bit of `dtype` in tessera_capabilities::input_dtypes and output_dtypes; 0 for a value that is no dtype.
constexpr uint32_t DTypeBit(DType dtype) {
  return dtype > TESSERA_DTYPE_INVALID && dtype <= TESSERA_DTYPE_BOOL
             ? uint32_t{1} << static_cast<int32_t>(dtype)
             : 0;
}

// "fp32, fp16, bf16" for a set of bits; "none" for 0.
std::string DTypeSetNames(uint32_t bits);

}  // namespace tessera
