#include "server/mask_codec.h"

#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

// What a mask broadcasts to: (batch, q_heads, q tokens, kv tokens). A packed mask has no batch dimension.
using Target = std::array<int64_t, 4>;

absl::Status SetMaskKind(DType dtype, AttentionProblem& problem) {
  switch (dtype) {
    case TESSERA_DTYPE_BOOL:
      problem.mask_kind = TESSERA_MASK_BOOLEAN;
      break;
    case TESSERA_DTYPE_FP32:
    case TESSERA_DTYPE_FP16:
    case TESSERA_DTYPE_BF16:
      problem.mask_kind = TESSERA_MASK_ADDITIVE;
      break;
    default:
      return InvalidArgument("MASK_DTYPE_INVALID", "masks[0].dtype", "one of bool, fp32, fp16, bf16",
                             DTypeName(dtype));
  }
  problem.mask_dtype = dtype;
  return absl::OkStatus();
}

// Strides over `target` with which `mask` broadcasts to it, or an error that shows both shapes.
absl::StatusOr<Target> BroadcastStrides(const std::string& field, const HostTensor& mask,
                                        const Target& target, size_t target_rank) {
  Target strides{};
  const size_t missing = target.size() - mask.shape.size();  // rank <= 4 has been checked
  for (size_t i = 0; i < mask.shape.size(); ++i) {
    if (mask.shape[i] == target[i + missing]) {
      strides[i + missing] = mask.shape[i] == 1 ? 0 : mask.strides[i];
    } else if (mask.shape[i] != 1) {
      return InvalidArgument(
          "MASK_SHAPE", absl::StrCat(field, ".shape"),
          absl::StrCat("a shape that broadcasts to ",
                       ShapeText(std::vector<int64_t>(target.end() - static_cast<int64_t>(target_rank),
                                                      target.end()))),
          ShapeText(mask.shape));
    }
  }
  return strides;
}

void SetMaskStrides(const Target& strides, Sequence& sequence) {
  sequence.mask_head_stride = strides[1];
  sequence.mask_q_stride = strides[2];
  sequence.mask_kv_stride = strides[3];
}

}  // namespace

absl::Status DecodeMasks(const v1::AttendRequest& header, const BatchExtents& q, const BatchExtents& kv,
                         PayloadReader& payload, DecodedRequest& request) {
  const int64_t num_masks = header.masks_size();
  if (num_masks == 0) return absl::OkStatus();
  const bool packed = header.layout() == v1::LAYOUT_PACKED;
  const auto num_sequences = static_cast<int64_t>(request.sequences.size());
  if (num_masks != 1 && (!packed || num_masks != num_sequences)) {
    return InvalidArgument("MASK_COUNT", "masks",
                           packed
                               ? absl::StrCat("none, one, or one for each of ", num_sequences, " sequences")
                               : "none or one, as the batch is padded",
                           absl::StrCat(num_masks));
  }

  std::vector<HostTensor> masks;
  for (int i = 0; i < header.masks_size(); ++i) {
    const std::string field = absl::StrCat("masks[", i, "]");
    TESSERA_ASSIGN_OR_RETURN(HostTensor mask,
                             DecodeTensor(field, header.masks(i), 0, packed ? 3 : 4, payload));
    if (i == 0) TESSERA_RETURN_IF_ERROR(SetMaskKind(mask.dtype, request.problem));
    if (mask.dtype != request.problem.mask_dtype) {
      return InvalidArgument("MASK_DTYPE_MISMATCH", absl::StrCat(field, ".dtype"),
                             absl::StrCat(DTypeName(request.problem.mask_dtype), " as masks[0]"),
                             DTypeName(mask.dtype));
    }
    request.input_bytes += mask.bytes();
    masks.push_back(std::move(mask));
  }

  for (int64_t s = 0; s < num_sequences; ++s) {
    Sequence& sequence = request.sequences[static_cast<size_t>(s)];
    const int64_t index = num_masks == 1 ? 0 : s;
    const HostTensor& mask = masks[static_cast<size_t>(index)];
    const Target target = packed ? Target{1, q.heads, sequence.q_len, sequence.kv_len}
                                 : Target{q.batch, q.heads, q.tokens, kv.tokens};
    std::string field = absl::StrCat("masks[", index, "]");
    if (packed && num_masks == 1 && num_sequences > 1) absl::StrAppend(&field, " (for sequence ", s, ")");
    TESSERA_ASSIGN_OR_RETURN(const Target strides, BroadcastStrides(field, mask, target, packed ? 3 : 4));
    SetMaskStrides(strides, sequence);
    request.mask_offsets.push_back((packed ? 0 : s) * strides[0] * DTypeSize(mask.dtype));
  }
  for (HostTensor& mask : masks) request.masks.push_back(std::move(mask.source));
  return absl::OkStatus();
}

}  // namespace tessera
