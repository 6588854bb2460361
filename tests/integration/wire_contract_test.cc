// The wire contract of v1 is frozen: field numbers, names and types by descriptor, and whole messages by
// their bytes. A failure here means that clients in the field would break: add fields, never renumber or
// retype them.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/message_differencer.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {
namespace {

// "name:number:type[:label]" for each field of a message, "NAME=number" for each value of an enum.
std::vector<std::string> Describe(const google::protobuf::Descriptor& message) {
  std::vector<std::string> lines;
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    std::string type = field.type_name();
    if (field.message_type() != nullptr) type = field.message_type()->name();
    if (field.enum_type() != nullptr) type = field.enum_type()->name();
    lines.push_back(field.name() + ":" + std::to_string(field.number()) + ":" + type +
                    (field.is_repeated()            ? ":repeated"
                     : field.has_optional_keyword() ? ":optional"
                                                    : ""));
  }
  return lines;
}

std::vector<std::string> Describe(const google::protobuf::EnumDescriptor& enumeration) {
  std::vector<std::string> lines;
  for (int i = 0; i < enumeration.value_count(); ++i) {
    lines.push_back(enumeration.value(i)->name() + "=" + std::to_string(enumeration.value(i)->number()));
  }
  return lines;
}

using Lines = std::vector<std::string>;

TEST(WireContractTest, RequestFieldsAreFrozen) {
  EXPECT_EQ(
      Describe(*v1::AttendRequest::descriptor()),
      (Lines{"id:1:string", "backend:2:string", "layout:3:Layout", "q:4:Tensor", "k:5:Tensor", "v:6:Tensor",
             "q_lens:7:int64:repeated", "kv_lens:8:int64:repeated", "options:9:AttentionOptions",
             "masks:10:Tensor:repeated", "outputs:11:RequestedOutput:repeated", "q_scales:12:float:repeated",
             "k_scales:13:float:repeated", "v_scales:14:float:repeated", "raw:15:bytes:repeated"}));
  EXPECT_EQ(Describe(*v1::AttentionOptions::descriptor()),
            (Lines{"scale:1:float:optional", "causal:2:bool", "alignment:3:Alignment",
                   "window_left:4:int64:optional", "window_right:5:int64:optional", "softcap:6:float",
                   "alibi_slopes:7:float:repeated", "sinks:8:float:repeated",
                   "diagonal_offsets:9:int64:repeated"}));
  EXPECT_EQ(Describe(*v1::RequestedOutput::descriptor()),
            (Lines{"kind:1:OutputKind", "dtype:2:DataType", "destination:3:RegionRef"}));
  EXPECT_EQ(Describe(*v1::Tensor::descriptor()),
            (Lines{"dtype:1:DataType", "shape:2:int64:repeated", "strides:3:int64:repeated",
                   "raw_index:4:uint32", "region:5:RegionRef"}));
  EXPECT_EQ(Describe(*v1::RegionRef::descriptor()),
            (Lines{"name:1:string", "offset:2:uint64", "byte_size:3:uint64"}));
}

TEST(WireContractTest, ReplyFieldsAreFrozen) {
  EXPECT_EQ(Describe(*v1::AttendResponse::descriptor()),
            (Lines{"id:1:string", "status:2:Status", "outputs:3:OutputTensor:repeated", "ledger:4:Ledger",
                   "raw:15:bytes:repeated"}));
  EXPECT_EQ(Describe(*v1::OutputTensor::descriptor()), (Lines{"kind:1:OutputKind", "tensor:2:Tensor"}));
  EXPECT_EQ(Describe(*v1::Ledger::descriptor()),
            (Lines{"memory:1:MemoryLedger", "traffic:2:TrafficLedger", "choice:3:Choice", "time:4:TimeLedger",
                   "flops:5:int64", "achieved_flops_per_s:6:double"}));
  EXPECT_EQ(
      Describe(*v1::MemoryLedger::descriptor()),
      (Lines{"input:1:int64", "output:2:int64", "kv_cache_resident:3:int64", "workspace_peak:4:int64",
             "staging_peak:5:int64", "device_peak:6:int64", "host_copies_in:7:int64",
             "host_copies_in_bytes:8:int64", "host_copies_out:9:int64", "host_copies_out_bytes:10:int64",
             "transfers_to_device:11:int64", "transfers_to_device_bytes:12:int64",
             "transfers_from_device:13:int64", "transfers_from_device_bytes:14:int64"}));
  EXPECT_EQ(Describe(*v1::TrafficLedger::descriptor()),
            (Lines{"hbm_read:1:int64", "hbm_write:2:int64", "standard_workspace:3:int64",
                   "standard_hbm_bytes:4:int64", "workspace_ratio:5:double", "hbm_ratio:6:double"}));
  EXPECT_EQ(Describe(*v1::Choice::descriptor()),
            (Lines{"backend:1:string", "device:2:string", "kernel:3:string", "tile_q:4:int32",
                   "tile_kv:5:int32", "stages:6:int32", "num_splits:7:int32", "fast_memory_bytes:8:int64",
                   "launches:9:int32", "batch_requests:10:int32", "batch_sequences:11:int64"}));
  EXPECT_EQ(Describe(*v1::TimeLedger::descriptor()),
            (Lines{"queue:1:double", "transfer_in:2:double", "compute:3:double", "transfer_out:4:double",
                   "total:5:double"}));
}

