#include "client/load/attend_workload.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/table.h"
#include "client/load/tensor_block.h"
#include "client/status_macros.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/slice.h"

namespace tessera::load {
namespace {

using client::AttendCall;
using client::AttendResult;
using client::DType;
using client::Random;
using client::TensorView;
using google::protobuf::internal::WireFormatLite;

const std::string& MethodName() {
  static const std::string name = "/tessera.v1.AttentionService/Attend";
  return name;
}

// The call as protobuf would serialize it, with the tensors' bytes where they are.
grpc::ByteBuffer Serialize(const AttendCall& call) {
  v1::AttendRequest header = client::EncodeShapes(call);
  header.mutable_q()->set_raw_index(0);
  header.mutable_k()->set_raw_index(1);
  header.mutable_v()->set_raw_index(2);
  std::string prefix = header.SerializeAsString();
  std::vector<grpc::Slice> slices;
  for (const TensorView* tensor : {&call.q, &call.k, &call.v}) {
    uint8_t bytes[16];
    uint8_t* end = google::protobuf::io::CodedOutputStream::WriteTagToArray(
        WireFormatLite::MakeTag(v1::AttendRequest::kRawFieldNumber,
                                WireFormatLite::WIRETYPE_LENGTH_DELIMITED),
        bytes);
    end = google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(tensor->bytes.size(), end);
    prefix.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
    slices.emplace_back(prefix);
    prefix.clear();
    slices.emplace_back(tensor->bytes.data(), tensor->bytes.size(), grpc::Slice::STATIC_SLICE);
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

struct Lengths {
  std::vector<int64_t> q, kv;  // one per sequence
};

int64_t Sum(const std::vector<int64_t>& values) {
  int64_t sum = 0;
  for (int64_t value : values) sum += value;
  return sum;
}

Lengths Draw(const AttendShape& shape, Random& random) {
  Lengths lengths;
  const int64_t sequences = shape.sequences ? shape.sequences->Draw(random) : 1;
  for (int64_t i = 0; i < sequences; ++i) {
    lengths.q.push_back(shape.q_len ? shape.q_len->Draw(random) : 64);
    lengths.kv.push_back(shape.kv_len ? shape.kv_len->Draw(random) : lengths.q.back());
  }
  return lengths;
}

class AttendWorkload : public Workload {
 public:
  AttendWorkload(const AttendShape& shape, uint64_t seed) : shape_(shape), seed_(seed) {}

  absl::Status Build(const Trace* trace) {
    Random random(seed_);
    std::vector<Lengths> drawn;
    if (trace != nullptr && trace->front().q_len) {
      std::map<std::pair<int64_t, int64_t>, size_t> known;
      for (const TraceEntry& entry : *trace) {
        const std::pair<int64_t, int64_t> key{*entry.q_len, entry.kv_len.value_or(*entry.q_len)};
        const auto [place, is_new] = known.emplace(key, drawn.size());
        if (is_new) drawn.push_back({{key.first}, {key.second}});
        trace_order_.push_back(place->second);
      }
    } else {
      for (int64_t i = 0; i < shape_.distinct; ++i) drawn.push_back(Draw(shape_, random));
    }
    return Fill(drawn, random);
  }

  const std::string& method() const override { return MethodName(); }

  std::string Describe() const override {
    std::vector<std::string> names;
    for (DType dtype : shape_.dtypes) names.push_back(client::DTypeName(dtype));
    int64_t least = INT64_MAX, most = 0;
    for (const Entry& entry : entries_) {
      const auto bytes = static_cast<int64_t>(entry.request.message.Length());
      least = std::min(least, bytes);
      most = std::max(most, bytes);
    }
    const auto text = [](const std::optional<Distribution>& d, const char* fallback) {
      return d ? d->text() : std::string(fallback);
    };
    return absl::StrCat("attend ", absl::StrJoin(names, "/"), ", ", shape_.q_heads, " over ", shape_.kv_heads,
                        " heads of ", shape_.head_dim, ", ", text(shape_.sequences, "1"), " sequences of ",
                        trace_order_.empty() ? text(shape_.q_len, "64") : "the trace's", " queries",
                        shape_.kv_len ? absl::StrCat(" and ", shape_.kv_len->text(), " keys") : "",
                        shape_.options.causal() ? ", causal" : "", ", backend ", shape_.backend, "; ",
                        entries_.size(), " distinct requests of ", client::HumanBytes(least),
                        least == most ? "" : absl::StrCat(" to ", client::HumanBytes(most)), ", seed ",
                        seed_);
  }

  size_t distinct() const override { return entries_.size(); }

  size_t IndexOf(uint64_t n) const override {
    if (!trace_order_.empty()) return trace_order_[n % trace_order_.size()];
    return static_cast<size_t>(Random(seed_ + n).Next() % entries_.size());
  }

  const PreparedRequest& request(size_t index) const override { return entries_[index].request; }

  absl::Status PrepareReferences(const client::Client& server, const std::string& oracle) override {
    for (Entry& entry : entries_) {
      AttendCall call = entry.call;
      call.backend = oracle;
      call.output_dtype = v1::DATA_TYPE_FP32;
      TESSERA_TRY_ASSIGN(entry.reference, server.Attend(call));
    }
    return absl::OkStatus();
  }

  std::string Judge(size_t index, const grpc::ByteBuffer& reply, client::Accuracy& worst) const override {
    grpc::ByteBuffer view(reply);  // shares the slices; the reader wants a mutable buffer
    v1::AttendResponse response;
    grpc::ProtoBufferReader reader(&view);
    if (!reader.status().ok() || !response.ParseFromZeroCopyStream(&reader)) return "the reply is malformed";
    const absl::StatusOr<AttendResult> result = client::DecodeResponse(std::move(response));
    if (!result.ok()) return std::string(result.status().message());
    const Entry& entry = entries_[index];
    if (shape_.lse && !result->lse) return "the reply lacks the LSE that was asked for";
    const client::Accuracy accuracy = client::Compare(*result, entry.reference);
    worst.Merge(accuracy);
    const DType precision = client::LessPrecise(entry.call.q.dtype, result->output.dtype);
    return client::Violation(accuracy,
                             client::BoundsOf(precision, *client::NumElements(entry.reference.output.shape)));
  }

 private:
  struct Entry {
    AttendCall call;  // its tensors are views of the blocks
    PreparedRequest request;
    AttendResult reference;
  };

  absl::Status Fill(const std::vector<Lengths>& drawn, Random& random) {
    int64_t largest = 0;
    for (const Lengths& lengths : drawn) {
      const int64_t q = Sum(lengths.q) * shape_.q_heads, kv = Sum(lengths.kv) * shape_.kv_heads;
      if (std::max(q, kv) > client::kMaxMessageBytes / shape_.head_dim) {
        return absl::ResourceExhaustedError(
            absl::StrCat("a request of ", Sum(lengths.q), " queries and ", Sum(lengths.kv),
                         " keys: expected tensors of at most ", client::kMaxMessageBytes, " bytes, got ",
                         std::max(q, kv), " rows of ", shape_.head_dim));
      }
      largest = std::max(largest, std::max(q, kv) * shape_.head_dim);
    }
    for (DType dtype : shape_.dtypes) {
      if (!blocks_.contains(dtype)) blocks_.emplace(dtype, TensorBlock(dtype, largest, random));
    }
    for (size_t i = 0; i < drawn.size(); ++i) {
      TESSERA_TRY(Add(shape_.dtypes[i % shape_.dtypes.size()], drawn[i], random));
    }
    return absl::OkStatus();
  }

  absl::Status Add(DType dtype, const Lengths& lengths, Random& random) {
    const TensorBlock& block = blocks_.at(dtype);
    Entry entry;
    AttendCall& call = entry.call;
    call.backend = shape_.backend;
    call.q = block.Cut({Sum(lengths.q), shape_.q_heads, shape_.head_dim}, random);
    call.k = block.Cut({Sum(lengths.kv), shape_.kv_heads, shape_.head_dim}, random);
    call.v = block.Cut({Sum(lengths.kv), shape_.kv_heads, shape_.head_dim}, random);
    if (block.scale() != 1) call.q_scales = call.k_scales = call.v_scales = {block.scale()};
    call.q_lens = lengths.q;
    call.kv_lens = lengths.kv;
    call.options = shape_.options;
    call.output_dtype = shape_.output_dtype;
    call.want_lse = shape_.lse;
    entry.request = {Serialize(call), Sum(lengths.q)};
    const auto bytes = static_cast<int64_t>(entry.request.message.Length());
    if (bytes > client::kMaxMessageBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a request: expected at most ", client::kMaxMessageBytes, " bytes, got ", bytes));
    }
    entries_.push_back(std::move(entry));
    return absl::OkStatus();
  }

  const AttendShape shape_;
  const uint64_t seed_;
  std::map<DType, TensorBlock> blocks_;  // outlive the requests that point into them
  std::vector<Entry> entries_;
  std::vector<size_t> trace_order_;  // entry of each request of the trace; empty: drawn
};

absl::Status Check(const char* name, int64_t value, int64_t high) {
  if (value >= 1 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected 1 to ", high, ", got ", value));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Workload>> MakeAttendWorkload(const AttendShape& shape, const Trace* trace,
                                                             uint64_t seed) {
  TESSERA_TRY(Check("heads", shape.q_heads, 4096));
  TESSERA_TRY(Check("kv-heads", shape.kv_heads, 4096));
  TESSERA_TRY(Check("head-dim", shape.head_dim, 4096));
  TESSERA_TRY(Check("distinct", shape.distinct, 100'000));
  if (shape.sequences) TESSERA_TRY(Check("sequences", shape.sequences->largest(), 100'000));
  if (shape.q_heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("heads: expected a multiple of kv-heads (", shape.kv_heads, "), got ", shape.q_heads));
  }
  auto workload = std::make_unique<AttendWorkload>(shape, seed);
  TESSERA_TRY(workload->Build(trace));
  return workload;
}

}  // namespace tessera::load
