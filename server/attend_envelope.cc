#include "server/attend_envelope.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {
namespace {

using google::protobuf::internal::WireFormatLite;

// The tag of a field of messages or bytes.
constexpr uint32_t LengthDelimited(int field_number) {
  return WireFormatLite::MakeTag(field_number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}
constexpr uint32_t kRawTag = LengthDelimited(v1::AttendRequest::kRawFieldNumber);
constexpr uint32_t kMasksTag = LengthDelimited(v1::AttendRequest::kMasksFieldNumber);
constexpr uint32_t kOutputsTag = LengthDelimited(v1::AttendRequest::kOutputsFieldNumber);
constexpr uint32_t kExplainedTag = LengthDelimited(v1::ExplainRequest::kRequestFieldNumber);

// What protobuf's parser (parse_context.h) reads of a tag, a length and any other varint; and the longest
// length that it takes, which keeps clear of the int range by the slop of its buffers.
constexpr int kMaxTagBytes = 5;
constexpr int kMaxVarintBytes = 10;
constexpr uint64_t kMaxLength = std::numeric_limits<int32_t>::max() - 16;

// A place in a message. Reads nothing past its end.
class Cursor {
 public:
  explicit Cursor(std::span<const HostSpan> slices) : slices_(slices) {
    for (const HostSpan& slice : slices) left_ += slice.bytes;
    SkipEmptySlices();
  }

  int64_t left() const { return left_; }

  bool ReadByte(uint8_t& byte) {
    if (left_ == 0) return false;
    byte = static_cast<uint8_t>(slices_.front().data[offset_]);
    Advance(1);
    return true;
  }

  // Moves over the next `bytes`, and tells `visit` where they lie.
  template <typename Visit>
  bool Take(int64_t bytes, Visit visit) {
    if (bytes > left_) return false;
    while (bytes > 0) {
      const int64_t length = std::min(bytes, slices_.front().bytes - offset_);
      visit(HostSpan{slices_.front().data + offset_, length});
      Advance(length);
      bytes -= length;
    }
    return true;
  }

 private:
  // Within the first slice, or to its end.
  void Advance(int64_t bytes) {
    offset_ += bytes;
    left_ -= bytes;
    if (offset_ < slices_.front().bytes) return;
    slices_ = slices_.subspan(1);
    offset_ = 0;
    SkipEmptySlices();
  }
  void SkipEmptySlices() {
    while (!slices_.empty() && slices_.front().bytes == 0) slices_ = slices_.subspan(1);
  }

  std::span<const HostSpan> slices_;
  int64_t offset_ = 0;  // in the first of them
  int64_t left_ = 0;
};

// Bits past the 64th are dropped, as protobuf does.
bool ReadVarint(Cursor& cursor, int max_bytes, uint64_t& value) {
  value = 0;
  for (int i = 0; i < max_bytes; ++i) {
    uint8_t byte = 0;
    if (!cursor.ReadByte(byte)) return false;
    value |= uint64_t{byte & 0x7fu} << (7 * i);
    if (byte < 0x80) return true;
  }
  return false;
}

// The tag's bits past the 32nd are dropped; a field number of 0 is none.
bool ReadTag(Cursor& cursor, uint32_t& tag) {
  uint64_t value = 0;
  if (!ReadVarint(cursor, kMaxTagBytes, value)) return false;
  tag = static_cast<uint32_t>(value);
  return WireFormatLite::GetTagFieldNumber(tag) != 0;
}

bool ReadLength(Cursor& cursor, int64_t& length) {
  uint64_t value = 0;
  if (!ReadVarint(cursor, kMaxTagBytes, value) || value > kMaxLength) return false;
  length = static_cast<int64_t>(value);
  return true;
}

void Ignore(const HostSpan&) {}

// Moves over the value of a field that is no group.
bool SkipValue(Cursor& cursor, uint32_t tag) {
  uint64_t value = 0;
  int64_t length = 0;
  switch (WireFormatLite::GetTagWireType(tag)) {
    case WireFormatLite::WIRETYPE_VARINT:
      return ReadVarint(cursor, kMaxVarintBytes, value);
    case WireFormatLite::WIRETYPE_FIXED64:
      return cursor.Take(8, Ignore);
    case WireFormatLite::WIRETYPE_FIXED32:
      return cursor.Take(4, Ignore);
    case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
      return ReadLength(cursor, length) && cursor.Take(length, Ignore);
    default:
      return false;
  }
}

// Moves over a group, whose first tag has been read, to behind the tag that ends it.
bool SkipGroup(Cursor& cursor, uint32_t start_tag) {
  const auto max_depth =
      static_cast<size_t>(google::protobuf::io::CodedInputStream::GetDefaultRecursionLimit());
  std::vector<uint32_t> open = {start_tag};
  while (!open.empty()) {
    uint32_t tag = 0;
    if (open.size() > max_depth || !ReadTag(cursor, tag)) return false;
    const auto type = WireFormatLite::GetTagWireType(tag);
    if (type == WireFormatLite::WIRETYPE_START_GROUP) {
      open.push_back(tag);
    } else if (type == WireFormatLite::WIRETYPE_END_GROUP) {
      if (WireFormatLite::GetTagFieldNumber(tag) != WireFormatLite::GetTagFieldNumber(open.back())) {
        return false;
      }
      open.pop_back();
    } else if (!SkipValue(cursor, tag)) {
      return false;
    }
  }
  return true;
}

bool SkipField(Cursor& cursor, uint32_t tag) {
  return WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_START_GROUP ? SkipGroup(cursor, tag)
                                                                                     : SkipValue(cursor, tag);
}

// Appends `span` to the header, or lengthens its last part where it follows on.
void AppendToHeader(const HostSpan& span, AttendEnvelope& envelope) {
  envelope.header_bytes += span.bytes;
  if (!envelope.header.empty()) {
    HostSpan& last = envelope.header.back();
    if (last.data + last.bytes == span.data) {
      last.bytes += span.bytes;
      return;
    }
  }
  envelope.header.push_back(span);
}

// Floats, packed or one by one.
bool IsScales(uint32_t tag) {
  const int type = WireFormatLite::GetTagWireType(tag);
  if (type != WireFormatLite::WIRETYPE_LENGTH_DELIMITED && type != WireFormatLite::WIRETYPE_FIXED32) {
    return false;
  }
  const int field = WireFormatLite::GetTagFieldNumber(tag);
  return field == v1::AttendRequest::kQScalesFieldNumber || field == v1::AttendRequest::kKScalesFieldNumber ||
         field == v1::AttendRequest::kVScalesFieldNumber;
}

absl::Status TooMany(const char* reason, const char* field, size_t most) {
  return InvalidArgument(reason, field, absl::StrCat("at most ", most, " entries"), "more");
}

// Takes the fields of one message apart, and adds them to an envelope.
class FieldReader {
 public:
  FieldReader(const EnvelopeLimits& limits, AttendEnvelope& envelope)
      : limits_(limits), envelope_(envelope) {}

  absl::Status Read(std::span<const HostSpan> slices) {
    Cursor cursor(slices);
    const int64_t bytes = cursor.left();
    while (cursor.left() > 0) {
      const Cursor field = cursor;
      uint32_t tag = 0;
      if (!ReadTag(cursor, tag)) return Malformed(bytes);
      TESSERA_RETURN_IF_ERROR(Count(tag));
      if (!(tag == kRawTag ? TakePayload(cursor) : TakeHeader(cursor, field, tag))) return Malformed(bytes);
      if (tag != kRawTag && !IsScales(tag)) counted_bytes_ += field.left() - cursor.left();
      if (counted_bytes_ > limits_.header_bytes) {
        return InvalidArgument("HEADER_TOO_LARGE", "message without payload and scales",
                               absl::StrCat("at most ", limits_.header_bytes, " bytes"), "more");
      }
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Malformed(int64_t bytes) {
    return MalformedMessage(v1::AttendRequest::descriptor()->full_name(), bytes);
  }

  absl::Status Count(uint32_t tag) {
    if (tag == kRawTag && envelope_.payload.size() == limits_.payloads) {
      return TooMany("TOO_MANY_PAYLOADS", "raw", limits_.payloads);
    }
    if (tag == kMasksTag && ++masks_ > limits_.masks) {
      return TooMany("TOO_MANY_MASKS", "masks", limits_.masks);
    }
    if (tag == kOutputsTag && ++outputs_ > limits_.outputs) {
      return TooMany("TOO_MANY_OUTPUTS", "outputs", limits_.outputs);
    }
    return absl::OkStatus();
  }

  bool TakePayload(Cursor& cursor) {
    int64_t length = 0;
    if (!ReadLength(cursor, length)) return false;
    Payload& payload = envelope_.payload.emplace_back();
    return cursor.Take(length, [&payload](const HostSpan& span) { payload.Append(span); });
  }

  // The field that begins at `field`, and whose `tag` has been read.
  bool TakeHeader(Cursor& cursor, const Cursor& field, uint32_t tag) {
    if (!SkipField(cursor, tag)) return false;
    Cursor from = field;
    return from.Take(field.left() - cursor.left(),
                     [this](const HostSpan& span) { AppendToHeader(span, envelope_); });
  }

  const EnvelopeLimits limits_;
  AttendEnvelope& envelope_;
  size_t masks_ = 0, outputs_ = 0;
  int64_t counted_bytes_ = 0;  // of the header
};

}  // namespace

absl::Status MalformedMessage(const std::string& type_name, int64_t bytes) {
  return MakeError(absl::StatusCode::kInvalidArgument,
                   absl::StrCat("malformed message: expected a ", type_name, ", got ", bytes,
                                " bytes that do not parse as one"),
                   {.reason = "MALFORMED_MESSAGE",
                    .metadata = {{"expected", type_name}, {"actual", absl::StrCat(bytes, " bytes")}},
                    .retry_after = std::nullopt});
}

absl::StatusOr<AttendEnvelope> OpenAttendEnvelope(std::span<const HostSpan> slices,
                                                  const EnvelopeLimits& limits) {
  AttendEnvelope envelope;
  envelope.payload.reserve(3);  // q, k and v
  TESSERA_RETURN_IF_ERROR(FieldReader(limits, envelope).Read(slices));
  return envelope;
}

absl::StatusOr<std::optional<AttendEnvelope>> OpenExplainEnvelope(std::span<const HostSpan> slices,
                                                                  const EnvelopeLimits& limits) {
  std::optional<AttendEnvelope> envelope;
  std::optional<FieldReader> reader;  // of all occurrences: protobuf merges them
  size_t parts = 0;
  Cursor cursor(slices);
  const auto malformed = [bytes = cursor.left()] {
    return MalformedMessage(v1::ExplainRequest::descriptor()->full_name(), bytes);
  };
  while (cursor.left() > 0) {
    uint32_t tag = 0;
    if (!ReadTag(cursor, tag)) return malformed();
    if (tag != kExplainedTag) {
      if (!SkipField(cursor, tag)) return malformed();
      continue;
    }
    int64_t length = 0;
    std::vector<HostSpan> request;
    if (!ReadLength(cursor, length) ||
        !cursor.Take(length, [&request](const HostSpan& span) { request.push_back(span); })) {
      return malformed();
    }
    if (++parts > limits.explain_parts) return TooMany("TOO_MANY_PARTS", "request", limits.explain_parts);
    if (!envelope) reader.emplace(limits, envelope.emplace());
    TESSERA_RETURN_IF_ERROR(reader->Read(request));
  }
  return envelope;
}

}  // namespace tessera
