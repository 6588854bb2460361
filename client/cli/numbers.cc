#include "client/cli/numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "client/tensor_files/float_bits.h"

namespace tessera::client {

std::vector<float> ToFloats(const Tensor& tensor) {
  const auto size = static_cast<size_t>(DTypeSize(tensor.dtype));
  std::vector<float> values(tensor.bytes.size() / size);
  if (tensor.dtype == v1::DATA_TYPE_FP32) {
    if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(float));
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, tensor.bytes.data() + i * size, sizeof(bits));
    values[i] = tensor.dtype == v1::DATA_TYPE_BF16 ? Bf16ToFloat(bits) : Fp16ToFloat(bits);
  }
  return values;
}

Tensor FromFloats(const std::vector<float>& values, DType dtype, std::vector<int64_t> shape) {
  const auto size = static_cast<size_t>(DTypeSize(dtype));
  Tensor tensor{dtype, std::move(shape), std::string(values.size() * size, '\0')};
  if (dtype == v1::DATA_TYPE_FP32) {
    if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    return tensor;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = dtype == v1::DATA_TYPE_BF16 ? FloatToBf16(values[i]) : FloatToFp16(values[i]);
    std::memcpy(tensor.bytes.data() + i * size, &bits, sizeof(bits));
  }
  return tensor;
}

TensorSummary Summarize(const Tensor& tensor) {
  TensorSummary summary;
  double sum = 0, squares = 0;
  int64_t count = 0;
  summary.min = std::numeric_limits<double>::infinity();
  summary.max = -summary.min;
  for (float element : ToFloats(tensor)) {
    const double value = element;
    if (!std::isfinite(value)) {
      ++summary.not_finite;
      continue;
    }
    ++count;
    sum += value;
    squares += value * value;
    summary.min = std::min(summary.min, value);
    summary.max = std::max(summary.max, value);
  }
  if (count == 0) return {0, 0, 0, 0, summary.not_finite};
  summary.mean = sum / static_cast<double>(count);
  summary.deviation =
      std::sqrt(std::max(0.0, squares / static_cast<double>(count) - summary.mean * summary.mean));
  return summary;
}

}  // namespace tessera::client
