#include "backend/core/device.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {

absl::Status DeviceLostError(const std::string& device, const std::string& cause) {
  // The server leaves, so that whoever started it starts another.
  constexpr std::chrono::milliseconds kRetryElsewhere(1000);
  return MakeError(absl::StatusCode::kUnavailable, absl::StrCat(device, ": the device is lost: ", cause),
                   {.reason = "DEVICE_LOST",
                    .metadata = {{"device", device}, {"expected", "a working device"}, {"actual", cause}},
                    .retry_after = kRetryElsewhere});
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(Device& device, MemoryKind kind, size_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  TESSERA_ASSIGN_OR_RETURN(void* const block, device.Allocate(kind, bytes));
  buffer.block_ = {static_cast<std::byte*>(block), Free{&device, kind, bytes}};
  return buffer;
}

}  // namespace tessera
