// gRPC byte buffers <-> messages: the one place that parses and serialises messages with tensors in them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/arena.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "server/attend_envelope.h"
#include "server/output_memory.h"
#include "server/payload.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {

// OK, or RESOURCE_EXHAUSTED, reason MESSAGE_TOO_LARGE, with limit and actual size.
absl::Status CheckMessageSize(const grpc::ByteBuffer& bytes, int64_t max_bytes);

// Parses `bytes`, after checking their size. INVALID_ARGUMENT, reason MALFORMED_MESSAGE, when they are no
// message of that type.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, int64_t max_bytes,
                          google::protobuf::MessageLite& message);

// The id of the AttendRequest in `bytes`, without reading past it: encoders write it first. Empty where it
// has none of up to `max_id_bytes` bytes, or is no message.
std::string ReadRequestId(const grpc::ByteBuffer& bytes, size_t max_id_bytes);

// A parsed request and the payload that its tensors index: raw_index i is payload entry i. The payload lies
// where gRPC put it, in buffers that this keeps.
class WireRequest {
 public:
  // An AttendRequest. Agrees with protobuf's parser on every message within its limits. RESOURCE_EXHAUSTED
  // and INVALID_ARGUMENT as ParseMessage, or past the limits of OpenAttendEnvelope.
  static absl::StatusOr<std::unique_ptr<WireRequest>> Parse(const grpc::ByteBuffer& bytes, int64_t max_bytes);
  // The one in an ExplainRequest, likewise. INVALID_ARGUMENT, reason REQUEST_MISSING, where there is none.
  static absl::StatusOr<std::unique_ptr<WireRequest>> ParseExplain(const grpc::ByteBuffer& bytes,
                                                                   int64_t max_bytes);

  const v1::AttendRequest& header() const { return *header_; }  // all but `raw`
  // Once. Its memory lives until ReleaseBuffers, or as long as this.
  std::vector<Payload> TakePayload() { return std::move(payload_); }
  void ReleaseBuffers() { slices_.clear(); }

 private:
  WireRequest();
  static google::protobuf::ArenaOptions ArenaAt(char* block, size_t bytes);
  // Keeps the slices of `bytes`, within its limit; where their bytes lie.
  absl::StatusOr<std::vector<HostSpan>> Keep(const grpc::ByteBuffer& bytes, int64_t max_bytes);
  absl::Status Take(AttendEnvelope envelope, size_t message_bytes);

  alignas(8) char block_[1024];  // holds the header of a plain request
  google::protobuf::Arena arena_;
  v1::AttendRequest* header_;
  std::vector<grpc::Slice> slices_;  // short ones hold their bytes themselves: never moved one by one
  std::vector<Payload> payload_;
};

// The wire form of `header` with `payload` as its field `raw`; the payload is shared, not copied.
grpc::ByteBuffer SerializeReply(const v1::AttendResponse& header, std::vector<OutputBytes> payload);

grpc::ByteBuffer SerializeMessage(const google::protobuf::MessageLite& message);

}  // namespace tessera