TEST(WireContractTest, ExplainAndInfoFieldsAreFrozen) {
  EXPECT_EQ(Describe(*v1::ExplainRequest::descriptor()), (Lines{"request:1:AttendRequest"}));
  EXPECT_EQ(Describe(*v1::ExplainResponse::descriptor()),
            (Lines{"choice:1:Choice", "workspace_bytes:2:int64", "input_bytes:3:int64",
                   "output_bytes:4:int64", "traffic:5:TrafficLedger", "flops:6:int64",
                   "features:7:string:repeated", "refusals:8:Refusal:repeated"}));
  EXPECT_EQ(Describe(*v1::GetServerInfoResponse::descriptor()),
            (Lines{"version:1:string", "commit:2:string", "backends:3:BackendDescription:repeated",
                   "devices:4:DeviceDescription:repeated", "limits:5:Limits", "draining:6:bool"}));
  EXPECT_EQ(Describe(*v1::BackendDescription::descriptor()),
            (Lines{"name:1:string", "description:2:string", "device:3:string", "usable:4:bool",
                   "unusable_reason:5:string", "input_dtypes:6:DataType:repeated",
                   "output_dtypes:7:DataType:repeated", "max_head_dim:8:int32", "head_dim_multiple:9:int32",
                   "features:10:string:repeated", "auto_priority:11:int32"}));
  EXPECT_EQ(Describe(*v1::DeviceDescription::descriptor()),
            (Lines{"id:1:string", "name:2:string", "compute_units:3:int32", "total_memory_bytes:4:int64",
                   "free_memory_bytes:5:int64", "fast_memory_bytes:6:int64", "l2_bytes:7:int64"}));
  EXPECT_EQ(Describe(*v1::Limits::descriptor()),
            (Lines{"max_message_bytes:1:int64", "max_batch_tokens:2:int64", "max_workspace_bytes:3:int64",
                   "max_concurrent_requests:4:int64"}));
}

TEST(WireContractTest, EnumsAndMethodsAreFrozen) {
  EXPECT_EQ(Describe(*v1::DataType_descriptor()),
            (Lines{"DATA_TYPE_UNSPECIFIED=0", "DATA_TYPE_FP32=1", "DATA_TYPE_FP16=2", "DATA_TYPE_BF16=3",
                   "DATA_TYPE_FP8_E4M3=4", "DATA_TYPE_BOOL=5"}));
  EXPECT_EQ(Describe(*v1::Layout_descriptor()), (Lines{"LAYOUT_PACKED=0", "LAYOUT_BSHD=1", "LAYOUT_BHSD=2"}));
  EXPECT_EQ(Describe(*v1::Alignment_descriptor()),
            (Lines{"ALIGNMENT_BOTTOM_RIGHT=0", "ALIGNMENT_TOP_LEFT=1"}));
  EXPECT_EQ(Describe(*v1::OutputKind_descriptor()), (Lines{"OUTPUT_KIND_OUTPUT=0", "OUTPUT_KIND_LSE=1"}));

  const auto* service = v1::AttendRequest::descriptor()->file()->FindServiceByName("AttentionService");
  ASSERT_NE(service, nullptr);
  EXPECT_EQ(service->full_name(), "tessera.v1.AttentionService");
  Lines methods;
  for (int i = 0; i < service->method_count(); ++i) {
    const auto& method = *service->method(i);
    methods.push_back(method.name() + (method.client_streaming() ? " stream " : " ") +
                      method.input_type()->name() + (method.server_streaming() ? " -> stream " : " -> ") +
                      method.output_type()->name());
  }
  EXPECT_EQ(methods, (Lines{"Attend AttendRequest -> AttendResponse",
                            "AttendStream stream AttendRequest -> stream AttendResponse",
                            "Explain ExplainRequest -> ExplainResponse",
                            "GetServerInfo GetServerInfoRequest -> GetServerInfoResponse"}));
}

