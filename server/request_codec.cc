#include "server/request_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "server/batch_layout.h"
#include "server/mask_codec.h"
#include "server/scale_codec.h"
#include "server/tensor_codec.h"

namespace tessera {
namespace {

// The operands of a request and their extents by meaning.
struct Operands {
  HostTensor q, k, v;
  BatchExtents q_extents, k_extents, v_extents;
};

absl::StatusOr<HostTensor> DecodeOperand(const char* field, bool present, const v1::Tensor& wire,
                                         v1::Layout layout, PayloadReader& payload) {
  if (!present) return InvalidArgument("TENSOR_MISSING", field, "a tensor", "none");
  return DecodeTensor(field, wire, RankOf(layout), RankOf(layout), payload);
}

absl::Status CheckSame(const char* field, const char* what, int64_t expected, const char* of,
                       int64_t actual) {
  if (expected == actual) return absl::OkStatus();
  return InvalidArgument("SHAPE_MISMATCH", field, absl::StrCat(what, " ", expected, ", as in ", of),
                         absl::StrCat(actual));
}

// Head counts and dims travel as int32 in the problem.
absl::Status CheckFitsInt32(const char* field, const BatchExtents& extents) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (extents.heads <= kMax && extents.dim <= kMax) return absl::OkStatus();
  return InvalidArgument("SHAPE_INVALID", field,
                         absl::StrCat("at most ", kMax, " heads and elements of a head"),
                         absl::StrCat(extents.heads, " heads of ", extents.dim));
}

absl::StatusOr<Operands> DecodeOperands(const v1::AttendRequest& header, PayloadReader& payload) {
  const v1::Layout layout = header.layout();
  Operands o;
  TESSERA_ASSIGN_OR_RETURN(o.q, DecodeOperand("q", header.has_q(), header.q(), layout, payload));
  TESSERA_ASSIGN_OR_RETURN(o.k, DecodeOperand("k", header.has_k(), header.k(), layout, payload));
  TESSERA_ASSIGN_OR_RETURN(o.v, DecodeOperand("v", header.has_v(), header.v(), layout, payload));
  o.q_extents = ExtentsOf(layout, o.q);
  o.k_extents = ExtentsOf(layout, o.k);
  o.v_extents = ExtentsOf(layout, o.v);
  TESSERA_RETURN_IF_ERROR(CheckFitsInt32("q.shape", o.q_extents));
  TESSERA_RETURN_IF_ERROR(CheckFitsInt32("k.shape", o.k_extents));
  TESSERA_RETURN_IF_ERROR(CheckFitsInt32("v.shape", o.v_extents));
  TESSERA_RETURN_IF_ERROR(CheckSame("k.shape", "batch", o.q_extents.batch, "q", o.k_extents.batch));
  TESSERA_RETURN_IF_ERROR(CheckSame("v.shape", "batch", o.q_extents.batch, "q", o.v_extents.batch));
  TESSERA_RETURN_IF_ERROR(CheckSame("k.shape", "head_dim_qk", o.q_extents.dim, "q", o.k_extents.dim));
  TESSERA_RETURN_IF_ERROR(CheckSame("v.shape", "tokens", o.k_extents.tokens, "k", o.v_extents.tokens));
  TESSERA_RETURN_IF_ERROR(CheckSame("v.shape", "kv_heads", o.k_extents.heads, "k", o.v_extents.heads));
  return o;
}

absl::StatusOr<TensorView> ViewOperand(const char* field, v1::Layout layout, HostTensor& tensor,
                                       int64_t& batch_tokens) {
  TESSERA_ASSIGN_OR_RETURN(const TokenStrides view, ViewTokens(field, layout, tensor));
  batch_tokens = view.batch_tokens;
  return TensorView{.data = nullptr,
                    .num_elements = tensor.num_elements,
                    .token_stride = view.token_stride,
                    .head_stride = view.head_stride,
                    .dtype = tensor.dtype};
}

using Lengths = google::protobuf::RepeatedField<int64_t>;

// An empty sequence begins at 0: its place could lie past the end of a strided tensor, and nothing is read
// there.
Sequence MakeSequence(int64_t q_begin, int64_t q_len, int64_t kv_begin, int64_t kv_len) {
  return Sequence{.q_begin = q_len > 0 ? q_begin : 0,
                  .q_len = q_len,
                  .kv_begin = kv_len > 0 ? kv_begin : 0,
                  .kv_len = kv_len};
}

absl::Status CheckSequenceCount(int64_t count) {
  if (count <= kMaxSequences) return absl::OkStatus();
  return InvalidArgument("TOO_MANY_SEQUENCES", "number of sequences", absl::StrCat("at most ", kMaxSequences),
                         absl::StrCat(count));
}

absl::Status LengthOutOfRange(const std::string& field, const std::string& expected,
                              const std::string& actual) {
  return MakeError(absl::StatusCode::kOutOfRange,
                   absl::StrCat(field, ": expected ", expected, ", got ", actual),
                   {.reason = "LENGTH_OUT_OF_RANGE",
                    .metadata = {{"field", field}, {"expected", expected}, {"actual", actual}},
                    .retry_after = std::nullopt});
}

// Packed: the lengths are >= 0 and add up to exactly `total`, the tokens of `tensor`.
absl::Status CheckPackedLengths(const char* field, const Lengths& lengths, const char* tensor,
                                int64_t total) {
  int64_t sum = 0;
  for (int i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0) {
      return InvalidArgument("LENGTH_INVALID", absl::StrCat(field, "[", i, "]"), "at least 0",
                             absl::StrCat(lengths[i]));
    }
    if (__builtin_add_overflow(sum, lengths[i], &sum)) sum = std::numeric_limits<int64_t>::max();
  }
  if (sum == total) return absl::OkStatus();
  const std::string name = absl::StrCat("sum of ", field);
  const std::string expected = absl::StrCat(total, ", the tokens of ", tensor);
  if (sum > total) return LengthOutOfRange(name, expected, absl::StrCat(sum));
  return InvalidArgument("LENGTH_SUM", name, expected, absl::StrCat(sum));
}

