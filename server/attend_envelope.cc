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

constexpr uint32_t kRawTag =
    WireFormatLite::MakeTag(v1::AttendRequest::kRawFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);

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

}  // namespace

absl::Status MalformedMessage(const std::string& type_name, int64_t bytes) {
  return MakeError(absl::StatusCode::kInvalidArgument,
                   absl::StrCat("malformed message: expected a ", type_name, ", got ", bytes,
                                " bytes that do not parse as one"),
                   {.reason = "MALFORMED_MESSAGE",
                    .metadata = {{"expected", type_name}, {"actual", absl::StrCat(bytes, " bytes")}},
                    .retry_after = std::nullopt});
}

absl::StatusOr<AttendEnvelope> OpenAttendEnvelope(std::span<const HostSpan> slices, size_t max_payloads) {
  AttendEnvelope envelope;
  envelope.payload.reserve(3);  // q, k and v
  Cursor cursor(slices);
  const auto malformed = [bytes = cursor.left()] {
    return MalformedMessage(v1::AttendRequest::descriptor()->full_name(), bytes);
  };
  while (cursor.left() > 0) {
    const Cursor field = cursor;
    uint32_t tag = 0;
    if (!ReadTag(cursor, tag)) return malformed();
    if (tag != kRawTag) {
      if (!SkipField(cursor, tag)) return malformed();
      Cursor from = field;
      from.Take(field.left() - cursor.left(),
                [&envelope](const HostSpan& span) { AppendToHeader(span, envelope); });
      continue;
    }
    int64_t length = 0;
    if (!ReadLength(cursor, length)) return malformed();
    if (envelope.payload.size() == max_payloads) {
      return InvalidArgument("TOO_MANY_PAYLOADS", "raw", absl::StrCat("at most ", max_payloads, " entries"),
                             "more");
    }
    Payload& payload = envelope.payload.emplace_back();
    if (!cursor.Take(length, [&payload](const HostSpan& span) { payload.Append(span); })) {
      return malformed();
    }
  }
  return envelope;
}

}  // namespace tessera
