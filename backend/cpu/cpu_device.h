// The host CPU as a device: memory is the host's, streams run their work at once on one thread pool.
#pragma once

#include <string>

#include "backend/core/device.h"
#include "backend/cpu/host_info.h"
#include "kernels/cpu/thread_pool.h"

namespace tessera {

class CpuDevice : public Device {
 public:
  // `num_threads`: workers of the pool, >= 1. `isa_name`: instruction set of the kernels, for Info().
  CpuDevice(int num_threads, const std::string& isa_name);

  const std::string& id() const override { return id_; }
  absl::StatusOr<DeviceInfo> Info() const override;
  bool host_accessible() const override { return true; }

  // Pinned memory is plain memory. Sizes that the machine could not back are refused here: Linux would grant
  // them and end the process later.
  absl::StatusOr<void*> Allocate(MemoryKind kind, size_t bytes) override;
  void Free(MemoryKind kind, void* memory) override;

  // Streams share the pool; regions of different streams queue up behind each other there.
  absl::StatusOr<tessera_stream*> CreateStream() override;
  void DestroyStream(tessera_stream* stream) override;
  absl::Status CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                         tessera_stream* stream) override;

  // Work is complete when the call that queued it returns, so that an event is a point in time.
  absl::StatusOr<tessera_event*> CreateEvent() override;
  void DestroyEvent(tessera_event* event) override;
  absl::Status RecordEvent(tessera_event* event, tessera_stream* stream) override;
  absl::Status WaitEvent(tessera_stream* stream, tessera_event* event) override;
  absl::Status SynchronizeEvent(tessera_event* event) override;
  absl::StatusOr<double> ElapsedMicroseconds(tessera_event* begin, tessera_event* end) override;

  int num_workers() const { return pool_.num_workers(); }
  const CacheSizes& caches() const { return caches_; }

  // The pool behind a stream that some CpuDevice created.
  static kernels::cpu::ThreadPool& PoolOf(tessera_stream* stream);

 private:
  const std::string id_ = "cpu";
  std::string name_;
  CacheSizes caches_;
  kernels::cpu::ThreadPool pool_;
};

}  // namespace tessera
