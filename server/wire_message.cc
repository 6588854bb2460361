#include "server/wire_message.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "server/attend_envelope.h"
#include "server/request_codec.h"

namespace tessera {
namespace {

using google::protobuf::internal::WireFormatLite;

// Q, K, V and a mask for each sequence: no request that is good has more.
constexpr size_t kMaxPayloads = 3 + static_cast<size_t>(kMaxSequences);

// Tag and length of one entry of AttendResponse.raw.
std::string RawPrefix(int64_t bytes) {
  using google::protobuf::io::CodedOutputStream;
  constexpr uint32_t kTag =
      WireFormatLite::MakeTag(v1::AttendResponse::kRawFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  uint8_t prefix[5 + 10];  // the longest varints of 32 and of 64 bits
  uint8_t* end = CodedOutputStream::WriteTagToArray(kTag, prefix);
  end = CodedOutputStream::WriteVarint64ToArray(static_cast<uint64_t>(bytes), end);
  return std::string(prefix, end);
}

// `message` and, behind it, `suffix`.
grpc::Slice SerializeToSlice(const google::protobuf::MessageLite& message, const std::string& suffix = "") {
  const size_t bytes = message.ByteSizeLong();
  grpc::Slice slice(bytes + suffix.size());
  auto* const to = const_cast<uint8_t*>(slice.begin());  // nobody else has it yet
  message.SerializeWithCachedSizesToArray(to);
  std::copy(suffix.begin(), suffix.end(), to + bytes);
  return slice;
}

bool ParseHeader(const AttendEnvelope& envelope, v1::AttendRequest& header) {
  if (envelope.header.empty()) return true;
  const auto bytes = static_cast<int>(envelope.header_bytes);
  if (envelope.header.size() == 1) return header.ParseFromArray(envelope.header.front().data, bytes);
  std::string gathered;
  gathered.reserve(static_cast<size_t>(bytes));
  for (const HostSpan& span : envelope.header) {
    gathered.append(reinterpret_cast<const char*>(span.data), static_cast<size_t>(span.bytes));
  }
  return header.ParseFromString(gathered);
}

grpc::Slice ToSlice(OutputBytes output) {
  auto* owner = new OutputBytes(std::move(output));
  return grpc::Slice(
      owner->data(), static_cast<size_t>(owner->bytes()),
      [](void* owned) { delete static_cast<OutputBytes*>(owned); }, owner);
}

}  // namespace

absl::Status CheckMessageSize(const grpc::ByteBuffer& bytes, int64_t max_bytes) {
  const auto actual = static_cast<int64_t>(bytes.Length());
  if (actual <= max_bytes) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("message: expected at most ", max_bytes, " bytes (--max-message-bytes), got ", actual),
      {.reason = "MESSAGE_TOO_LARGE",
       .metadata = {{"limit", "max-message-bytes"},
                    {"expected", absl::StrCat("at most ", max_bytes)},
                    {"actual", absl::StrCat(actual)}},
       .retry_after = std::nullopt});
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, int64_t max_bytes,
                          google::protobuf::MessageLite& message) {
  TESSERA_RETURN_IF_ERROR(CheckMessageSize(bytes, max_bytes));
  if (bytes.Length() == 0) return absl::OkStatus();  // a message of defaults
  grpc::ByteBuffer view(bytes);                      // shares the slices; the reader wants a mutable buffer
  grpc::ProtoBufferReader reader(&view);
  if (reader.status().ok() && message.ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return MalformedMessage(message.GetTypeName(), static_cast<int64_t>(bytes.Length()));
}

std::string ReadRequestId(const grpc::ByteBuffer& bytes, size_t max_id_bytes) {
  constexpr uint32_t kIdTag =
      WireFormatLite::MakeTag(v1::AttendRequest::kIdFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  if (bytes.Length() == 0) return "";
  grpc::ByteBuffer view(bytes);
  grpc::ProtoBufferReader reader(&view);
  if (!reader.status().ok()) return "";
  google::protobuf::io::CodedInputStream in(&reader);
  while (const uint32_t tag = in.ReadTag()) {
    if (tag != kIdTag) {
      if (!WireFormatLite::SkipField(&in, tag)) return "";
      continue;
    }
    std::string id;
    uint32_t length = 0;
    const bool read =
        in.ReadVarint32(&length) && length <= max_id_bytes && in.ReadString(&id, static_cast<int>(length));
    // It goes into a reply, whose strings must be UTF-8.
    const bool good = read && WireFormatLite::VerifyUtf8String(id.data(), static_cast<int>(length),
                                                               WireFormatLite::PARSE, "id");
    return good ? id : "";
  }
  return "";
}

google::protobuf::ArenaOptions WireRequest::ArenaAt(char* block, size_t bytes) {
  google::protobuf::ArenaOptions options;
  options.initial_block = block;
  options.initial_block_size = bytes;
  return options;
}

absl::StatusOr<std::unique_ptr<WireRequest>> WireRequest::Parse(const grpc::ByteBuffer& bytes,
                                                                int64_t max_bytes) {
  TESSERA_RETURN_IF_ERROR(CheckMessageSize(bytes, max_bytes));
  std::unique_ptr<WireRequest> request(new WireRequest);
  request->header_ = google::protobuf::Arena::CreateMessage<v1::AttendRequest>(&request->arena_);
  if (bytes.Length() == 0) return request;  // a message of defaults
  if (!bytes.Dump(&request->slices_).ok()) {
    return absl::InternalError("gRPC does not show the message's bytes");
  }
  std::vector<HostSpan> spans;
  spans.reserve(request->slices_.size());
  for (const grpc::Slice& slice : request->slices_) {
    spans.push_back({reinterpret_cast<const std::byte*>(slice.begin()), static_cast<int64_t>(slice.size())});
  }
  TESSERA_ASSIGN_OR_RETURN(AttendEnvelope envelope, OpenAttendEnvelope(spans, kMaxPayloads));
  if (!ParseHeader(envelope, *request->header_)) {
    return MalformedMessage(request->header_->GetTypeName(), static_cast<int64_t>(bytes.Length()));
  }
  request->payload_ = std::move(envelope.payload);
  return request;
}

grpc::ByteBuffer SerializeReply(const v1::AttendResponse& header, std::vector<OutputBytes> payload) {
  std::vector<grpc::Slice> slices;
  slices.reserve(1 + 2 * payload.size());
  if (payload.empty()) slices.push_back(SerializeToSlice(header));
  for (OutputBytes& output : payload) {
    const std::string prefix = RawPrefix(output.bytes());
    slices.push_back(slices.empty() ? SerializeToSlice(header, prefix) : grpc::Slice(prefix));
    if (output.bytes() > 0) slices.push_back(ToSlice(std::move(output)));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice = SerializeToSlice(message);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace tessera
