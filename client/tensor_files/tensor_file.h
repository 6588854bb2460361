// Tensor files by extension: .npy (one tensor), .npz and .safetensors (named tensors).
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/tensor_files/stored_tensor.h"

namespace tessera::client {

enum class FileFormat { kNpy, kNpz, kSafetensors };

// INVALID_ARGUMENT listing the three extensions.
absl::StatusOr<FileFormat> FormatOf(const std::string& path);

// The file's tensors by name; an .npy file's one tensor has the empty name. Errors begin with the path.
absl::StatusOr<StoredTensors> ReadTensorFile(const std::string& path);

// Writes all or nothing: into a temporary file beside `path`, renamed over it. An .npy file takes one tensor,
// of any name.
absl::Status WriteTensorFile(const std::string& path, const std::map<std::string, TensorView>& tensors);

}  // namespace tessera::client
