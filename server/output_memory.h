// Memory that results are put into and replies are sent from, so that nothing copies them in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "backend/core/device.h"

namespace tessera {

// The bytes of one output, and a share in the memory that they lie in: a reply may outlive its job.
class OutputBytes {
 public:
  OutputBytes(const std::shared_ptr<std::byte>& memory, int64_t offset, int64_t bytes)
      : data_(memory, memory.get() + offset), bytes_(bytes) {}

  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<std::byte> data_;
  int64_t bytes_;
};

// The blocks of one device, 64-byte aligned and not initialised: memory of the host where the device sees
// that, else pinned memory, recycled, as the system takes milliseconds to pin it. Thread-safe.
class OutputMemory {
 public:
  // `device` outlives this, but not what was allocated.
  explicit OutputMemory(Device& device);
  OutputMemory(const OutputMemory&) = delete;
  OutputMemory& operator=(const OutputMemory&) = delete;
  // Waits a while for replies that are still being sent. What is then not back is lost to the device, and
  // stays allocated.
  ~OutputMemory();

  // RESOURCE_EXHAUSTED, as Device::Allocate, where memory is short.
  absl::StatusOr<std::shared_ptr<std::byte>> Allocate(int64_t bytes);

  // Pinned memory kept for later, and how it is given back.
  int64_t idle_bytes() const;
  void ReleaseIdle();

 private:
  class Pool;
  Device& device_;
  const std::shared_ptr<Pool> pool_;
};

}  // namespace tessera
