// AttendRequest -> AttentionProblem. Checks everything that the problem cannot show: ranks, byte counts, raw
// indices, lengths, mask broadcasting, counts of per-head and per-sequence options. Validate() then judges
// the problem itself.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/attention_problem.h"
#include "server/host_buffer.h"
#include "server/output_memory.h"
#include "server/payload.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {

// One tensor of the reply, in the order requested. Contiguous.
struct OutputSpec {
  v1::OutputKind kind = v1::OUTPUT_KIND_OUTPUT;
  DType dtype = TESSERA_DTYPE_INVALID;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// A request as an AttentionProblem, with what the problem points to: sequences, slopes, sinks and scales. Q,
// K, V and the masks are still where they arrived, memory that must outlive their sources here; the problem's
// pointers to them are null until BindInputs, those of the outputs until BindOutputs.
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
  std::array<TensorSource, 3> inputs;               // q, k, v
  // None, one for all sequences, or one per sequence; sequences[i].mask is mask_offsets[i] bytes into its
  // own.
  std::vector<TensorSource> masks;
  std::vector<int64_t> mask_offsets;
  std::vector<OutputSpec> outputs;
  // Some rows of the outputs belong to no sequence: padding, 0 in O and -inf in LSE.
  bool has_padding = false;

  int64_t input_bytes = 0;   // of all tensors, slopes, sinks and scales
  int64_t output_bytes = 0;  // of all outputs
};

// Longest request id, in bytes, and the most sequences in one request (each costs the server about 100
// bytes).
inline constexpr size_t kMaxIdBytes = 128;
inline constexpr int64_t kMaxSequences = int64_t{1} << 20;

// INVALID_ARGUMENT, OUT_OF_RANGE (lengths past their tensor) or UNIMPLEMENTED (regions), with expected and
// actual values. Allocates nothing that is not bounded by the size of the request; with kShapesOnly data is
// ignored.
absl::StatusOr<DecodedRequest> DecodeRequest(const v1::AttendRequest& header, std::vector<Payload> payload,
                                             DataRequirement data);

// Bytes of Q, K, V and the masks, as they are placed.
int64_t TensorBytes(const DecodedRequest& request);

// Copies Q, K, V and the masks into memory of their own, and points the problem and the sources at it: the
// one copy that their bytes need where a backend can use them there. Where they arrived is no longer used.
std::vector<HostBuffer> BindInputs(DecodedRequest& request);

// `bytes` bytes of an output of that kind as they are where no sequence writes.
void FillPadding(v1::OutputKind kind, std::byte* data, int64_t bytes);

// Allocates the outputs on the host, in order, puts padding values where needed and points the problem at
// them. Without padding every element belongs to a row of a sequence, and backends write all of those.
std::vector<OutputBytes> BindOutputs(DecodedRequest& request);

}  // namespace tessera
