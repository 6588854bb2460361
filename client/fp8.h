// Floating tensors as fp8 ones with a scale for each head.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "client/tensor.h"
#include "tessera/v1/attention.pb.h"

namespace tessera::client {

// A tensor, and what its elements are multiplied by where it is fp8: AttendCall's q_scales, k_scales and
// v_scales say how many there may be. Empty: 1, and always for other dtypes.
struct ScaledTensor {
  Tensor tensor;
  std::vector<float> scales;
};

// `tensor`, fp32 and laid out as `layout` says, rounded to e4m3 with one scale for each head: its largest
// finite magnitude over 448, so that the whole range is used. Infinities become the largest number, NaN stays
// NaN. INVALID_ARGUMENT for another dtype or rank.
absl::StatusOr<ScaledTensor> QuantizeFp8(const Tensor& tensor, v1::Layout layout);

}  // namespace tessera::client
