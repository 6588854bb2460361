// A tensor's elements as floats, and what they look like in one line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/tensor.h"

namespace tessera::client {

// fp32, fp16 or bf16 elements, in order.
std::vector<float> ToFloats(const Tensor& tensor);
// `values` rounded to `dtype` (fp32, fp16 or bf16); their number is the product of `shape`.
Tensor FromFloats(const std::vector<float>& values, DType dtype, std::vector<int64_t> shape);

struct TensorSummary {
  double mean = 0, deviation = 0, min = 0, max = 0;  // of the finite elements; 0 when there are none
  int64_t not_finite = 0;
};
TensorSummary Summarize(const Tensor& tensor);

}  // namespace tessera::client
