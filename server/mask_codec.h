// Dense masks of a request -> per-sequence offsets and strides of the problem.
#pragma once

#include "absl/status/status.h"
#include "server/batch_layout.h"
#include "server/request_codec.h"

namespace tessera {

// Decodes header.masks into `request`, whose sequences are filled but for their masks. `q` and `kv` are the
// extents of the operands. Shapes broadcast as in NumPy, to (batch, q_heads, q tokens, kv tokens) when padded
// and to (q_heads, q_len, kv_len) of every sequence that a mask is for when packed.
absl::Status DecodeMasks(const v1::AttendRequest& header, const BatchExtents& q, const BatchExtents& kv,
                         PayloadReader& payload, DecodedRequest& request);

}  // namespace tessera
