// An NVIDIA GPU as a device, through the CUDA runtime.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/device.h"
#include "backend/cuda/memory_pool.h"
#include "kernels/cuda/device_traits.h"

namespace tessera {

// Thread-safe. Every call makes the GPU current on the calling thread. An error that ends the use of the GPU
// (MeansLost) is remembered whichever call meets it: see Health().
class CudaDevice : public Device {
 public:
  // The GPU numbered `ordinal` among those that CUDA shows to this process; it exists. Opens it, which takes
  // some 100 ms and some 100 MiB of its memory. The error of CUDA where it cannot be used.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Create(int32_t ordinal);

  // A GPU with these properties, not opened: enough to plan for it.
  CudaDevice(int32_t ordinal, const cudaDeviceProp& properties);

  const std::string& id() const override { return id_; }
  // free_memory_bytes is what the driver could still give out to anyone: memory that is kept for reuse is
  // not in it.
  absl::StatusOr<DeviceInfo> Info() const override;
  bool host_accessible() const override { return false; }

  // From pools: 256-byte aligned. Work that uses a block is complete when the block is freed.
  absl::StatusOr<void*> Allocate(MemoryKind kind, size_t bytes) override;
  void Free(MemoryKind kind, void* memory) override;

  // Streams do not wait for the legacy default stream.
  absl::StatusOr<tessera_stream*> CreateStream() override;
  void DestroyStream(tessera_stream* stream) override;
  absl::Status CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                         tessera_stream* stream) override;

  absl::StatusOr<tessera_event*> CreateEvent() override;
  void DestroyEvent(tessera_event* event) override;
  absl::Status RecordEvent(tessera_event* event, tessera_stream* stream) override;
  absl::Status WaitEvent(tessera_stream* stream, tessera_event* event) override;
  absl::Status SynchronizeEvent(tessera_event* event) override;
  absl::StatusOr<double> ElapsedMicroseconds(tessera_event* begin, tessera_event* end) override;

  absl::Status Health() const override;

  // For the backends on this device.
  const kernels::cuda::DeviceTraits& traits() const { return traits_; }
  static cudaStream_t Unwrap(tessera_stream* stream) { return reinterpret_cast<cudaStream_t>(stream); }
  // Makes the GPU current on the calling thread.
  absl::Status MakeCurrent() const;
  // `error`, which `call` ("cudaMemcpyAsync") on this device returned, as a status (cuda_error.h). Remembers
  // it for Health() when it means that the GPU is lost, and otherwise clears the thread's last error, so that
  // no later call is blamed.
  absl::Status Check(cudaError_t error, const char* call) const;

  MemoryPool::Stats memory_stats(MemoryKind kind) const { return PoolOf(kind).stats(); }

 private:
  MemoryPool& PoolOf(MemoryKind kind) { return kind == TESSERA_MEMORY_PINNED ? pinned_ : memory_; }
  const MemoryPool& PoolOf(MemoryKind kind) const {
    return kind == TESSERA_MEMORY_PINNED ? pinned_ : memory_;
  }
  absl::StatusOr<void*> AllocateNew(MemoryKind kind, size_t bytes) const;
  void FreeNow(MemoryKind kind, void* memory) const;
  absl::Status OutOfMemory(MemoryKind kind, size_t bytes) const;

  const int32_t ordinal_;
  const std::string id_;
  const std::string name_;
  const int64_t total_memory_bytes_;
  const kernels::cuda::DeviceTraits traits_;

  mutable std::mutex health_mutex_;
  mutable absl::Status health_;  // the first error that MeansLost

  MemoryPool memory_, pinned_;
};

}  // namespace tessera
