#include "tests/conformance/guarded_buffer.h"

#include <algorithm>
#include <string>

#include "backend/core/error.h"

namespace tessera::testing {
namespace {

// Wider than any vector store; all ones read as NaN.
constexpr size_t kGuardBytes = 256;
constexpr std::byte kGuard{0xff};

absl::Status Copy(Device& device, void* destination, const void* source, size_t bytes, CopyKind kind,
                  tessera_stream* stream) {
  TESSERA_ASSIGN_OR_RETURN(const Event done, Event::Create(device));
  TESSERA_RETURN_IF_ERROR(device.CopyAsync(destination, source, bytes, kind, stream));
  TESSERA_RETURN_IF_ERROR(device.RecordEvent(done.get(), stream));
  return device.SynchronizeEvent(done.get());
}

}  // namespace

absl::StatusOr<GuardedBuffer> GuardedBuffer::Create(Device& device, size_t bytes, size_t offset) {
  GuardedBuffer buffer;
  buffer.device_ = &device;
  buffer.begin_ = kGuardBytes + offset;
  buffer.size_ = bytes;
  TESSERA_ASSIGN_OR_RETURN(buffer.block_, DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE,
                                                               buffer.begin_ + bytes + kGuardBytes));
  return buffer;
}

absl::Status GuardedBuffer::Upload(const std::vector<std::byte>& bytes, tessera_stream* stream) {
  std::vector<std::byte> image(block_.size(), kGuard);
  std::copy(bytes.begin(), bytes.end(), image.begin() + static_cast<ptrdiff_t>(begin_));
  return Copy(*device_, block_.data(), image.data(), image.size(), TESSERA_COPY_HOST_TO_DEVICE, stream);
}

absl::StatusOr<std::vector<std::byte>> GuardedBuffer::Download(tessera_stream* stream) {
  std::vector<std::byte> image(block_.size());
  TESSERA_RETURN_IF_ERROR(
      Copy(*device_, image.data(), block_.data(), image.size(), TESSERA_COPY_DEVICE_TO_HOST, stream));
  const auto begin = image.begin() + static_cast<ptrdiff_t>(begin_);
  const auto end = begin + static_cast<ptrdiff_t>(size_);
  const auto is_guard = [](std::byte b) { return b == kGuard; };
  if (!std::all_of(image.begin(), begin, is_guard)) return absl::InternalError("wrote before the first byte");
  if (!std::all_of(end, image.end(), is_guard)) return absl::InternalError("wrote behind the last byte");
  return std::vector<std::byte>(begin, end);
}

}  // namespace tessera::testing
