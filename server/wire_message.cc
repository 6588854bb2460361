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
#include "server/request_codec.h"

namespace tessera {
namespace {

using google::protobuf::internal::WireFormatLite;

// No good request has more payloads than Q, K, V and a mask for each sequence, or twice the same output; the
// lengths, offsets and masks of a million sequences have room in the header.
constexpr EnvelopeLimits kEnvelopeLimits{.payloads = 3 + static_cast<size_t>(kMaxSequences),
                                         .masks = static_cast<size_t>(kMaxSequences),
                                         .outputs = 16,
                                         .header_bytes = int64_t{32} << 20,
                                         .explain_parts = 16};

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

WireRequest::WireRequest()
    : arena_(ArenaAt(block_, sizeof(block_))),
      header_(google::protobuf::Arena::CreateMessage<v1::AttendRequest>(&arena_)) {}

absl::StatusOr<std::vector<HostSpan>> WireRequest::Keep(const grpc::ByteBuffer& bytes, int64_t max_bytes) {
  TESSERA_RETURN_IF_ERROR(CheckMessageSize(bytes, max_bytes));
  std::vector<HostSpan> spans;
  if (bytes.Length() == 0) return spans;  // a message of defaults
  if (!bytes.Dump(&slices_).ok()) return absl::InternalError("gRPC does not show the message's bytes");
  spans.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    spans.push_back({reinterpret_cast<const std::byte*>(slice.begin()), static_cast<int64_t>(slice.size())});
  }
  return spans;
}

absl::Status WireRequest::Take(AttendEnvelope envelope, size_t message_bytes) {
  if (!ParseHeader(envelope, *header_)) {
    return MalformedMessage(header_->GetTypeName(), static_cast<int64_t>(message_bytes));
  }
  payload_ = std::move(envelope.payload);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WireRequest>> WireRequest::Parse(const grpc::ByteBuffer& bytes,
                                                                int64_t max_bytes) {
  std::unique_ptr<WireRequest> request(new WireRequest);
  TESSERA_ASSIGN_OR_RETURN(const std::vector<HostSpan> spans, request->Keep(bytes, max_bytes));
  TESSERA_ASSIGN_OR_RETURN(AttendEnvelope envelope, OpenAttendEnvelope(spans, kEnvelopeLimits));
  TESSERA_RETURN_IF_ERROR(request->Take(std::move(envelope), bytes.Length()));
  return request;
}

absl::StatusOr<std::unique_ptr<WireRequest>> WireRequest::ParseExplain(const grpc::ByteBuffer& bytes,
                                                                       int64_t max_bytes) {
  std::unique_ptr<WireRequest> request(new WireRequest);
  TESSERA_ASSIGN_OR_RETURN(const std::vector<HostSpan> spans, request->Keep(bytes, max_bytes));
  TESSERA_ASSIGN_OR_RETURN(auto envelope, OpenExplainEnvelope(spans, kEnvelopeLimits));
  if (!envelope) return InvalidArgument("REQUEST_MISSING", "request", "an AttendRequest", "none");
  TESSERA_RETURN_IF_ERROR(request->Take(*std::move(envelope), bytes.Length()));
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
