// The safetensors format: an 8-byte length, a JSON header, and the tensors' bytes.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/tensor_files/stored_tensor.h"

namespace tessera::client {

// INVALID_ARGUMENT unless the header is well formed and its tensors tile the data exactly: no overlap, no
// gap, no byte count that differs from shape and type.
absl::StatusOr<StoredTensors> ParseSafetensors(std::string_view file);

std::string FormatSafetensors(const std::map<std::string, TensorView>& tensors);

}  // namespace tessera::client
