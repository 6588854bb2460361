#include "backend/core/device.h"

#include <utility>

#include "backend/core/error.h"

namespace tessera {

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(Device& device, MemoryKind kind, size_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  TESSERA_ASSIGN_OR_RETURN(buffer.data_, device.Allocate(kind, bytes));
  buffer.device_ = &device;
  buffer.kind_ = kind;
  buffer.size_ = bytes;
  return buffer;
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  device_ = std::exchange(other.device_, nullptr);
  kind_ = other.kind_;
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void DeviceBuffer::Reset() {
  if (data_ != nullptr) device_->Free(kind_, data_);
  device_ = nullptr;
  data_ = nullptr;
  size_ = 0;
}

absl::StatusOr<Stream> Stream::Create(Device& device) {
  Stream stream;
  TESSERA_ASSIGN_OR_RETURN(stream.handle_, device.CreateStream());
  stream.device_ = &device;
  return stream;
}

Stream& Stream::operator=(Stream&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  device_ = std::exchange(other.device_, nullptr);
  handle_ = std::exchange(other.handle_, nullptr);
  return *this;
}

void Stream::Reset() {
  if (handle_ != nullptr) device_->DestroyStream(handle_);
  device_ = nullptr;
  handle_ = nullptr;
}

absl::StatusOr<Event> Event::Create(Device& device) {
  Event event;
  TESSERA_ASSIGN_OR_RETURN(event.handle_, device.CreateEvent());
  event.device_ = &device;
  return event;
}

Event& Event::operator=(Event&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  device_ = std::exchange(other.device_, nullptr);
  handle_ = std::exchange(other.handle_, nullptr);
  return *this;
}

void Event::Reset() {
  if (handle_ != nullptr) device_->DestroyEvent(handle_);
  device_ = nullptr;
  handle_ = nullptr;
}

}  // namespace tessera
