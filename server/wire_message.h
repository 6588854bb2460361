// gRPC byte buffers <-> messages: the one place that parses and serialises messages with tensors in them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/arena.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/host_buffer.h"
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

// A parsed request and the payload that its tensors index: raw_index i is payload()[i]. Owns both.
class WireRequest {
 public:
  static absl::StatusOr<std::unique_ptr<WireRequest>> Parse(const grpc::ByteBuffer& bytes, int64_t max_bytes);

  const v1::AttendRequest& header() const { return *header_; }
  const std::vector<HostSpan>& payload() const { return payload_; }
  // Payload bytes that parsing copied from gRPC's buffers.
  int64_t copied_bytes() const { return copied_bytes_; }

 private:
  WireRequest() = default;

  google::protobuf::Arena arena_;
  v1::AttendRequest* header_ = nullptr;
  std::vector<HostSpan> payload_;
  int64_t copied_bytes_ = 0;
};

// The wire form of `header` with `payload` as its field `raw`; the payload is handed over, not copied.
grpc::ByteBuffer SerializeReply(const v1::AttendResponse& header, std::vector<HostBuffer> payload);

grpc::ByteBuffer SerializeMessage(const google::protobuf::MessageLite& message);

}  // namespace tessera
