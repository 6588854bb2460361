// A device: memory, streams, events. The server touches device memory only through this interface. It is the
// C++ face of tessera_device_table; shipped devices derive from it, PluginDevice adapts a loaded table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tessera/backend.h"

namespace tessera {

struct DeviceInfo {
  std::string name;           // "Intel(R) Xeon(R) ... (16 threads, avx512 amx_bf16)", "NVIDIA H200"
  int32_t compute_units = 0;  // cores in use, or streaming multiprocessors
  int64_t total_memory_bytes = 0;
  int64_t free_memory_bytes = 0;
  int64_t fast_memory_bytes = 0;  // L2 per core, or shared memory per block
  int64_t l2_bytes = 0;           // last-level cache shared by all compute units
};

using MemoryKind = tessera_memory_kind;
using CopyKind = tessera_copy_kind;

// Thread-safe. Raw handles; own them through DeviceBuffer, Stream and Event below.
class Device {
 public:
  virtual ~Device() = default;

  // "cpu", "cuda:0": what plans, metrics and logs call it.
  virtual const std::string& id() const = 0;
  virtual absl::StatusOr<DeviceInfo> Info() const = 0;

  // True when host code may read and write device memory directly: placement then needs no transfer.
  virtual bool host_accessible() const = 0;

  // 64-byte aligned. RESOURCE_EXHAUSTED with requested and free bytes when memory is short.
  virtual absl::StatusOr<void*> Allocate(MemoryKind kind, size_t bytes) = 0;
  virtual void Free(MemoryKind kind, void* memory) = 0;

  virtual absl::StatusOr<tessera_stream*> CreateStream() = 0;
  virtual void DestroyStream(tessera_stream* stream) = 0;
  virtual absl::Status CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                                 tessera_stream* stream) = 0;

  virtual absl::StatusOr<tessera_event*> CreateEvent() = 0;
  virtual void DestroyEvent(tessera_event* event) = 0;
  virtual absl::Status RecordEvent(tessera_event* event, tessera_stream* stream) = 0;
  // Work queued on `stream` from now on runs after the work before the event's latest record, which may be on
  // another stream. Does not block. Whether a failure of that work reaches `stream` is the device's choice:
  // whoever must know synchronises an event of the stream that failed.
  virtual absl::Status WaitEvent(tessera_stream* stream, tessera_event* event) = 0;
  // Blocks until the work before the event is done; the error of that work, if it failed.
  virtual absl::Status SynchronizeEvent(tessera_event* event) = 0;
  virtual absl::StatusOr<double> ElapsedMicroseconds(tessera_event* begin, tessera_event* end) = 0;

  // OK, or UNAVAILABLE (reason DEVICE_LOST) once an error has made the device useless to this process for
  // good, as a fault in a CUDA kernel does: nothing more can run on it, and its memory is gone.
  virtual absl::Status Health() const { return absl::OkStatus(); }
};

// What Health() says of a lost device, and so every request that needs it: UNAVAILABLE, reason DEVICE_LOST.
absl::Status DeviceLostError(const std::string& device, const std::string& cause);

// Owning, move-only handle of something that the device creates and destroys; empty by default and once moved
// from.
template <typename T, absl::StatusOr<T*> (Device::*kCreate)(), void (Device::*kDestroy)(T*)>
class DeviceHandle {
 public:
  DeviceHandle() = default;
  static absl::StatusOr<DeviceHandle> Create(Device& device) {
    const absl::StatusOr<T*> created = (device.*kCreate)();
    if (!created.ok()) return created.status();
    DeviceHandle handle;
    handle.owned_ = {*created, Destroy{&device}};
    return handle;
  }

  void Reset() { owned_.reset(); }
  T* get() const { return owned_.get(); }

 private:
  struct Destroy {
    Device* device;
    void operator()(T* handle) const { (device->*kDestroy)(handle); }
  };
  std::unique_ptr<T, Destroy> owned_;
};

using Stream = DeviceHandle<tessera_stream, &Device::CreateStream, &Device::DestroyStream>;
using Event = DeviceHandle<tessera_event, &Device::CreateEvent, &Device::DestroyEvent>;

// Owning, move-only block of device or pinned memory; empty by default, once moved from and of 0 bytes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  static absl::StatusOr<DeviceBuffer> Create(Device& device, MemoryKind kind, size_t bytes);

  void Reset() { block_.reset(); }
  std::byte* data() const { return block_.get(); }
  size_t size() const { return block_ == nullptr ? 0 : block_.get_deleter().bytes; }

 private:
  struct Free {
    Device* device;
    MemoryKind kind;
    size_t bytes;
    void operator()(std::byte* block) const { device->Free(kind, block); }
  };
  std::unique_ptr<std::byte, Free> block_;
};

}  // namespace tessera
