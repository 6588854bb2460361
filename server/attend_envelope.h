// The wire form of an AttendRequest, taken apart without touching its payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/payload.h"

namespace tessera {

// Non-owning parts of a message.
struct AttendEnvelope {
  // Everything but the fields `raw`, in order: a message of its own, for protobuf to judge.
  std::vector<HostSpan> header;
  int64_t header_bytes = 0;
  std::vector<Payload> payload;  // the fields `raw`, in order
};

// What a parser says of `bytes` bytes that are no message of that type: INVALID_ARGUMENT, MALFORMED_MESSAGE.
absl::Status MalformedMessage(const std::string& type_name, int64_t bytes);

// What a message may ask protobuf to make: two bytes on the wire can become a hundred in memory.
struct EnvelopeLimits {
  size_t payloads, masks, outputs;  // entries of `raw`, `masks` and `outputs`
  int64_t header_bytes;             // but for scales, which take no more in memory
  size_t explain_parts;             // fields `request` of an ExplainRequest
};

// Finds the fields of the AttendRequest in `slices` by the rules of protobuf's own parser: a message that it
// would accept is taken apart as it would be, and of any other either this refuses or `header` is one that it
// refuses. MalformedMessage; or INVALID_ARGUMENT, reason TOO_MANY_PAYLOADS, TOO_MANY_MASKS, TOO_MANY_OUTPUTS
// or HEADER_TOO_LARGE, past `limits`.
absl::StatusOr<AttendEnvelope> OpenAttendEnvelope(std::span<const HostSpan> slices,
                                                  const EnvelopeLimits& limits);

// The same for the request in the ExplainRequest in `slices`; nothing, where it has none. Protobuf's limit of
// 100 messages and groups inside each other counts from the request here. TOO_MANY_PARTS past its limit.
absl::StatusOr<std::optional<AttendEnvelope>> OpenExplainEnvelope(std::span<const HostSpan> slices,
                                                                  const EnvelopeLimits& limits);

}  // namespace tessera
