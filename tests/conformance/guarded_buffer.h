// Device memory between guard bytes that a run must leave alone.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/device.h"

namespace tessera::testing {

class GuardedBuffer {
 public:
  // `offset`: bytes behind a 64-byte boundary at which the data begins.
  static absl::StatusOr<GuardedBuffer> Create(Device& device, size_t bytes, size_t offset);

  std::byte* data() const { return block_.data() + begin_; }

  // Copies `bytes` to the data and fresh guards around it.
  absl::Status Upload(const std::vector<std::byte>& bytes, tessera_stream* stream);

  // Copies the data back. INTERNAL when a guard byte has changed.
  absl::StatusOr<std::vector<std::byte>> Download(tessera_stream* stream);

 private:
  Device* device_ = nullptr;
  DeviceBuffer block_;
  size_t begin_ = 0;
  size_t size_ = 0;
};

}  // namespace tessera::testing
