#include "backend/core/plugin_device.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

constexpr size_t kMaxIdBytes = 64;
constexpr uintptr_t kAlignment = 64;

}  // namespace

PluginDevice::PluginDevice(std::shared_ptr<const PluginInstance> instance, const tessera_device_table& table)
    : instance_(std::move(instance)), table_(table), id_(PluginText(table.name, kMaxIdBytes)) {}

absl::StatusOr<DeviceInfo> PluginDevice::Info() const {
  tessera_device_info info{};
  info.struct_size = sizeof(info);
  TESSERA_RETURN_IF_ERROR(
      Call("info", [&](tessera_message* message) { return table_.info(table_.self, &info, message); }));
  const std::pair<const char*, int64_t> numbers[] = {
      {"compute_units", info.compute_units},
      {"total_memory_bytes", info.total_memory_bytes},
      {"free_memory_bytes", info.free_memory_bytes},
      {"fast_memory_bytes", info.fast_memory_bytes},
      {"l2_bytes", info.l2_bytes},
  };
  for (const auto& [field, value] : numbers) {
    if (value < 0) return InvalidResult("info", field, "0 or more", absl::StrCat(value));
  }
  return DeviceInfo{.name = PluginText(info.name, sizeof(info.name)),
                    .compute_units = info.compute_units,
                    .total_memory_bytes = info.total_memory_bytes,
                    .free_memory_bytes = info.free_memory_bytes,
                    .fast_memory_bytes = info.fast_memory_bytes,
                    .l2_bytes = info.l2_bytes};
}

absl::StatusOr<void*> PluginDevice::Allocate(MemoryKind kind, size_t bytes) {
  void* memory = nullptr;
  TESSERA_RETURN_IF_ERROR(Call("allocate", [&](tessera_message* message) {
    return table_.allocate(table_.self, kind, bytes, &memory, message);
  }));
  if (memory == nullptr && bytes > 0) return InvalidResult("allocate", "memory", "a block", "NULL");
  const uintptr_t excess = reinterpret_cast<uintptr_t>(memory) % kAlignment;
  if (excess != 0) {
    Free(kind, memory);
    return InvalidResult("allocate", "memory", absl::StrCat(kAlignment, "-byte alignment"),
                         absl::StrCat("an address ", excess, " bytes past it"));
  }
  return memory;
}

void PluginDevice::Free(MemoryKind kind, void* memory) {
  CallPluginQuietly([&] { table_.free(table_.self, kind, memory); });
}

absl::StatusOr<tessera_stream*> PluginDevice::CreateStream() {
  tessera_stream* stream = nullptr;
  TESSERA_RETURN_IF_ERROR(Call("stream_create", [&](tessera_message* message) {
    return table_.stream_create(table_.self, &stream, message);
  }));
  if (stream == nullptr) return InvalidResult("stream_create", "stream", "a handle", "NULL");
  return stream;
}

void PluginDevice::DestroyStream(tessera_stream* stream) {
  CallPluginQuietly([&] { table_.stream_destroy(table_.self, stream); });
}

absl::Status PluginDevice::CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                                     tessera_stream* stream) {
  return CallForWork("copy_async", [&](tessera_message* message) {
    return table_.copy_async(table_.self, destination, source, bytes, kind, stream, message);
  });
}

absl::StatusOr<tessera_event*> PluginDevice::CreateEvent() {
  tessera_event* event = nullptr;
  TESSERA_RETURN_IF_ERROR(Call("event_create", [&](tessera_message* message) {
    return table_.event_create(table_.self, &event, message);
  }));
  if (event == nullptr) return InvalidResult("event_create", "event", "a handle", "NULL");
  return event;
}

void PluginDevice::DestroyEvent(tessera_event* event) {
  CallPluginQuietly([&] { table_.event_destroy(table_.self, event); });
}

absl::Status PluginDevice::RecordEvent(tessera_event* event, tessera_stream* stream) {
  return CallForWork("event_record", [&](tessera_message* message) {
    return table_.event_record(table_.self, event, stream, message);
  });
}

absl::Status PluginDevice::WaitEvent(tessera_stream* stream, tessera_event* event) {
  return CallForWork("stream_wait_event", [&](tessera_message* message) {
    return table_.stream_wait_event(table_.self, stream, event, message);
  });
}

absl::Status PluginDevice::SynchronizeEvent(tessera_event* event) {
  return CallForWork("event_synchronize", [&](tessera_message* message) {
    return table_.event_synchronize(table_.self, event, message);
  });
}

absl::StatusOr<double> PluginDevice::ElapsedMicroseconds(tessera_event* begin, tessera_event* end) {
  double microseconds = 0;
  TESSERA_RETURN_IF_ERROR(Call("event_elapsed_us", [&](tessera_message* message) {
    return table_.event_elapsed_us(table_.self, begin, end, &microseconds, message);
  }));
  if (!std::isfinite(microseconds) || microseconds < 0) {
    return InvalidResult("event_elapsed_us", "microseconds", "0 or more", absl::StrCat(microseconds));
  }
  return microseconds;
}

absl::Status PluginDevice::Health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

absl::Status PluginDevice::Call(const char* function,
                                absl::FunctionRef<tessera_code(tessera_message*)> call) const {
  absl::Status status = CallPlugin(id_, function, call);
  if (!absl::IsUnavailable(status)) return status;
  // On a lost device every call may say so.
  absl::Status health = Health();
  return health.ok() ? status : health;
}

absl::Status PluginDevice::CallForWork(const char* function,
                                       absl::FunctionRef<tessera_code(tessera_message*)> call) {
  absl::Status status = CallPlugin(id_, function, call);
  if (!absl::IsUnavailable(status)) return status;
  const std::lock_guard lock(mutex_);
  if (health_.ok()) health_ = DeviceLostError(id_, std::string(status.message()));
  return health_;
}

}  // namespace tessera
