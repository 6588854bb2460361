#include "client/fp8.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "tessera/e4m3.hpp"

namespace tessera::client {
namespace {

// Calls visit(i, head) for each element.
template <typename Visit>
void ForEachElement(size_t count, size_t heads, size_t elements_per_head, const Visit& visit) {
  for (size_t i = 0; i < count; ++i) visit(i, i / elements_per_head % heads);
}

}  // namespace

absl::StatusOr<ScaledTensor> QuantizeFp8(const Tensor& tensor, v1::Layout layout) {
  const size_t rank = layout == v1::LAYOUT_PACKED ? 3 : 4;
  const size_t head_axis = layout == v1::LAYOUT_BSHD ? 2 : 1;
  TESSERA_TRY(tensor.view().Validate("tensor"));
  if (tensor.dtype != v1::DATA_TYPE_FP32 || tensor.shape.size() != rank) {
    return absl::InvalidArgumentError(absl::StrCat("expected an fp32 tensor of rank ", rank, ", got ",
                                                   DTypeName(tensor.dtype), " ", ShapeString(tensor.shape)));
  }
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  ScaledTensor result{{v1::DATA_TYPE_FP8_E4M3, tensor.shape, std::string(values.size(), '\0')}, {}};
  if (values.empty()) return result;

  const auto heads = static_cast<size_t>(tensor.shape[head_axis]);
  size_t elements_per_head = 1;
  for (size_t axis = head_axis + 1; axis < rank; ++axis) {
    elements_per_head *= static_cast<size_t>(tensor.shape[axis]);
  }
  std::vector<float> largest(heads, 0.0f);
  ForEachElement(values.size(), heads, elements_per_head, [&](size_t i, size_t head) {
    if (std::isfinite(values[i])) largest[head] = std::max(largest[head], std::fabs(values[i]));
  });
  for (const float magnitude : largest) {
    // A scale is above 0, and a normal number for the division's sake.
    result.scales.push_back(
        magnitude == 0 ? 1.0f : std::max(magnitude / kE4M3Max, std::numeric_limits<float>::min()));
  }
  ForEachElement(values.size(), heads, elements_per_head, [&](size_t i, size_t head) {
    result.tensor.bytes[i] = static_cast<char>(FloatToE4M3(values[i] / result.scales[head]));
  });
  return result;
}

}  // namespace tessera::client
