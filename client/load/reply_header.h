// What a reply says about itself, read without touching the tensors that follow.
#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "tessera/v1/ledger.pb.h"

namespace tessera::load {

// Finds the ledger in a serialized AttendResponse; the payload is neither copied nor walked through. `ledger`
// is meant to be used again: then nothing is allocated. False when there is none or the message is malformed.
bool ReadLedger(grpc::ByteBuffer& reply, v1::Ledger& ledger);

}  // namespace tessera::load
