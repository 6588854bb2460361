// One attention call and its result, and their wire forms. This is the only client file that knows both.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/tensor.h"
#include "grpcpp/support/byte_buffer.h"
#include "tessera/v1/attention.pb.h"

namespace tessera::client {

// What to compute. Fields mean what the comments of v1::AttendRequest say; the tensors are borrowed for the
// call.
struct AttendCall {
  std::string id;
  std::string backend;  // empty: auto
  v1::Layout layout = v1::LAYOUT_PACKED;
  TensorView q, k, v;
  std::vector<float> q_scales, k_scales, v_scales;  // of fp8 tensors
  std::vector<int64_t> q_lens, kv_lens;
  v1::AttentionOptions options;
  std::vector<TensorView> masks;
  DType output_dtype = v1::DATA_TYPE_UNSPECIFIED;  // unspecified: q's, bf16 for fp8
  bool want_lse = false;
  // Owner of the tensors' memory, if there is one: then calls send from that memory, and keep a share in it
  // for as long as gRPC may read there, which can be longer than a call that failed. Without one they send a
  // copy.
  std::shared_ptr<const void> owner;
};

struct AttendResult {
  std::string id;
  Tensor output;
  std::optional<Tensor> lse;
  v1::Ledger ledger;
};

// A serialized protobuf message holds at most this many bytes, so one request's tensors must.
inline constexpr int64_t kMaxMessageBytes = (int64_t{1} << 31) - 1;

// Copies the tensors into a message. INVALID_ARGUMENT when a tensor's byte count is not its shape's;
// RESOURCE_EXHAUSTED when all together pass kMaxMessageBytes.
absl::StatusOr<v1::AttendRequest> EncodeRequest(const AttendCall& call);
// The same message in its wire form, which refers to the tensors of a call with an owner and copies those of
// one without.
absl::StatusOr<grpc::ByteBuffer> EncodeMessage(const AttendCall& call);
// The same without the tensors' bytes, as Explain takes it.
v1::AttendRequest EncodeShapes(const AttendCall& call);

// Takes the payload out of `response`. INTERNAL when the server's reply contradicts itself.
absl::StatusOr<AttendResult> DecodeResponse(v1::AttendResponse&& response);

}  // namespace tessera::client
