// AttendRequest -> AttentionProblem. Checks everything that the problem cannot show: ranks, byte counts, raw
// indices, lengths, mask broadcasting, counts of per-head and per-sequence options. Validate() then judges
// the problem itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/attention_problem.h"
#include "server/host_buffer.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {

// One tensor of the reply, in the order requested. Contiguous.
struct OutputSpec {
  v1::OutputKind kind = v1::OUTPUT_KIND_OUTPUT;
  DType dtype = TESSERA_DTYPE_INVALID;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// A request as an AttentionProblem, with what the problem points to: sequences, slopes, sinks, scales and
// rearranged tensors. Q, K, V and masks point into the payload, which must outlive this. o.data and lse.data
// are null until BindOutputs.
struct DecodedRequest {
  DecodedRequest() = default;
  DecodedRequest(DecodedRequest&&) =
      default;  // vectors keep their memory when moved, so the problem stays right
  DecodedRequest& operator=(DecodedRequest&&) = default;

  std::string backend;
  AttentionProblem problem{};
  std::vector<Sequence> sequences;
  std::vector<float> alibi_slopes;
  std::vector<float> sinks;
  std::vector<float> q_scales, k_scales, v_scales;  // of fp8 inputs
  // None, one for all sequences, or one per sequence; sequences[i].mask points into it.
  std::vector<HostSpan> masks;
  std::vector<OutputSpec> outputs;
  // Some rows of the outputs belong to no sequence: padding, 0 in O and -inf in LSE.
  bool has_padding = false;

  int64_t input_bytes = 0;         // of all tensors, slopes, sinks and scales
  int64_t output_bytes = 0;        // of all outputs
  std::vector<HostBuffer> copies;  // tensors that had to be rearranged or aligned
  int64_t copied_bytes = 0;        // in them
};

// Longest request id, in bytes, and the most sequences in one request (each costs the server about 100
// bytes).
inline constexpr size_t kMaxIdBytes = 128;
inline constexpr int64_t kMaxSequences = int64_t{1} << 20;

// INVALID_ARGUMENT, OUT_OF_RANGE (lengths past their tensor) or UNIMPLEMENTED (regions), with expected and
// actual values. Allocates nothing that is not bounded by the size of the request; with kShapesOnly data is
// ignored.
absl::StatusOr<DecodedRequest> DecodeRequest(const v1::AttendRequest& header,
                                             const std::vector<HostSpan>& payload, DataRequirement data);

// Allocates the outputs, in order, puts padding values where needed and points the problem at them.
std::vector<HostBuffer> BindOutputs(DecodedRequest& request);

}  // namespace tessera
