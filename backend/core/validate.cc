// Validate(), in the order in which later checks rely on earlier ones: counts, then tensors, then sequences.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/attention_problem.h"
#include "backend/core/error.h"
#include "backend/core/output_overlap.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

const std::string& AtMostMaxExtent() {
  static const std::string text = absl::StrCat("0..", kMaxExtent);
  return text;
}

// What a field belongs to; spelled out only once something is wrong.
struct Owner {
  const char* name;
  int64_t index = -1;  // of an array element

  std::string Field(const char* member) const {
    return index < 0 ? absl::StrCat(name, ".", member) : absl::StrCat(name, "[", index, "].", member);
  }
};

// A count, length, begin or stride: 0..kMaxExtent.
absl::Status CheckExtent(const Owner& owner, const char* member, int64_t value, const char* negative_reason) {
  if (value >= 0 && value <= kMaxExtent) return absl::OkStatus();
  return InvalidArgument(value < 0 ? negative_reason : "EXTENT_TOO_LARGE", owner.Field(member),
                         AtMostMaxExtent(), absl::StrCat(value));
}

bool IsAligned(const void* data, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(element_bytes) == 0;
}

absl::Status Misaligned(const std::string& field, const void* data, int64_t element_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  return InvalidArgument("DATA_MISALIGNED", field,
                         absl::StrCat("an address that is a multiple of ", element_bytes),
                         absl::StrCat("0x", absl::Hex(address)));
}

absl::Status CheckHeads(const AttentionProblem& p) {
  const std::pair<const char*, int32_t> heads[] = {{"num_q_heads", p.num_q_heads},
                                                   {"num_kv_heads", p.num_kv_heads}};
  for (const auto& [field, value] : heads) {
    if (value < 1) return InvalidArgument("HEAD_COUNT_INVALID", field, "at least 1", absl::StrCat(value));
  }
  if (p.num_q_heads % p.num_kv_heads != 0) {
    return InvalidArgument("HEAD_COUNT_NOT_DIVISIBLE", "num_q_heads",
                           absl::StrCat("a multiple of num_kv_heads = ", p.num_kv_heads),
                           absl::StrCat(p.num_q_heads));
  }
  const std::pair<const char*, int32_t> dims[] = {{"head_dim_qk", p.head_dim_qk},
                                                  {"head_dim_v", p.head_dim_v}};
  for (const auto& [field, value] : dims) {
    if (value < 1) return InvalidArgument("HEAD_DIM_INVALID", field, "at least 1", absl::StrCat(value));
    if (const int64_t row = int64_t{p.num_q_heads} * value; row > kMaxExtent) {
      return InvalidArgument("EXTENT_TOO_LARGE", absl::StrCat("num_q_heads * ", field),
                             absl::StrCat("at most ", kMaxExtent), absl::StrCat(row));
    }
  }
  return absl::OkStatus();
}

