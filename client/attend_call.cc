#include "client/attend_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/slice.h"

namespace tessera::client {
namespace {

void DescribeTensor(const TensorView& tensor, v1::Tensor& wire) {
  wire.set_dtype(tensor.dtype);
  wire.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
}

// In the order of their raw_index.
std::vector<const TensorView*> TensorsOf(const AttendCall& call) {
  std::vector<const TensorView*> tensors = {&call.q, &call.k, &call.v};
  for (const TensorView& mask : call.masks) tensors.push_back(&mask);
  return tensors;
}

// The request but for `raw`, whose entries it indexes.
absl::StatusOr<v1::AttendRequest> EncodeHeader(const AttendCall& call) {
  TESSERA_TRY(call.q.Validate("q"));
  TESSERA_TRY(call.k.Validate("k"));
  TESSERA_TRY(call.v.Validate("v"));
  for (size_t i = 0; i < call.masks.size(); ++i) {
    TESSERA_TRY(call.masks[i].Validate(absl::StrCat("mask ", i)));
  }
  size_t total = 0;
  for (const TensorView* const tensor : TensorsOf(call)) total += tensor->bytes.size();

  v1::AttendRequest request = EncodeShapes(call);
  const size_t description = request.ByteSizeLong();
  const size_t framing = 32 * (3 + call.masks.size());  // more than the tags, lengths and indices take
  if (total + description + framing > static_cast<size_t>(kMaxMessageBytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("the request's tensors take ", total,
                                                     " bytes, one message holds ", kMaxMessageBytes,
                                                     ": send the batch in parts, or in a narrower dtype"));
  }
  uint32_t index = 0;
  for (v1::Tensor* const tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_raw_index(index++);
  }
  for (v1::Tensor& mask : *request.mutable_masks()) mask.set_raw_index(index++);
  return request;
}

// Tag and length of one entry of AttendRequest.raw.
void AppendRawPrefix(std::string& out, size_t bytes) {
  using google::protobuf::internal::WireFormatLite;
  google::protobuf::io::StringOutputStream stream(&out);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.WriteTag(
      WireFormatLite::MakeTag(v1::AttendRequest::kRawFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED));
  coded.WriteVarint64(bytes);
}

grpc::Slice SliceOf(const AttendCall& call, const TensorView& tensor) {
  if (call.owner == nullptr) return grpc::Slice(tensor.bytes.data(), tensor.bytes.size());
  using Owner = std::shared_ptr<const void>;
  return grpc::Slice(
      const_cast<std::byte*>(tensor.bytes.data()), tensor.bytes.size(),
      [](void* owner) { delete static_cast<Owner*>(owner); }, new Owner(call.owner));
}

absl::StatusOr<Tensor> TakeTensor(const v1::Tensor& wire, v1::AttendResponse& response) {
  if (wire.data_case() != v1::Tensor::kRawIndex ||
      wire.raw_index() >= static_cast<uint32_t>(response.raw_size())) {
    return absl::InternalError(absl::StrCat("the reply has ", response.raw_size(),
                                            " payloads and an output that points at none of them"));
  }
  if (wire.strides_size() != 0) return absl::InternalError("the reply has an output that is not contiguous");
  Tensor tensor{wire.dtype(), {wire.shape().begin(), wire.shape().end()}, {}};
  tensor.bytes = std::move(*response.mutable_raw(static_cast<int>(wire.raw_index())));
  if (absl::Status status = tensor.view().Validate("output of the reply"); !status.ok()) {
    return absl::InternalError(std::string(status.message()));
  }
  return tensor;
}

}  // namespace

v1::AttendRequest EncodeShapes(const AttendCall& call) {
  v1::AttendRequest request;
  request.set_id(call.id);
  request.set_backend(call.backend);
  request.set_layout(call.layout);
  DescribeTensor(call.q, *request.mutable_q());
  DescribeTensor(call.k, *request.mutable_k());
  DescribeTensor(call.v, *request.mutable_v());
  request.mutable_q_lens()->Add(call.q_lens.begin(), call.q_lens.end());
  request.mutable_kv_lens()->Add(call.kv_lens.begin(), call.kv_lens.end());
  request.mutable_q_scales()->Add(call.q_scales.begin(), call.q_scales.end());
  request.mutable_k_scales()->Add(call.k_scales.begin(), call.k_scales.end());
  request.mutable_v_scales()->Add(call.v_scales.begin(), call.v_scales.end());
  *request.mutable_options() = call.options;
  for (const TensorView& mask : call.masks) DescribeTensor(mask, *request.add_masks());

  v1::RequestedOutput* output = request.add_outputs();
  output->set_kind(v1::OUTPUT_KIND_OUTPUT);
  output->set_dtype(call.output_dtype);
  if (call.want_lse) request.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
  return request;
}

absl::StatusOr<v1::AttendRequest> EncodeRequest(const AttendCall& call) {
  TESSERA_TRY_ASSIGN(v1::AttendRequest request, EncodeHeader(call));
  for (const TensorView* const tensor : TensorsOf(call)) {
    request.add_raw(reinterpret_cast<const char*>(tensor->bytes.data()), tensor->bytes.size());
  }
  return request;
}

absl::StatusOr<grpc::ByteBuffer> EncodeMessage(const AttendCall& call) {
  TESSERA_TRY_ASSIGN(const v1::AttendRequest header, EncodeHeader(call));
  std::vector<grpc::Slice> slices;
  std::string prefix = header.SerializeAsString();
  for (const TensorView* const tensor : TensorsOf(call)) {
    AppendRawPrefix(prefix, tensor->bytes.size());
    slices.emplace_back(prefix);
    prefix.clear();
    if (!tensor->bytes.empty()) slices.push_back(SliceOf(call, *tensor));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

absl::StatusOr<AttendResult> DecodeResponse(v1::AttendResponse&& response) {
  AttendResult result;
  result.id = response.id();
  result.ledger = std::move(*response.mutable_ledger());
  bool has_output = false;
  for (const v1::OutputTensor& output : response.outputs()) {
    TESSERA_TRY_ASSIGN(Tensor tensor, TakeTensor(output.tensor(), response));
    if (output.kind() == v1::OUTPUT_KIND_LSE) {
      result.lse = std::move(tensor);
    } else if (output.kind() == v1::OUTPUT_KIND_OUTPUT) {
      result.output = std::move(tensor);
      has_output = true;
    }
  }
  if (!has_output) return absl::InternalError("the reply holds no output");
  return result;
}

}  // namespace tessera::client