absl::Status DecodePackedSequences(const v1::AttendRequest& header, const Operands& o,
                                   DecodedRequest& request) {
  const Lengths& q_lens = header.q_lens();
  const Lengths& kv_lens = header.kv_lens().empty() ? q_lens : header.kv_lens();
  if (q_lens.empty() && kv_lens.empty()) {
    request.sequences.push_back(MakeSequence(0, o.q_extents.tokens, 0, o.k_extents.tokens));
    return absl::OkStatus();
  }
  if (q_lens.size() != kv_lens.size()) {
    return InvalidArgument("LENGTH_COUNT", "kv_lens", absl::StrCat(q_lens.size(), " entries, as q_lens has"),
                           absl::StrCat(kv_lens.size(), " entries"));
  }
  TESSERA_RETURN_IF_ERROR(CheckSequenceCount(q_lens.size()));
  TESSERA_RETURN_IF_ERROR(CheckPackedLengths("q_lens", q_lens, "q", o.q_extents.tokens));
  TESSERA_RETURN_IF_ERROR(CheckPackedLengths(header.kv_lens().empty() ? "kv_lens (= q_lens)" : "kv_lens",
                                             kv_lens, "k", o.k_extents.tokens));
  int64_t q_begin = 0, kv_begin = 0;
  for (int i = 0; i < q_lens.size(); ++i) {
    request.sequences.push_back(MakeSequence(q_begin, q_lens[i], kv_begin, kv_lens[i]));
    q_begin += q_lens[i];
    kv_begin += kv_lens[i];
  }
  return absl::OkStatus();
}