// One value for each query head.
template <typename IsAllowed>
absl::Status CheckPerHead(const char* field, const float* values, int32_t count, const char* reason,
                          const char* expected, IsAllowed allowed) {
  if (values == nullptr) return absl::OkStatus();
  if (!IsAligned(values, sizeof(float))) return Misaligned(field, values, sizeof(float));
  for (int32_t h = 0; h < count; ++h) {
    if (!allowed(values[h])) {
      return InvalidArgument(reason, absl::StrCat(field, "[", h, "]"), expected, absl::StrCat(values[h]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogitOptions(const AttentionProblem& p) {
  if (!std::isfinite(p.scale)) {
    return InvalidArgument("SCALE_INVALID", "scale", "a finite number", absl::StrCat(p.scale));
  }
  if (!std::isfinite(p.softcap) || p.softcap < 0) {
    return InvalidArgument("SOFTCAP_INVALID", "softcap", "0 (off) or a positive finite number",
                           absl::StrCat(p.softcap));
  }
  TESSERA_RETURN_IF_ERROR(CheckPerHead("alibi_slopes", p.alibi_slopes, p.num_q_heads, "ALIBI_SLOPE_INVALID",
                                       "a finite number", [](float slope) { return std::isfinite(slope); }));
  return CheckPerHead("sinks", p.sinks, p.num_q_heads, "SINK_INVALID", "a finite number or -inf",
                      [](float sink) { return std::isfinite(sink) || (std::isinf(sink) && sink < 0); });
}

absl::Status CheckDTypes(const AttentionProblem& p) {
  const DType input = p.q.dtype;
  if (input < TESSERA_DTYPE_FP32 || input > TESSERA_DTYPE_FP8_E4M3) {
    return InvalidArgument("DTYPE_INVALID", "q.dtype", "one of fp32, fp16, bf16, fp8_e4m3", DTypeName(input));
  }
  const std::pair<const char*, DType> others[] = {{"k.dtype", p.k.dtype}, {"v.dtype", p.v.dtype}};
  for (const auto& [field, dtype] : others) {
    if (dtype == input) continue;
    return InvalidArgument("DTYPE_MISMATCH", field, absl::StrCat(DTypeName(input), " as q"),
                           DTypeName(dtype));
  }
  if (p.o.dtype < TESSERA_DTYPE_FP32 || p.o.dtype > TESSERA_DTYPE_BF16) {
    return InvalidArgument("OUTPUT_DTYPE_INVALID", "o.dtype", "one of fp32, fp16, bf16",
                           DTypeName(p.o.dtype));
  }
  return absl::OkStatus();
}

absl::Status CheckMaskKind(const AttentionProblem& p) {
  std::string expected;
  bool fits = false;
  switch (p.mask_kind) {
    case TESSERA_MASK_NONE:
      expected = absl::StrCat(DTypeName(TESSERA_DTYPE_INVALID), " for no mask");
      fits = p.mask_dtype == TESSERA_DTYPE_INVALID;
      break;
    case TESSERA_MASK_BOOLEAN:
      expected = "bool for a boolean mask";
      fits = p.mask_dtype == TESSERA_DTYPE_BOOL;
      break;
    case TESSERA_MASK_ADDITIVE:
      expected = "one of fp32, fp16, bf16 for an additive mask";
      fits = p.mask_dtype >= TESSERA_DTYPE_FP32 && p.mask_dtype <= TESSERA_DTYPE_BF16;
      break;
    default:
      return InvalidArgument("MASK_KIND_INVALID", "mask_kind", "0 (none), 1 (boolean) or 2 (additive)",
                             absl::StrCat(static_cast<int32_t>(p.mask_kind)));
  }
  if (fits) return absl::OkStatus();
  return InvalidArgument("MASK_DTYPE_INVALID", "mask_dtype", expected, DTypeName(p.mask_dtype));
}

// One value for each head of each sequence, of an fp8 tensor. After OK every index that
// tessera/attention.h forms fits int64.
absl::Status CheckScales(const Owner& owner, const tessera_scales& scales, int32_t heads,
                         const AttentionProblem& p) {
  if (scales.data == nullptr) return absl::OkStatus();
  if (p.q.dtype != TESSERA_DTYPE_FP8_E4M3) {
    return InvalidArgument(
        "SCALES_UNEXPECTED", owner.name,
        absl::StrCat("none, as the inputs are ", DTypeName(p.q.dtype), " and not fp8_e4m3"), "scales");
  }
  if (!IsAligned(scales.data, sizeof(float))) {
    return Misaligned(owner.Field("data"), scales.data, sizeof(float));
  }
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "sequence_stride", scales.sequence_stride, "STRIDE_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "head_stride", scales.head_stride, "STRIDE_INVALID"));
  const int64_t reach = SaturatingAdd(SaturatingMultiply(p.num_sequences, scales.sequence_stride),
                                      SaturatingMultiply(heads, scales.head_stride));
  if (reach > kMaxExtent) {
    return InvalidArgument("EXTENT_TOO_LARGE", owner.Field("sequence_stride"),
                           absl::StrCat("scales that reach at most ", kMaxExtent, " elements"),
                           absl::StrCat(reach));
  }
  // A stride of 0 repeats what was looked at before.
  const int64_t distinct_sequences =
      scales.sequence_stride == 0 ? std::min<int64_t>(p.num_sequences, 1) : p.num_sequences;
  const int64_t distinct_heads = scales.head_stride == 0 ? 1 : heads;
  for (int64_t n = 0; n < distinct_sequences; ++n) {
    for (int64_t h = 0; h < distinct_heads; ++h) {
      const float scale = ScaleOf(scales, n, h);
      if (std::isfinite(scale) && scale > 0) continue;
      return InvalidArgument("TENSOR_SCALE_INVALID", absl::StrCat(owner.name, "[", n, "][", h, "]"),
                             "a finite number above 0", absl::StrCat(scale));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAllScales(const AttentionProblem& p) {
  TESSERA_RETURN_IF_ERROR(CheckScales({"q_scales"}, p.q_scales, p.num_q_heads, p));
  TESSERA_RETURN_IF_ERROR(CheckScales({"k_scales"}, p.k_scales, p.num_kv_heads, p));
  return CheckScales({"v_scales"}, p.v_scales, p.num_kv_heads, p);
}

// A tensor of the problem in the terms that all of them, lse included, are checked in.
struct Operand {
  const char* name;
  const void* data;
  int64_t num_elements, token_stride, head_stride;
  int64_t heads, row_elements;
  int64_t element_bytes;

  Owner owner() const { return {name}; }
};

Operand OperandOf(const char* name, const TensorView& t, int64_t heads, int64_t head_dim) {
  return {name, t.data, t.num_elements, t.token_stride, t.head_stride, heads, head_dim, DTypeSize(t.dtype)};
}

Operand OperandOf(const tessera_lse& lse, int64_t heads) {
  return {"lse", lse.data, lse.num_elements, lse.token_stride, lse.head_stride, heads, 1, sizeof(float)};
}

absl::Status CheckOperand(const Operand& t, DataRequirement data) {
  TESSERA_RETURN_IF_ERROR(CheckExtent(t.owner(), "num_elements", t.num_elements, "TENSOR_SIZE_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(t.owner(), "token_stride", t.token_stride, "STRIDE_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(t.owner(), "head_stride", t.head_stride, "STRIDE_INVALID"));
  if (const int64_t span = SaturatingMultiply(t.heads, t.head_stride); span > kMaxExtent) {
    return InvalidArgument("EXTENT_TOO_LARGE", absl::StrCat("heads * ", t.name, ".head_stride"),
                           absl::StrCat("at most ", kMaxExtent), absl::StrCat(span));
  }
  if (data == DataRequirement::kRequired && t.data == nullptr && t.num_elements > 0) {
    return InvalidArgument("DATA_MISSING", t.owner().Field("data"),
                           absl::StrCat("memory for ", t.num_elements, " elements"), "null");
  }
  if (IsAligned(t.data, t.element_bytes)) return absl::OkStatus();
  return Misaligned(t.owner().Field("data"), t.data, t.element_bytes);
}

// Tokens [begin, begin + length) of `t`, with all heads, lie inside it. A sequence without tokens addresses
// nothing, so that only the product begin * stride must stay sane.
absl::Status CheckReach(const Owner& owner, const char* begin_member, int64_t begin, int64_t length,
                        const Operand& t) {
  if (length == 0) {
    const int64_t offset = SaturatingMultiply(begin, t.token_stride);
    if (offset <= kMaxExtent) return absl::OkStatus();
    return InvalidArgument("EXTENT_TOO_LARGE",
                           absl::StrCat(owner.Field(begin_member), " * ", t.name, ".token_stride"),
                           absl::StrCat("at most ", kMaxExtent), absl::StrCat(offset));
  }
  const int64_t last = SaturatingAdd(SaturatingMultiply(begin + length - 1, t.token_stride),
                                     (t.heads - 1) * t.head_stride + t.row_elements - 1);
  if (last < t.num_elements) return absl::OkStatus();
  const std::string expected = absl::StrCat("tokens within the ", t.num_elements, " elements of ", t.name);
  const std::string actual = absl::StrCat(length, " tokens from ", begin, " on, the last element at ", last);
  return MakeError(absl::StatusCode::kOutOfRange,
                   absl::StrCat(owner.Field(begin_member), ": expected ", expected, ", got ", actual),
                   {.reason = "SEQUENCE_OUT_OF_RANGE",
                    .metadata = {{"field", owner.Field(begin_member)},
                                 {"tensor", t.name},
                                 {"expected", expected},
                                 {"actual", actual}},
                    .retry_after = std::nullopt});
}

absl::Status CheckWindow(const Owner& owner, const Sequence& s) {
  if (s.diagonal_offset < -kMaxExtent || s.diagonal_offset > kMaxExtent) {
    return InvalidArgument("EXTENT_TOO_LARGE", owner.Field("diagonal_offset"),
                           absl::StrCat(-kMaxExtent, "..", kMaxExtent), absl::StrCat(s.diagonal_offset));
  }
  const std::pair<const char*, int64_t> windows[] = {{"window_left", s.window_left},
                                                     {"window_right", s.window_right}};
  for (const auto& [member, value] : windows) {
    if (value <= kMaxExtent) continue;
    return InvalidArgument("EXTENT_TOO_LARGE", owner.Field(member),
                           absl::StrCat("at most ", kMaxExtent, " (negative: no limit)"),
                           absl::StrCat(value));
  }
  return absl::OkStatus();
}

absl::Status CheckMask(const Owner& owner, const Sequence& s, const AttentionProblem& p,
                       DataRequirement data) {
  if (p.mask_kind == TESSERA_MASK_NONE) {
    if (s.mask == nullptr) return absl::OkStatus();
    return InvalidArgument("MASK_UNEXPECTED", owner.Field("mask"), "null, as mask_kind is none", "a pointer");
  }
  const bool has_scores = s.q_len > 0 && s.kv_len > 0;
  if (data == DataRequirement::kRequired && has_scores && s.mask == nullptr) {
    return InvalidArgument("MASK_MISSING", owner.Field("mask"), "a mask, as mask_kind is not none", "null");
  }
  const int64_t element_bytes = DTypeSize(p.mask_dtype);
  if (!IsAligned(s.mask, element_bytes)) return Misaligned(owner.Field("mask"), s.mask, element_bytes);
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "mask_head_stride", s.mask_head_stride, "STRIDE_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "mask_q_stride", s.mask_q_stride, "STRIDE_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "mask_kv_stride", s.mask_kv_stride, "STRIDE_INVALID"));
  const int64_t reach = SaturatingAdd(SaturatingMultiply(p.num_q_heads, s.mask_head_stride),
                                      SaturatingAdd(SaturatingMultiply(s.q_len, s.mask_q_stride),
                                                    SaturatingMultiply(s.kv_len, s.mask_kv_stride)));
  if (reach <= kMaxExtent) return absl::OkStatus();
  return InvalidArgument("EXTENT_TOO_LARGE", owner.Field("mask"),
                         absl::StrCat("lengths and strides that span at most ", kMaxExtent, " elements"),
                         absl::StrCat(reach));
}

absl::Status CheckLengths(const Owner& owner, const Sequence& s) {
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "q_len", s.q_len, "LENGTH_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "kv_len", s.kv_len, "LENGTH_INVALID"));
  TESSERA_RETURN_IF_ERROR(CheckExtent(owner, "q_begin", s.q_begin, "BEGIN_INVALID"));
  return CheckExtent(owner, "kv_begin", s.kv_begin, "BEGIN_INVALID");
}

absl::Status CheckTotals(const ProblemSize& size) {
  const std::pair<const char*, int64_t> totals[] = {{"sum of q_len", size.q_tokens},
                                                    {"sum of kv_len", size.kv_tokens}};
  for (const auto& [field, value] : totals) {
    if (value <= kMaxExtent) continue;
    return InvalidArgument("EXTENT_TOO_LARGE", field, absl::StrCat("at most ", kMaxExtent),
                           absl::StrCat(value));
  }
  return absl::OkStatus();
}

absl::Status CheckDistinctRows(const Operand& t, const AttentionProblem& p) {
  const OutputLayout layout{t.token_stride, t.head_stride, t.heads, t.row_elements};
  const auto overlap = FindOutputOverlap(layout, p.sequences, p.num_sequences);
  if (!overlap) return absl::OkStatus();
  const auto [first, second] = *overlap;
  if (first == second) {
    return InvalidArgument(
        "OUTPUT_ROWS_OVERLAP", absl::StrCat(t.name, " strides"),
        absl::StrCat("strides that keep the rows of ", t.heads, " heads and ", p.sequences[first].q_len,
                     " tokens apart, ", t.row_elements, " elements each"),
        absl::StrCat("token_stride ", t.token_stride, ", head_stride ", t.head_stride));
  }
  return InvalidArgument("OUTPUT_ROWS_OVERLAP", absl::StrCat("sequences[", second, "]"),
                         absl::StrCat("rows of ", t.name, " that no other sequence writes"),
                         absl::StrCat("rows shared with sequences[", first, "]"));
}

absl::Status CheckSequences(const AttentionProblem& p, DataRequirement data, const Operand (&q_side)[3],
                            int num_q_side, const Operand (&kv_side)[2]) {
  if (p.num_sequences < 0 || p.num_sequences > kMaxExtent) {
    return InvalidArgument("SEQUENCE_COUNT_INVALID", "num_sequences", AtMostMaxExtent(),
                           absl::StrCat(p.num_sequences));
  }
  if (p.num_sequences > 0 && p.sequences == nullptr) {
    return InvalidArgument("SEQUENCES_MISSING", "sequences", absl::StrCat(p.num_sequences, " sequences"),
                           "null");
  }
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const Sequence& s = p.sequences[n];
    const Owner owner{"sequences", n};
    TESSERA_RETURN_IF_ERROR(CheckLengths(owner, s));
    TESSERA_RETURN_IF_ERROR(CheckWindow(owner, s));
    TESSERA_RETURN_IF_ERROR(CheckMask(owner, s, p, data));
    for (int i = 0; i < num_q_side; ++i) {
      TESSERA_RETURN_IF_ERROR(CheckReach(owner, "q_begin", s.q_begin, s.q_len, q_side[i]));
    }
    for (const Operand& operand : kv_side) {
      TESSERA_RETURN_IF_ERROR(CheckReach(owner, "kv_begin", s.kv_begin, s.kv_len, operand));
    }
  }
  return CheckTotals(SizeOf(p));
}

}  // namespace

absl::Status Validate(const AttentionProblem& problem, DataRequirement data) {
  const AttentionProblem& p = problem;
  if (p.struct_size < sizeof(AttentionProblem)) {
    return InvalidArgument("STRUCT_SIZE_INVALID", "struct_size",
                           absl::StrCat("at least ", sizeof(AttentionProblem)), absl::StrCat(p.struct_size));
  }
  TESSERA_RETURN_IF_ERROR(CheckHeads(p));
  TESSERA_RETURN_IF_ERROR(CheckLogitOptions(p));
  TESSERA_RETURN_IF_ERROR(CheckDTypes(p));
  TESSERA_RETURN_IF_ERROR(CheckMaskKind(p));

  const Operand q_side[3] = {OperandOf("q", p.q, p.num_q_heads, p.head_dim_qk),
                             OperandOf("o", p.o, p.num_q_heads, p.head_dim_v),
                             OperandOf(p.lse, p.num_q_heads)};
  const Operand kv_side[2] = {OperandOf("k", p.k, p.num_kv_heads, p.head_dim_qk),
                              OperandOf("v", p.v, p.num_kv_heads, p.head_dim_v)};
  const int num_q_side = WantsLse(p) ? 3 : 2;
  for (int i = 0; i < num_q_side; ++i) TESSERA_RETURN_IF_ERROR(CheckOperand(q_side[i], data));
  for (const Operand& operand : kv_side) TESSERA_RETURN_IF_ERROR(CheckOperand(operand, data));

  TESSERA_RETURN_IF_ERROR(CheckSequences(p, data, q_side, num_q_side, kv_side));
  TESSERA_RETURN_IF_ERROR(CheckAllScales(p));
  for (int i = 1; i < num_q_side; ++i) TESSERA_RETURN_IF_ERROR(CheckDistinctRows(q_side[i], p));
  return absl::OkStatus();
}

}  // namespace tessera
