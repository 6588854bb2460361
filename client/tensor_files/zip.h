// As much of the ZIP format as NumPy's .npz needs: stored and deflated members, no ZIP64, no encryption.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera::client {

// Member name → content, checked against its CRC. INVALID_ARGUMENT for anything malformed, truncated,
// repeated or unsupported. Memory stays within what the archive's size can honestly hold.
absl::StatusOr<std::map<std::string, std::string>> ParseZip(std::string_view file);

// Stored members. RESOURCE_EXHAUSTED past the 4 GiB that the format holds without ZIP64.
absl::StatusOr<std::string> FormatZip(const std::map<std::string, std::string>& members);

}  // namespace tessera::client
