// Adapts the device table of a loaded plugin to Device.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "backend/core/device.h"
#include "backend/core/plugin_instance.h"

namespace tessera {

// Its memory is never host-accessible: the server reaches it through copies only. What the table returns is
// checked: INTERNAL with reason PLUGIN_INVALID_RESULT for a null or misaligned block, a null handle, a
// negative time. TESSERA_UNAVAILABLE from what queues work or waits for it marks the device lost; elsewhere
// it is an error as any other.
class PluginDevice : public Device {
 public:
  // `table` is complete (LoadPlugin has checked it).
  PluginDevice(std::shared_ptr<const PluginInstance> instance, const tessera_device_table& table);

  const std::string& id() const override { return id_; }
  absl::StatusOr<DeviceInfo> Info() const override;
  bool host_accessible() const override { return false; }

  absl::StatusOr<void*> Allocate(MemoryKind kind, size_t bytes) override;
  void Free(MemoryKind kind, void* memory) override;

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

 private:
  absl::Status Call(const char* function, absl::FunctionRef<tessera_code(tessera_message*)> call) const;
  // Of a copy, record, wait or synchronisation.
  absl::Status CallForWork(const char* function, absl::FunctionRef<tessera_code(tessera_message*)> call);
  absl::Status InvalidResult(const char* function, const std::string& field, const std::string& expected,
                             const std::string& actual) const {
    return PluginInvalid("PLUGIN_INVALID_RESULT", id_, function, field, expected, actual);
  }

  std::shared_ptr<const PluginInstance> instance_;
  tessera_device_table table_;
  std::string id_;
  mutable std::mutex mutex_;
  absl::Status health_;  // guarded by mutex_
};

}  // namespace tessera
