// Wire tensors (tessera/v1/tensor.proto) -> checked shapes, strides and bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/attention_problem.h"
#include "server/payload.h"
#include "tessera/v1/tensor.pb.h"

namespace tessera {

// A tensor of a request. After decoding: rank as asked for, extents in [0, kMaxExtent] with a product inside
// int64, strides >= 0 with 1 last, and exactly num_elements elements in source, in which every index lies.
struct HostTensor {
  DType dtype = TESSERA_DTYPE_INVALID;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements
  int64_t num_elements = 0;      // that shape and strides span; 0 when an extent is 0
  TensorSource source;           // empty in a dry run
  int64_t bytes() const { return num_elements * DTypeSize(dtype); }
};

// The payload of one request, on its way to becoming tensors: each entry is taken exactly once.
class PayloadReader {
 public:
  // A dry run takes no data, whatever the request says.
  PayloadReader(std::vector<Payload> payload, DataRequirement data);

  // Entry `index`, which `field` refers to. INVALID_ARGUMENT when there is no such entry, when it was taken
  // before, or when it does not have `bytes` bytes.
  absl::StatusOr<TensorSource> Take(const std::string& field, uint32_t index, int64_t bytes);

  // INVALID_ARGUMENT when an entry was not taken.
  absl::Status CheckAllTaken() const;

  bool has_data() const { return data_ == DataRequirement::kRequired; }

 private:
  std::vector<Payload> payload_;
  const DataRequirement data_;
  std::vector<bool> taken_;
};

// Decodes `wire`, which errors call `field`. `min_rank` <= rank <= `max_rank`.
absl::StatusOr<HostTensor> DecodeTensor(const std::string& field, const v1::Tensor& wire, int min_rank,
                                        int max_rank, PayloadReader& payload);

// INVALID_ARGUMENT, by number, for a value that is no element type.
absl::StatusOr<DType> DecodeDType(const std::string& field, v1::DataType dtype);
v1::DataType EncodeDType(DType dtype);

// Row-major strides of a contiguous tensor, in elements.
std::vector<int64_t> ContiguousStrides(const std::vector<int64_t>& shape);

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

// UNIMPLEMENTED, reason REGIONS_UNSUPPORTED.
absl::Status RegionsUnsupported(const std::string& field);

}  // namespace tessera
