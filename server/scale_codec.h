// The scales of fp8 inputs on the wire -> those of an AttentionProblem.
#pragma once

#include "absl/status/status.h"
#include "server/request_codec.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {

// Copies q_scales, k_scales and v_scales into `request`, whose sequences and head counts are known, and
// points its problem at them. INVALID_ARGUMENT for a number of entries that is none of 0, 1, the heads, and
// the heads times the sequences. Validate() judges the values, and whether the inputs are fp8 at all.
absl::Status DecodeScales(const v1::AttendRequest& header, DecodedRequest& request);

}  // namespace tessera
