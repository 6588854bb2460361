#include "backend/cuda/cuda_device.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/core/host_memory.h"
#include "backend/cuda/cuda_error.h"

namespace tessera {
namespace {

// What the pools keep for reuse at most: enough for the scratch of ordinary requests, small beside the GPU.
constexpr size_t kMostKeptDeviceBytes = size_t{256} << 20;
constexpr size_t kKeptDeviceShare = 16;
constexpr size_t kMostKeptPinnedBytes = size_t{256} << 20;

// How long a wait polls before it sleeps. To sleep and be woken by the driver's interrupt costs tens of
// microseconds, as long as a small request takes on the GPU altogether; so a wait that ends within this time
// polls. A longer one gives its core away: a server's cores have requests to parse, and 100 us lost at the
// start of a long launch do not show.
constexpr std::chrono::microseconds kPollingTime(100);

constexpr double kMicrosecondsPerMillisecond = 1000;

cudaEvent_t HandleOf(tessera_event* event) { return reinterpret_cast<cudaEvent_t>(event); }

kernels::cuda::DeviceTraits TraitsOf(const cudaDeviceProp& properties) {
  return {.compute_capability = properties.major * 10 + properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .shared_memory_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin),
          .shared_memory_per_multiprocessor = static_cast<int64_t>(properties.sharedMemPerMultiprocessor),
          .l2_bytes = properties.l2CacheSize};
}

cudaMemcpyKind ToCuda(CopyKind kind) {
  switch (kind) {
    case TESSERA_COPY_HOST_TO_DEVICE:
      return cudaMemcpyHostToDevice;
    case TESSERA_COPY_DEVICE_TO_HOST:
      return cudaMemcpyDeviceToHost;
    case TESSERA_COPY_DEVICE_TO_DEVICE:
      return cudaMemcpyDeviceToDevice;
  }
  return cudaMemcpyDefault;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Create(int32_t ordinal) {
  const std::string id = absl::StrCat("cuda:", ordinal);
  cudaDeviceProp properties;
  TESSERA_RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, ordinal), id, "cudaGetDeviceProperties"));
  TESSERA_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal), id, "cudaSetDevice"));
  // The first call that needs the context makes it: now, not in the first request.
  TESSERA_RETURN_IF_ERROR(ToStatus(cudaFree(nullptr), id, "cudaFree"));
  return std::make_unique<CudaDevice>(ordinal, properties);
}

CudaDevice::CudaDevice(int32_t ordinal, const cudaDeviceProp& properties)
    : ordinal_(ordinal),
      id_(absl::StrCat("cuda:", ordinal)),
      name_(properties.name),
      total_memory_bytes_(static_cast<int64_t>(properties.totalGlobalMem)),
      traits_(TraitsOf(properties)),
      memory_({.allocate = [this](size_t bytes) { return AllocateNew(TESSERA_MEMORY_DEVICE, bytes); },
               .free = [this](void* memory) { FreeNow(TESSERA_MEMORY_DEVICE, memory); }},
              std::min(kMostKeptDeviceBytes, properties.totalGlobalMem / kKeptDeviceShare)),
      pinned_({.allocate = [this](size_t bytes) { return AllocateNew(TESSERA_MEMORY_PINNED, bytes); },
               .free = [this](void* memory) { FreeNow(TESSERA_MEMORY_PINNED, memory); }},
              kMostKeptPinnedBytes) {}

absl::StatusOr<DeviceInfo> CudaDevice::Info() const {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  size_t free_bytes = 0, total_bytes = 0;
  TESSERA_RETURN_IF_ERROR(Check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  return DeviceInfo{.name = name_,
                    .compute_units = traits_.multiprocessors,
                    .total_memory_bytes = static_cast<int64_t>(total_bytes),
                    .free_memory_bytes = static_cast<int64_t>(free_bytes),
                    .fast_memory_bytes = traits_.shared_memory_per_block,
                    .l2_bytes = traits_.l2_bytes};
}

absl::StatusOr<void*> CudaDevice::Allocate(MemoryKind kind, size_t bytes) {
  absl::StatusOr<void*> memory = PoolOf(kind).Allocate(bytes);
  if (absl::IsResourceExhausted(memory.status())) return OutOfMemory(kind, bytes);
  return memory;
}

void CudaDevice::Free(MemoryKind kind, void* memory) { PoolOf(kind).Free(memory); }

absl::StatusOr<void*> CudaDevice::AllocateNew(MemoryKind kind, size_t bytes) const {
  // More than there is: do not make CUDA, or the system's out-of-memory killer, find out.
  const int64_t most = kind == TESSERA_MEMORY_PINNED ? ReadHostMemory().available_bytes : total_memory_bytes_;
  if (bytes > static_cast<uint64_t>(most)) return absl::ResourceExhaustedError("more than there is");
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  void* memory = nullptr;
  if (kind == TESSERA_MEMORY_PINNED) {
    TESSERA_RETURN_IF_ERROR(Check(cudaMallocHost(&memory, bytes), "cudaMallocHost"));
  } else {
    TESSERA_RETURN_IF_ERROR(Check(cudaMalloc(&memory, bytes), "cudaMalloc"));
  }
  return memory;
}

// On a lost GPU CUDA refuses, and there is nothing left to free.
void CudaDevice::FreeNow(MemoryKind kind, void* memory) const {
  if (!MakeCurrent().ok()) return;
  if (kind == TESSERA_MEMORY_PINNED) {
    Check(cudaFreeHost(memory), "cudaFreeHost").IgnoreError();
  } else {
    Check(cudaFree(memory), "cudaFree").IgnoreError();
  }
}

absl::Status CudaDevice::OutOfMemory(MemoryKind kind, size_t bytes) const {
  HostMemory memory = ReadHostMemory();
  const bool pinned = kind == TESSERA_MEMORY_PINNED;
  if (!pinned) {
    TESSERA_ASSIGN_OR_RETURN(const DeviceInfo info, Info());
    memory = {.total_bytes = info.total_memory_bytes, .available_bytes = info.free_memory_bytes};
  }
  ErrorDetail detail{.reason = "OUT_OF_MEMORY",
                     .metadata = {{"device", id_},
                                  {"memory", pinned ? "pinned" : "device"},
                                  {"expected", absl::StrCat("at most ", memory.available_bytes, " bytes")},
                                  {"actual", absl::StrCat(bytes, " bytes")}},
                     .retry_after = std::nullopt};
  if (bytes <= static_cast<uint64_t>(memory.total_bytes)) {
    detail.retry_after = std::chrono::milliseconds(500);  // others may free theirs
  }
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat(id_, ": cannot allocate ", bytes, " bytes of ", pinned ? "pinned" : "device", " memory; ",
                   memory.available_bytes, " of ", memory.total_bytes, " bytes are free"),
      std::move(detail));
}

