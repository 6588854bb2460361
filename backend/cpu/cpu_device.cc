#include "backend/cpu/cpu_device.h"

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/core/host_memory.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kAlignment = 64;
// Smaller blocks are not worth asking the operating system about.
constexpr size_t kCheckedBytes = size_t{16} << 20;

struct CpuStream {
  kernels::cpu::ThreadPool* pool;
};
struct CpuEvent {
  Clock::time_point time;
};

CpuStream* Unwrap(tessera_stream* stream) { return reinterpret_cast<CpuStream*>(stream); }
CpuEvent* Unwrap(tessera_event* event) { return reinterpret_cast<CpuEvent*>(event); }

absl::Status OutOfMemory(size_t bytes) {
  const HostMemory memory = ReadHostMemory();
  ErrorDetail detail{.reason = "OUT_OF_MEMORY",
                     .metadata = {{"device", "cpu"},
                                  {"expected", absl::StrCat("at most ", memory.available_bytes, " bytes")},
                                  {"actual", absl::StrCat(bytes, " bytes")}},
                     .retry_after = std::nullopt};
  if (bytes <= static_cast<uint64_t>(memory.total_bytes)) {
    detail.retry_after = std::chrono::milliseconds(500);  // others may free theirs
  }
  return MakeError(absl::StatusCode::kResourceExhausted,
                   absl::StrCat("cpu: cannot allocate ", bytes, " bytes; ", memory.available_bytes, " of ",
                                memory.total_bytes, " bytes are free"),
                   detail);
}

}  // namespace

CpuDevice::CpuDevice(int num_threads, const std::string& isa_name)
    : caches_(ReadCacheSizes()), pool_(num_threads) {
  name_ = absl::StrCat(CpuModelName(), " (", pool_.num_workers(),
                       pool_.num_workers() == 1 ? " thread, " : " threads, ", isa_name, ")");
}

absl::StatusOr<DeviceInfo> CpuDevice::Info() const {
  const HostMemory memory = ReadHostMemory();
  return DeviceInfo{.name = name_,
                    .compute_units = pool_.num_workers(),
                    .total_memory_bytes = memory.total_bytes,
                    .free_memory_bytes = memory.available_bytes,
                    .fast_memory_bytes = caches_.l2_bytes,
                    .l2_bytes = caches_.last_level_bytes};
}

absl::StatusOr<void*> CpuDevice::Allocate(MemoryKind, size_t bytes) {
  if (bytes > SIZE_MAX - kAlignment) return OutOfMemory(bytes);
  if (bytes >= kCheckedBytes && bytes > static_cast<uint64_t>(ReadHostMemory().available_bytes)) {
    return OutOfMemory(bytes);
  }
  const size_t rounded = bytes == 0 ? kAlignment : (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) return OutOfMemory(bytes);
  return memory;
}

void CpuDevice::Free(MemoryKind, void* memory) { std::free(memory); }

absl::StatusOr<tessera_stream*> CpuDevice::CreateStream() {
  return reinterpret_cast<tessera_stream*>(new CpuStream{&pool_});
}

void CpuDevice::DestroyStream(tessera_stream* stream) { delete Unwrap(stream); }

absl::Status CpuDevice::CopyAsync(void* destination, const void* source, size_t bytes, CopyKind,
                                  tessera_stream*) {
  if (bytes > 0) std::memcpy(destination, source, bytes);
  return absl::OkStatus();
}

absl::StatusOr<tessera_event*> CpuDevice::CreateEvent() {
  return reinterpret_cast<tessera_event*>(new CpuEvent{Clock::now()});
}

void CpuDevice::DestroyEvent(tessera_event* event) { delete Unwrap(event); }

absl::Status CpuDevice::RecordEvent(tessera_event* event, tessera_stream*) {
  Unwrap(event)->time = Clock::now();
  return absl::OkStatus();
}

absl::Status CpuDevice::WaitEvent(tessera_stream*, tessera_event*) { return absl::OkStatus(); }

absl::Status CpuDevice::SynchronizeEvent(tessera_event*) { return absl::OkStatus(); }

absl::StatusOr<double> CpuDevice::ElapsedMicroseconds(tessera_event* begin, tessera_event* end) {
  return std::chrono::duration<double, std::micro>(Unwrap(end)->time - Unwrap(begin)->time).count();
}

kernels::cpu::ThreadPool& CpuDevice::PoolOf(tessera_stream* stream) { return *Unwrap(stream)->pool; }

}  // namespace tessera
