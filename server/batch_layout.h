// How a wire layout (packed, BSHD, BHSD) becomes begins and strides of an AttentionProblem.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/tensor_codec.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {

// OK for a layout of the proto; INVALID_ARGUMENT, by number, for another value.
absl::Status CheckLayout(v1::Layout layout);

// 3 when packed, else 4.
int RankOf(v1::Layout layout);

// The extents of an operand by their meaning. A packed tensor is one batch row.
struct BatchExtents {
  int64_t batch, tokens, heads, dim;
};
BatchExtents ExtentsOf(v1::Layout layout, const HostTensor& tensor);

// The shape of a tensor of these extents; without its last dimension for dim < 0.
std::vector<int64_t> ShapeOf(v1::Layout layout, const BatchExtents& extents);

// Strides of a (token, head, dim) view. Batch row b begins at token b * batch_tokens, in units of
// token_stride: the same number for every tensor of equal batch, tokens and heads, which is what lets q, o
// and lse share q_begin, and k and v kv_begin.
struct TokenStrides {
  int64_t token_stride, head_stride, batch_tokens;
};
TokenStrides ContiguousTokenStrides(v1::Layout layout, const BatchExtents& extents, bool has_dim = true);

// The view of `tensor`. Its own strides are used where batch rows lie batch_tokens apart; otherwise (a
// transposed or cropped padded tensor) `tensor` is changed to a contiguous one, whose source gathers the rows
// as they are copied. INVALID_ARGUMENT when it would have to grow for that: strides that repeat elements.
absl::StatusOr<TokenStrides> ViewTokens(const std::string& field, v1::Layout layout, HostTensor& tensor);

}  // namespace tessera
