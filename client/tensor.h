// Tensors as a client holds them: an element type, a shape and little-endian, row-major bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tessera/v1/tensor.pb.h"

namespace tessera::client {

using DType = v1::DataType;

// Bytes of one element; 0 for DATA_TYPE_UNSPECIFIED and values this version does not know.
int64_t DTypeSize(DType dtype);
// "fp32", "fp16", "bf16", "fp8_e4m3", "bool"; "unspecified" for anything else.
std::string DTypeName(DType dtype);
std::optional<DType> ParseDType(const std::string& name);

// "[1024, 32, 128]"
std::string ShapeString(std::span<const int64_t> shape);
// Product of the shape; nullopt when a dimension is negative or the product of those that are not 0 passes
// INT64_MAX.
std::optional<int64_t> NumElements(std::span<const int64_t> shape);
// Bytes of a contiguous tensor; nullopt likewise, and for an unknown dtype.
std::optional<int64_t> ByteSize(DType dtype, std::span<const int64_t> shape);

// Non-owning. `bytes` is empty for a tensor without data (Explain needs shapes only).
struct TensorView {
  DType dtype = v1::DATA_TYPE_UNSPECIFIED;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  // INVALID_ARGUMENT naming `name`, with the expected and the actual byte count, unless they agree.
  absl::Status Validate(const std::string& name) const;
};

// Owning. The bytes are a std::string because that is what a reply's payload moves out of the message as.
struct Tensor {
  DType dtype = v1::DATA_TYPE_UNSPECIFIED;
  std::vector<int64_t> shape;
  std::string bytes;

  // Valid as long as this tensor is neither changed nor destroyed.
  TensorView view() const { return {dtype, shape, std::as_bytes(std::span(bytes))}; }
};

}  // namespace tessera::client
