#include "server/tensor_codec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

static_assert(static_cast<int>(v1::DATA_TYPE_FP32) == TESSERA_DTYPE_FP32);
static_assert(static_cast<int>(v1::DATA_TYPE_FP16) == TESSERA_DTYPE_FP16);
static_assert(static_cast<int>(v1::DATA_TYPE_BF16) == TESSERA_DTYPE_BF16);
static_assert(static_cast<int>(v1::DATA_TYPE_FP8_E4M3) == TESSERA_DTYPE_FP8_E4M3);
static_assert(static_cast<int>(v1::DATA_TYPE_BOOL) == TESSERA_DTYPE_BOOL);

absl::Status CheckShape(const std::string& field, const std::vector<int64_t>& shape, int min_rank,
                        int max_rank) {
  const auto rank = static_cast<int64_t>(shape.size());
  if (rank < min_rank || rank > max_rank) {
    return InvalidArgument("WRONG_RANK", absl::StrCat(field, ".shape"),
                           min_rank == max_rank ? absl::StrCat("rank ", min_rank)
                                                : absl::StrCat("rank ", min_rank, " to ", max_rank),
                           absl::StrCat("rank ", rank));
  }
  // Zero extents count as 1 here: products of some of the extents must fit as well.
  int64_t product = 1;
  for (const int64_t extent : shape) {
    if (extent < 0 || extent > kMaxExtent) {
      return InvalidArgument("SHAPE_INVALID", absl::StrCat(field, ".shape"),
                             absl::StrCat("every entry in 0..", kMaxExtent), ShapeText(shape));
    }
    if (__builtin_mul_overflow(product, std::max<int64_t>(extent, 1), &product)) {
      return InvalidArgument("SHAPE_OVERFLOW", absl::StrCat(field, ".shape"),
                             "a number of elements that fits into 63 bits", ShapeText(shape));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStrides(const std::string& field, const HostTensor& tensor) {
  if (tensor.strides.size() != tensor.shape.size()) {
    return InvalidArgument("STRIDES_INVALID", absl::StrCat(field, ".strides"),
                           absl::StrCat(tensor.shape.size(), " entries, as shape has, or none"),
                           absl::StrCat(tensor.strides.size(), " entries"));
  }
  const bool in_range = std::all_of(tensor.strides.begin(), tensor.strides.end(),
                                    [](int64_t stride) { return stride >= 0 && stride <= kMaxExtent; });
  if (!in_range || (!tensor.strides.empty() && tensor.strides.back() != 1)) {
    return InvalidArgument("STRIDES_INVALID", absl::StrCat(field, ".strides"),
                           absl::StrCat("entries in 0..", kMaxExtent, ", the last one 1"),
                           ShapeText(tensor.strides));
  }
  return absl::OkStatus();
}

// Elements from the first to the last that shape and strides address.
absl::StatusOr<int64_t> SpanOf(const std::string& field, const HostTensor& tensor) {
  if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) return 0;
  int64_t last = 0;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last) || last >= kMaxExtent) {
      return InvalidArgument(
          "SHAPE_OVERFLOW", field, absl::StrCat("at most ", kMaxExtent, " elements"),
          absl::StrCat("shape ", ShapeText(tensor.shape), " with strides ", ShapeText(tensor.strides)));
    }
  }
  return last + 1;
}

}  // namespace

PayloadReader::PayloadReader(std::vector<Payload> payload, DataRequirement data)
    : payload_(std::move(payload)), data_(data), taken_(payload_.size(), false) {}

absl::StatusOr<TensorSource> PayloadReader::Take(const std::string& field, uint32_t index, int64_t bytes) {
  const std::string name = absl::StrCat(field, ".raw_index");
  if (index >= payload_.size()) {
    return InvalidArgument("RAW_INDEX_OUT_OF_RANGE", name,
                           absl::StrCat("an index into the ", payload_.size(), " entries of raw"),
                           absl::StrCat(index));
  }
  if (taken_[index]) {
    return InvalidArgument("RAW_INDEX_REUSED", name, "an entry of raw that no other tensor uses",
                           absl::StrCat(index));
  }
  taken_[index] = true;
  Payload& entry = payload_[index];
  if (entry.bytes() != bytes) {
    return InvalidArgument("WRONG_BYTE_COUNT", absl::StrCat("raw[", index, "] (", field, ")"),
                           absl::StrCat(bytes, " bytes"), absl::StrCat(entry.bytes(), " bytes"));
  }
  return TensorSource(std::move(entry));
}

absl::Status PayloadReader::CheckAllTaken() const {
  if (!has_data()) return absl::OkStatus();
  const auto unused = std::find(taken_.begin(), taken_.end(), false);
  if (unused == taken_.end()) return absl::OkStatus();
  return InvalidArgument("RAW_UNUSED", absl::StrCat("raw[", unused - taken_.begin(), "]"),
                         "every entry of raw to belong to a tensor", "an entry that none refers to");
}

absl::StatusOr<HostTensor> DecodeTensor(const std::string& field, const v1::Tensor& wire, int min_rank,
                                        int max_rank, PayloadReader& payload) {
  HostTensor tensor;
  TESSERA_ASSIGN_OR_RETURN(tensor.dtype, DecodeDType(absl::StrCat(field, ".dtype"), wire.dtype()));
  tensor.shape.assign(wire.shape().begin(), wire.shape().end());
  TESSERA_RETURN_IF_ERROR(CheckShape(field, tensor.shape, min_rank, max_rank));
  if (wire.strides().empty()) {
    tensor.strides = ContiguousStrides(tensor.shape);
  } else {
    tensor.strides.assign(wire.strides().begin(), wire.strides().end());
    TESSERA_RETURN_IF_ERROR(CheckStrides(field, tensor));
  }
  TESSERA_ASSIGN_OR_RETURN(tensor.num_elements, SpanOf(field, tensor));

  if (wire.data_case() == v1::Tensor::kRegion) return RegionsUnsupported(field);
  if (!payload.has_data()) return tensor;
  if (wire.data_case() != v1::Tensor::kRawIndex) {
    return InvalidArgument("DATA_MISSING", field, "raw_index", "a tensor without data");
  }
  TESSERA_ASSIGN_OR_RETURN(tensor.source, payload.Take(field, wire.raw_index(), tensor.bytes()));
  return tensor;
}

absl::StatusOr<DType> DecodeDType(const std::string& field, v1::DataType dtype) {
  if (dtype > v1::DATA_TYPE_UNSPECIFIED && dtype <= v1::DATA_TYPE_BOOL) return static_cast<DType>(dtype);
  return InvalidArgument("DTYPE_UNKNOWN", field, absl::StrCat("a DataType in 1..", int{v1::DATA_TYPE_BOOL}),
                         absl::StrCat(static_cast<int>(dtype)));
}

v1::DataType EncodeDType(DType dtype) { return static_cast<v1::DataType>(dtype); }

std::vector<int64_t> ContiguousStrides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  return strides;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status RegionsUnsupported(const std::string& field) {
  return MakeError(
      absl::StatusCode::kUnimplemented,
      absl::StrCat(field, ": expected inline bytes, got a region; this server offers no regions"),
      {.reason = "REGIONS_UNSUPPORTED",
       .metadata = {{"field", field}, {"expected", "inline bytes"}, {"actual", "a region"}},
       .retry_after = std::nullopt});
}

}  // namespace tessera