v1::AttendRequest GoldenRequest() {
  v1::AttendRequest request;
  request.set_id("r1");
  request.set_backend("auto");
  request.set_layout(v1::LAYOUT_BSHD);
  for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_dtype(v1::DATA_TYPE_FP32);
    for (const int64_t extent : {1, 2, 1, 1}) tensor->add_shape(extent);
  }
  request.mutable_q()->set_raw_index(0);
  request.mutable_k()->set_raw_index(1);
  request.mutable_v()->set_raw_index(2);
  request.add_q_lens(2);
  request.mutable_options()->set_causal(true);
  request.mutable_options()->set_scale(0.5f);
  request.mutable_options()->set_window_left(0);
  request.mutable_options()->add_sinks(1.0f);
  request.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
  for (const char* bytes : {"AAAAaaaa", "BBBBbbbb", "CCCCcccc"}) request.add_raw(bytes);
  return request;
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// Written by hand from the encoding rules, tag by tag, so that it does not depend on the code under test.
const std::string& GoldenRequestBytes() {
  static const std::string bytes = FromHex(
      "0a02"
      "7231"  // id = "r1"
      "1204"
      "6175746f"  // backend = "auto"
      "1801"      // layout = BSHD
      "220a"
      "0801"
      "1204"
      "01020101"
      "2000"  // q: dtype, packed shape, raw_index 0 (oneof: explicit)
      "2a0a"
      "0801"
      "1204"
      "01020101"
      "2001"  // k
      "320a"
      "0801"
      "1204"
      "01020101"
      "2002"  // v
      "3a01"
      "02"  // q_lens
      "4a0f"
      "0d0000003f"
      "1001"
      "2000"
      "4204"
      "0000803f"  // options: scale, causal, window_left 0, sinks
      "5a02"
      "0801"  // outputs: LSE
      "7a08"
      "4141414161616161"  // raw[0]
      "7a08"
      "4242424262626262"  // raw[1]
      "7a08"
      "4343434363636363");  // raw[2]
  return bytes;
}

TEST(WireContractTest, GoldenRequestParses) {
  v1::AttendRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(GoldenRequestBytes()));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(parsed, GoldenRequest()))
      << parsed.ShortDebugString() << "\n"
      << GoldenRequest().ShortDebugString();
}

TEST(WireContractTest, RequestSerialisesToGoldenBytesWithPayloadLast) {
  EXPECT_EQ(GoldenRequest().SerializeAsString(), GoldenRequestBytes());
  const auto* descriptor = v1::AttendRequest::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) EXPECT_LE(descriptor->field(i)->number(), 15);
}

// What fp8 inputs add: their dtype, and fields between the outputs and the payload.
TEST(WireContractTest, Fp8RequestSerialisesToGoldenBytes) {
  v1::AttendRequest request;
  request.mutable_q()->set_dtype(v1::DATA_TYPE_FP8_E4M3);
  request.add_q_scales(1.0f);
  request.add_k_scales(0.5f);
  request.add_k_scales(2.0f);
  request.add_v_scales(0.25f);
  request.add_raw("A");
  const std::string bytes = FromHex(
      "2202"
      "0804"  // q: dtype FP8_E4M3
      "6204"
      "0000803f"  // q_scales, packed
      "6a08"
      "0000003f"
      "00000040"  // k_scales
      "7204"
      "0000803e"  // v_scales
      "7a01"
      "41");  // raw[0]
  EXPECT_EQ(request.SerializeAsString(), bytes);
  v1::AttendRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(bytes));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(parsed, request))
      << parsed.ShortDebugString();
}

TEST(WireContractTest, GoldenReplyParses) {
  const std::string bytes = FromHex(
      "0a02"
      "7231"  // id
      "1a0c"
      "120a"
      "0801"
      "1204"
      "01020101"
      "2000"  // outputs: kind OUTPUT (default), tensor
      "2204"
      "0a022001"  // ledger: memory {workspace_peak: 1}
      "7a08"
      "4141414161616161");
  v1::AttendResponse reply;
  ASSERT_TRUE(reply.ParseFromString(bytes));
  EXPECT_EQ(reply.id(), "r1");
  ASSERT_EQ(reply.outputs_size(), 1);
  EXPECT_EQ(reply.outputs(0).kind(), v1::OUTPUT_KIND_OUTPUT);
  EXPECT_EQ(reply.outputs(0).tensor().shape_size(), 4);
  EXPECT_EQ(reply.ledger().memory().workspace_peak(), 1);
  EXPECT_EQ(reply.raw(0), "AAAAaaaa");
  EXPECT_EQ(reply.SerializeAsString(), bytes);
}

}  // namespace
}  // namespace tessera
