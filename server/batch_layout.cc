#include "server/batch_layout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

// Product of the extents, which DecodeTensor has checked to fit.
int64_t ElementCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// Makes a (d0, d1, d2, d3) tensor contiguous: its rows are put together as they are copied.
absl::Status Gather(const std::string& field, HostTensor& tensor) {
  const int64_t count = ElementCount(tensor.shape);
  if (count > tensor.num_elements) {
    return InvalidArgument("STRIDES_UNSUPPORTED", absl::StrCat(field, ".strides"),
                           "strides that repeat no element, or a contiguous tensor",
                           absl::StrCat(ShapeText(tensor.strides), " for shape ", ShapeText(tensor.shape)));
  }
  const int64_t element = DTypeSize(tensor.dtype);
  const auto& shape = tensor.shape;
  const auto& strides = tensor.strides;
  tensor.source.Rearrange({.extents = {shape[0], shape[1], shape[2]},
                           .strides = {strides[0] * element, strides[1] * element, strides[2] * element},
                           .row_bytes = shape[3] * element});
  tensor.strides = ContiguousStrides(tensor.shape);
  tensor.num_elements = count;
  return absl::OkStatus();
}

// Index of the token dimension; heads are the other one of the middle two, or the one after when packed.
int TokenDim(v1::Layout layout) {
  if (layout == v1::LAYOUT_PACKED) return 0;
  return layout == v1::LAYOUT_BSHD ? 1 : 2;
}
int HeadDim(v1::Layout layout) {
  if (layout == v1::LAYOUT_BHSD) return 1;
  return layout == v1::LAYOUT_BSHD ? 2 : 1;
}

}  // namespace

absl::Status CheckLayout(v1::Layout layout) {
  if (v1::Layout_IsValid(layout)) return absl::OkStatus();
  return InvalidArgument("LAYOUT_UNKNOWN", "layout", absl::StrCat("a Layout in 0..", int{v1::Layout_MAX}),
                         absl::StrCat(static_cast<int>(layout)));
}

int RankOf(v1::Layout layout) { return layout == v1::LAYOUT_PACKED ? 3 : 4; }

BatchExtents ExtentsOf(v1::Layout layout, const HostTensor& tensor) {
  const auto token = static_cast<size_t>(TokenDim(layout));
  const auto head = static_cast<size_t>(HeadDim(layout));
  return {.batch = layout == v1::LAYOUT_PACKED ? 1 : tensor.shape.front(),
          .tokens = tensor.shape[token],
          .heads = tensor.shape[head],
          .dim = tensor.shape.back()};
}

std::vector<int64_t> ShapeOf(v1::Layout layout, const BatchExtents& e) {
  std::vector<int64_t> shape;
  switch (layout) {
    case v1::LAYOUT_BSHD:
      shape = {e.batch, e.tokens, e.heads, e.dim};
      break;
    case v1::LAYOUT_BHSD:
      shape = {e.batch, e.heads, e.tokens, e.dim};
      break;
    default:
      shape = {e.tokens, e.heads, e.dim};
  }
  if (e.dim < 0) shape.pop_back();
  return shape;
}

TokenStrides ContiguousTokenStrides(v1::Layout layout, const BatchExtents& e, bool has_dim) {
  const int64_t row = has_dim ? e.dim : 1;
  if (layout == v1::LAYOUT_BHSD) {
    return {.token_stride = row, .head_stride = e.tokens * row, .batch_tokens = e.heads * e.tokens};
  }
  return {.token_stride = e.heads * row, .head_stride = row, .batch_tokens = e.tokens};
}

absl::StatusOr<TokenStrides> ViewTokens(const std::string& field, v1::Layout layout, HostTensor& tensor) {
  const BatchExtents extents = ExtentsOf(layout, tensor);
  TokenStrides view = ContiguousTokenStrides(layout, extents);
  if (tensor.num_elements == 0) return view;  // nothing to address
  const int64_t token_stride = tensor.strides[static_cast<size_t>(TokenDim(layout))];
  const int64_t head_stride = tensor.strides[static_cast<size_t>(HeadDim(layout))];
  const bool fits =
      extents.batch == 1 || SaturatingMultiply(token_stride, view.batch_tokens) == tensor.strides.front();
  if (!fits) {
    TESSERA_RETURN_IF_ERROR(Gather(field, tensor));
    return view;
  }
  view.token_stride = token_stride;
  view.head_stride = head_stride;
  return view;
}

}  // namespace tessera
