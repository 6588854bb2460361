// Scratch memory that outlives requests: a bump arena over one device buffer, with a high-water mark per
// request.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/device.h"

namespace tessera {

// Not thread-safe: one arena per executor. Grows (by freeing and allocating anew, so only between requests)
// to the largest request seen and then serves from the same memory: steady state allocates nothing.
class Arena {
 public:
  // `limit_bytes`: the arena never holds more. `device` outlives the arena.
  Arena(Device& device, MemoryKind kind, int64_t limit_bytes);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // Starts a request that will take at most `bytes` in total (each block rounded up to 64); resets the mark.
  // Any block handed out before is dead. RESOURCE_EXHAUSTED with reason WORKSPACE_LIMIT when over the limit,
  // or DEVICE_MEMORY when the device has no room; nothing can then be allocated until the next Begin.
  absl::Status Begin(int64_t bytes);

  // A 64-byte aligned block, valid until the next Begin. RESOURCE_EXHAUSTED past what Begin announced. Under
  // AddressSanitizer, host-accessible memory outside the blocks is poisoned, so that an overrun is found.
  absl::StatusOr<void*> Allocate(int64_t bytes);

  // Gives the memory back until the next Begin.
  void Release();

  int64_t high_water_bytes() const { return used_; }  // of the request since Begin; multiples of 64
  int64_t capacity_bytes() const { return static_cast<int64_t>(buffer_.size()); }

 private:
  bool poisons() const;

  Device& device_;
  MemoryKind kind_;
  int64_t limit_;
  int64_t announced_ = 0;
  int64_t used_ = 0;
  DeviceBuffer buffer_;
};

}  // namespace tessera
