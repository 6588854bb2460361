// NumPy's .npy format, versions 1.0 to 3.0 (numpy.lib.format).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/tensor_files/stored_tensor.h"

namespace tessera::client {

// INVALID_ARGUMENT for whatever is not a complete little-endian, C-ordered array of one plain element type.
absl::StatusOr<StoredTensor> ParseNpy(std::string_view file);

// bf16 is written as ml_dtypes does ('<V2'), fp8 as '|V1'.
std::string FormatNpy(const TensorView& tensor);

}  // namespace tessera::client