absl::StatusOr<tessera_stream*> CudaDevice::CreateStream() {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  cudaStream_t stream = nullptr;
  TESSERA_RETURN_IF_ERROR(
      Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  return reinterpret_cast<tessera_stream*>(stream);
}

void CudaDevice::DestroyStream(tessera_stream* stream) {
  if (!MakeCurrent().ok()) return;
  Check(cudaStreamDestroy(Unwrap(stream)), "cudaStreamDestroy").IgnoreError();
}

absl::Status CudaDevice::CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                                   tessera_stream* stream) {
  if (bytes == 0) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  return Check(cudaMemcpyAsync(destination, source, bytes, ToCuda(kind), Unwrap(stream)), "cudaMemcpyAsync");
}

absl::StatusOr<tessera_event*> CudaDevice::CreateEvent() {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  cudaEvent_t event = nullptr;
  TESSERA_RETURN_IF_ERROR(
      Check(cudaEventCreateWithFlags(&event, cudaEventBlockingSync), "cudaEventCreateWithFlags"));
  return reinterpret_cast<tessera_event*>(event);
}

void CudaDevice::DestroyEvent(tessera_event* event) {
  if (!MakeCurrent().ok()) return;
  Check(cudaEventDestroy(HandleOf(event)), "cudaEventDestroy").IgnoreError();
}

absl::Status CudaDevice::RecordEvent(tessera_event* event, tessera_stream* stream) {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  return Check(cudaEventRecord(HandleOf(event), Unwrap(stream)), "cudaEventRecord");
}

absl::Status CudaDevice::WaitEvent(tessera_stream* stream, tessera_event* event) {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  return Check(cudaStreamWaitEvent(Unwrap(stream), HandleOf(event)), "cudaStreamWaitEvent");
}

absl::Status CudaDevice::SynchronizeEvent(tessera_event* event) {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  const cudaEvent_t handle = HandleOf(event);
  const auto deadline = std::chrono::steady_clock::now() + kPollingTime;
  cudaError_t polled = cudaEventQuery(handle);
  const bool waits = polled == cudaErrorNotReady;
  while (polled == cudaErrorNotReady && std::chrono::steady_clock::now() < deadline) {
    polled = cudaEventQuery(handle);
  }
  // "Not ready" may stay the thread's last error, and the next launch of this thread would be blamed for it.
  if (waits) cudaGetLastError();
  if (polled != cudaErrorNotReady) return Check(polled, "cudaEventQuery");
  return Check(cudaEventSynchronize(handle), "cudaEventSynchronize");
}

absl::StatusOr<double> CudaDevice::ElapsedMicroseconds(tessera_event* begin, tessera_event* end) {
  TESSERA_RETURN_IF_ERROR(MakeCurrent());
  float milliseconds = 0;
  TESSERA_RETURN_IF_ERROR(
      Check(cudaEventElapsedTime(&milliseconds, HandleOf(begin), HandleOf(end)), "cudaEventElapsedTime"));
  return milliseconds * kMicrosecondsPerMillisecond;
}

absl::Status CudaDevice::Health() const {
  const std::lock_guard lock(health_mutex_);
  return health_;
}

absl::Status CudaDevice::MakeCurrent() const { return Check(cudaSetDevice(ordinal_), "cudaSetDevice"); }

absl::Status CudaDevice::Check(cudaError_t error, const char* call) const {
  if (error == cudaSuccess) return absl::OkStatus();
  if (!MeansLost(error)) {
    cudaGetLastError();
    return ToStatus(error, id_, call);
  }
  absl::Status status = LostStatus(error, id_, call);
  const std::lock_guard lock(health_mutex_);
  if (health_.ok()) health_ = status;
  return status;
}

}  // namespace tessera
