#include "client/load/reply_header.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include "grpcpp/support/proto_buffer_reader.h"
#include "tessera/v1/attention.pb.h"

namespace tessera::load {

using google::protobuf::internal::WireFormatLite;

bool ReadLedger(grpc::ByteBuffer& reply, v1::Ledger& ledger) {
  constexpr uint32_t kLedgerTag = WireFormatLite::MakeTag(v1::AttendResponse::kLedgerFieldNumber,
                                                          WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  constexpr uint32_t kRawTag =
      WireFormatLite::MakeTag(v1::AttendResponse::kRawFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  if (!reply.Valid() || reply.Length() == 0) return false;
  grpc::ProtoBufferReader reader(&reply);
  if (!reader.status().ok()) return false;
  google::protobuf::io::CodedInputStream in(&reader);
  while (const uint32_t tag = in.ReadTag()) {
    if (tag == kRawTag) return false;  // the payload comes last
    if (tag != kLedgerTag) {
      if (!WireFormatLite::SkipField(&in, tag)) return false;
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return false;
    const auto limit = in.PushLimit(static_cast<int>(length));
    const bool parsed = ledger.ParseFromCodedStream(&in) && in.BytesUntilLimit() == 0;
    in.PopLimit(limit);
    return parsed;
  }
  return false;
}

}  // namespace tessera::load