// Padded: none, or one in [0, tokens] for each batch row.
absl::Status CheckPaddedLengths(const char* field, const Lengths& lengths, int64_t batch, int64_t tokens) {
  if (lengths.empty()) return absl::OkStatus();
  if (lengths.size() != batch) {
    return InvalidArgument("LENGTH_COUNT", field, absl::StrCat("none, or ", batch, " entries, the batch"),
                           absl::StrCat(lengths.size(), " entries"));
  }
  for (int i = 0; i < lengths.size(); ++i) {
    const std::string name = absl::StrCat(field, "[", i, "]");
    if (lengths[i] < 0)
      return InvalidArgument("LENGTH_INVALID", name, "at least 0", absl::StrCat(lengths[i]));
    if (lengths[i] > tokens) {
      return LengthOutOfRange(name, absl::StrCat("at most ", tokens, ", the padded tokens"),
                              absl::StrCat(lengths[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status DecodePaddedSequences(const v1::AttendRequest& header, const Operands& o, int64_t q_batch_tokens,
                                   int64_t kv_batch_tokens, DecodedRequest& request) {
  const int64_t batch = o.q_extents.batch;
  TESSERA_RETURN_IF_ERROR(CheckSequenceCount(batch));
  TESSERA_RETURN_IF_ERROR(CheckPaddedLengths("q_lens", header.q_lens(), batch, o.q_extents.tokens));
  TESSERA_RETURN_IF_ERROR(CheckPaddedLengths("kv_lens", header.kv_lens(), batch, o.k_extents.tokens));
  for (int b = 0; b < batch; ++b) {
    const int64_t q_len = header.q_lens().empty() ? o.q_extents.tokens : header.q_lens(b);
    const int64_t kv_len = header.kv_lens().empty() ? o.k_extents.tokens : header.kv_lens(b);
    if (q_len < o.q_extents.tokens) request.has_padding = true;
    request.sequences.push_back(MakeSequence(b * q_batch_tokens, q_len, b * kv_batch_tokens, kv_len));
  }
  return absl::OkStatus();
}

// A window edge: -1 ("all") when unset.
absl::StatusOr<int64_t> DecodeWindow(const char* field, bool set, int64_t value) {
  if (!set) return -1;
  if (value >= 0) return value;
  return InvalidArgument("WINDOW_INVALID", field, "at least 0, or unset for no limit", absl::StrCat(value));
}

absl::Status DecodeWindows(const v1::AttentionOptions& options, DecodedRequest& request) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t left, DecodeWindow("options.window_left", options.has_window_left(),
                                                            options.window_left()));
  TESSERA_ASSIGN_OR_RETURN(int64_t right, DecodeWindow("options.window_right", options.has_window_right(),
                                                       options.window_right()));
  if (options.causal()) {
    if (right > 0) {
      return InvalidArgument("WINDOW_CONFLICT", "options.window_right", "0 or unset, as causal is set",
                             absl::StrCat(right));
    }
    right = 0;
  }
  for (Sequence& sequence : request.sequences) {
    sequence.window_left = left;
    sequence.window_right = right;
  }
  return absl::OkStatus();
}

absl::Status DecodeDiagonals(const v1::AttentionOptions& options, DecodedRequest& request) {
  if (!v1::Alignment_IsValid(options.alignment())) {
    return InvalidArgument("ALIGNMENT_UNKNOWN", "options.alignment",
                           absl::StrCat("an Alignment in 0..", int{v1::Alignment_MAX}),
                           absl::StrCat(static_cast<int>(options.alignment())));
  }
  const auto& offsets = options.diagonal_offsets();
  const auto count = static_cast<int64_t>(request.sequences.size());
  if (!offsets.empty() && offsets.size() != count) {
    return InvalidArgument("DIAGONAL_COUNT", "options.diagonal_offsets",
                           absl::StrCat("none, or ", count, " entries, one for each sequence"),
                           absl::StrCat(offsets.size(), " entries"));
  }
  for (int i = 0; i < count; ++i) {
    Sequence& sequence = request.sequences[static_cast<size_t>(i)];
    if (!offsets.empty()) {
      sequence.diagonal_offset = offsets[i];
    } else if (options.alignment() == v1::ALIGNMENT_BOTTOM_RIGHT) {
      sequence.diagonal_offset = sequence.kv_len - sequence.q_len;
    }
  }
  return absl::OkStatus();
}

absl::Status DecodePerHead(const char* field, const google::protobuf::RepeatedField<float>& wire,
                           int32_t q_heads, std::vector<float>& values, const float*& pointer) {
  if (wire.empty()) return absl::OkStatus();
  if (wire.size() != q_heads) {
    return InvalidArgument("PER_HEAD_COUNT", field,
                           absl::StrCat("none, or ", q_heads, " entries, one for each q head"),
                           absl::StrCat(wire.size(), " entries"));
  }
  values.assign(wire.begin(), wire.end());
  pointer = values.data();
  return absl::OkStatus();
}

absl::Status DecodeOptions(const v1::AttentionOptions& options, DecodedRequest& request) {
  AttentionProblem& p = request.problem;
  p.scale = options.has_scale() ? options.scale()
                                : 1.0f / std::sqrt(static_cast<float>(std::max(p.head_dim_qk, 1)));
  p.softcap = options.softcap();
  TESSERA_RETURN_IF_ERROR(DecodePerHead("options.alibi_slopes", options.alibi_slopes(), p.num_q_heads,
                                        request.alibi_slopes, p.alibi_slopes));
  TESSERA_RETURN_IF_ERROR(
      DecodePerHead("options.sinks", options.sinks(), p.num_q_heads, request.sinks, p.sinks));
  TESSERA_RETURN_IF_ERROR(DecodeWindows(options, request));
  return DecodeDiagonals(options, request);
}

absl::StatusOr<DType> DecodeOutputDType(const std::string& field, const v1::RequestedOutput& wire,
                                        DType q_dtype) {
  const bool is_lse = wire.kind() == v1::OUTPUT_KIND_LSE;
  if (wire.dtype() == v1::DATA_TYPE_UNSPECIFIED) {
    if (is_lse) return TESSERA_DTYPE_FP32;
    return q_dtype == TESSERA_DTYPE_FP8_E4M3 ? TESSERA_DTYPE_BF16 : q_dtype;
  }
  TESSERA_ASSIGN_OR_RETURN(const DType dtype, DecodeDType(field, wire.dtype()));
  if (is_lse && dtype != TESSERA_DTYPE_FP32) {
    return InvalidArgument("OUTPUT_DTYPE_INVALID", field, "fp32 or unspecified for LSE", DTypeName(dtype));
  }
  return dtype;
}

absl::Status AddOutput(const std::string& field, const v1::RequestedOutput& wire, v1::Layout layout,
                       const Operands& o, DecodedRequest& request) {
  if (!v1::OutputKind_IsValid(wire.kind())) {
    return InvalidArgument("OUTPUT_KIND_UNKNOWN", absl::StrCat(field, ".kind"),
                           absl::StrCat("an OutputKind in 0..", int{v1::OutputKind_MAX}),
                           absl::StrCat(static_cast<int>(wire.kind())));
  }
  for (const OutputSpec& other : request.outputs) {
    if (other.kind != wire.kind()) continue;
    return InvalidArgument("OUTPUT_DUPLICATE", absl::StrCat(field, ".kind"), "each kind at most once",
                           absl::StrCat(v1::OutputKind_Name(wire.kind()), " again"));
  }
  if (wire.has_destination()) return RegionsUnsupported(absl::StrCat(field, ".destination"));

  OutputSpec spec;
  spec.kind = wire.kind();
  TESSERA_ASSIGN_OR_RETURN(spec.dtype, DecodeOutputDType(absl::StrCat(field, ".dtype"), wire, o.q.dtype));
  const bool is_lse = wire.kind() == v1::OUTPUT_KIND_LSE;
  const BatchExtents extents{.batch = o.q_extents.batch,
                             .tokens = o.q_extents.tokens,
                             .heads = o.q_extents.heads,
                             .dim = is_lse ? -1 : o.v_extents.dim};
  spec.shape = ShapeOf(layout, extents);
  // q's extents multiply without overflow, but v's head dim is another one. A zero counts as 1, as the
  // strides are products of some of the extents.
  int64_t elements = 1;
  bool is_empty = false;
  for (const int64_t extent : spec.shape) {
    is_empty = is_empty || extent == 0;
    if (__builtin_mul_overflow(elements, std::max<int64_t>(extent, 1), &elements) || elements > kMaxExtent) {
      return InvalidArgument("SHAPE_OVERFLOW", field, absl::StrCat("at most ", kMaxExtent, " elements"),
                             ShapeText(spec.shape));
    }
  }
  if (is_empty) elements = 0;
  spec.bytes = elements * DTypeSize(spec.dtype);
  request.output_bytes += spec.bytes;

  AttentionProblem& p = request.problem;
  const TokenStrides strides = ContiguousTokenStrides(layout, extents, !is_lse);
  if (is_lse) {
    p.lse = {.data = nullptr,
             .num_elements = elements,
             .token_stride = strides.token_stride,
             .head_stride = strides.head_stride};
  } else {
    p.o = {.data = nullptr,
           .num_elements = elements,
           .token_stride = strides.token_stride,
           .head_stride = strides.head_stride,
           .dtype = spec.dtype};
  }
  request.outputs.push_back(std::move(spec));
  return absl::OkStatus();
}

absl::Status DecodeOutputs(const v1::AttendRequest& header, const Operands& o, DecodedRequest& request) {
  if (header.outputs().empty()) {
    return AddOutput("outputs", v1::RequestedOutput(), header.layout(), o, request);
  }
  for (int i = 0; i < header.outputs_size(); ++i) {
    TESSERA_RETURN_IF_ERROR(
        AddOutput(absl::StrCat("outputs[", i, "]"), header.outputs(i), header.layout(), o, request));
  }
  const bool has_output = std::any_of(request.outputs.begin(), request.outputs.end(),
                                      [](const OutputSpec& s) { return s.kind == v1::OUTPUT_KIND_OUTPUT; });
  if (has_output) return absl::OkStatus();
  return InvalidArgument("OUTPUT_MISSING", "outputs", "OUTPUT_KIND_OUTPUT among the outputs", "none");
}

absl::Status CheckId(const std::string& id) {
  if (id.size() <= kMaxIdBytes) return absl::OkStatus();
  return InvalidArgument("ID_TOO_LONG", "id", absl::StrCat("at most ", kMaxIdBytes, " bytes"),
                         absl::StrCat(id.size(), " bytes"));
}

}  // namespace

absl::StatusOr<DecodedRequest> DecodeRequest(const v1::AttendRequest& header, std::vector<Payload> entries,
                                             DataRequirement data) {
  TESSERA_RETURN_IF_ERROR(CheckId(header.id()));
  TESSERA_RETURN_IF_ERROR(CheckLayout(header.layout()));
  PayloadReader payload(std::move(entries), data);
  TESSERA_ASSIGN_OR_RETURN(Operands o, DecodeOperands(header, payload));

  DecodedRequest request;
  request.backend = header.backend();
  AttentionProblem& p = request.problem;
  p.struct_size = sizeof(AttentionProblem);
  p.num_q_heads = static_cast<int32_t>(o.q_extents.heads);
  p.num_kv_heads = static_cast<int32_t>(o.k_extents.heads);
  p.head_dim_qk = static_cast<int32_t>(o.q_extents.dim);
  p.head_dim_v = static_cast<int32_t>(o.v_extents.dim);
  request.input_bytes = o.q.bytes() + o.k.bytes() + o.v.bytes();
  int64_t q_batch_tokens = 0, kv_batch_tokens = 0;
  TESSERA_ASSIGN_OR_RETURN(p.q, ViewOperand("q", header.layout(), o.q, q_batch_tokens));
  TESSERA_ASSIGN_OR_RETURN(p.k, ViewOperand("k", header.layout(), o.k, kv_batch_tokens));
  TESSERA_ASSIGN_OR_RETURN(p.v, ViewOperand("v", header.layout(), o.v, kv_batch_tokens));

  TESSERA_RETURN_IF_ERROR(header.layout() == v1::LAYOUT_PACKED
                              ? DecodePackedSequences(header, o, request)
                              : DecodePaddedSequences(header, o, q_batch_tokens, kv_batch_tokens, request));
  p.sequences = request.sequences.data();
  p.num_sequences = static_cast<int64_t>(request.sequences.size());
  TESSERA_RETURN_IF_ERROR(DecodeOptions(header.options(), request));
  TESSERA_RETURN_IF_ERROR(DecodeScales(header, request));
  TESSERA_RETURN_IF_ERROR(DecodeMasks(header, o.q_extents, o.k_extents, payload, request));
  TESSERA_RETURN_IF_ERROR(DecodeOutputs(header, o, request));
  TESSERA_RETURN_IF_ERROR(payload.CheckAllTaken());

  request.input_bytes +=
      static_cast<int64_t>((request.alibi_slopes.size() + request.sinks.size()) * sizeof(float));
  request.inputs = {std::move(o.q.source), std::move(o.k.source), std::move(o.v.source)};
  return request;
}

int64_t TensorBytes(const DecodedRequest& request) {
  int64_t bytes = 0;
  for (const TensorSource& input : request.inputs) bytes += input.bytes();
  for (const TensorSource& mask : request.masks) bytes += mask.bytes();
  return bytes;
}

std::vector<HostBuffer> BindInputs(DecodedRequest& request) {
  std::vector<HostBuffer> buffers;
  const auto place = [&buffers](TensorSource& source) {
    const HostBuffer& buffer = buffers.emplace_back(source.bytes());
    source.CopyTo(buffer.data(), 0, source.bytes());
    Payload placed;
    placed.Append({buffer.data(), source.bytes()});
    source = TensorSource(std::move(placed));
    return buffer.data();
  };
  AttentionProblem& p = request.problem;
  TensorView* const views[] = {&p.q, &p.k, &p.v};
  for (size_t i = 0; i < request.inputs.size(); ++i) views[i]->data = place(request.inputs[i]);

  std::vector<const std::byte*> masks;
  for (TensorSource& mask : request.masks) masks.push_back(place(mask));
  for (size_t s = 0; s < request.mask_offsets.size(); ++s) {
    request.sequences[s].mask = masks[masks.size() == 1 ? 0 : s] + request.mask_offsets[s];
  }
  return buffers;
}

void FillPadding(v1::OutputKind kind, std::byte* data, int64_t bytes) {
  if (kind == v1::OUTPUT_KIND_LSE) {
    std::fill_n(reinterpret_cast<float*>(data), bytes / static_cast<int64_t>(sizeof(float)),
                -std::numeric_limits<float>::infinity());
  } else {
    std::memset(data, 0, static_cast<size_t>(bytes));
  }
}

std::vector<OutputBytes> BindOutputs(DecodedRequest& request) {
  std::vector<OutputBytes> outputs;
  for (const OutputSpec& spec : request.outputs) {
    const OutputBytes& output = outputs.emplace_back(Share(HostBuffer(spec.bytes)), 0, spec.bytes);
    if (request.has_padding) FillPadding(spec.kind, output.data(), spec.bytes);
    if (spec.kind == v1::OUTPUT_KIND_LSE) {
      request.problem.lse.data = reinterpret_cast<float*>(output.data());
    } else {
      request.problem.o.data = output.data();
    }
  }
  return outputs;
}

}  // namespace tessera
