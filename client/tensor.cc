#include "client/tensor.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tessera::client {
namespace {

struct DTypeEntry {
  DType dtype;
  const char* name;
  int64_t size;
};
constexpr DTypeEntry kDTypes[] = {
    {v1::DATA_TYPE_FP32, "fp32", 4},         {v1::DATA_TYPE_FP16, "fp16", 2}, {v1::DATA_TYPE_BF16, "bf16", 2},
    {v1::DATA_TYPE_FP8_E4M3, "fp8_e4m3", 1}, {v1::DATA_TYPE_BOOL, "bool", 1},
};

}  // namespace

int64_t DTypeSize(DType dtype) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.dtype == dtype) return entry.size;
  }
  return 0;
}

std::string DTypeName(DType dtype) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "unspecified";
}

std::optional<DType> ParseDType(const std::string& name) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

std::string ShapeString(std::span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape.begin(), shape.end(), ", "), "]");
}

std::optional<int64_t> NumElements(std::span<const int64_t> shape) {
  int64_t product = 1;
  bool empty = false;
  for (int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
    } else if (product > std::numeric_limits<int64_t>::max() / extent) {
      return std::nullopt;
    } else {
      product *= extent;
    }
  }
  return empty ? 0 : product;
}

std::optional<int64_t> ByteSize(DType dtype, std::span<const int64_t> shape) {
  const int64_t element = DTypeSize(dtype);
  const std::optional<int64_t> count = NumElements(shape);
  if (element == 0 || !count || *count > std::numeric_limits<int64_t>::max() / element) return std::nullopt;
  return *count * element;
}

absl::Status TensorView::Validate(const std::string& name) const {
  const std::optional<int64_t> expected = ByteSize(dtype, shape);
  if (!expected) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", DTypeName(dtype), " ", ShapeString(shape),
                                                   " is not the dtype and shape of a tensor"));
  }
  if (*expected != static_cast<int64_t>(bytes.size())) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", DTypeName(dtype), " ", ShapeString(shape),
                                                   " takes ", *expected, " bytes, got ", bytes.size()));
  }
  return absl::OkStatus();
}

}  // namespace tessera::client
