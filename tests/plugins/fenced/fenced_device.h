// The device table of the fenced device.
#pragma once

#include <atomic>
#include <cstring>

#include "tessera/backend.hpp"
#include "tests/plugins/fenced/fenced_memory.h"
#include "tests/plugins/fenced/fenced_stream.h"

namespace fenced {

inline Stream& StreamOf(tessera_stream* stream) { return *reinterpret_cast<Stream*>(stream); }

class Device {
 public:
  Device() {
    table_ = {sizeof(table_),   this,
              "fenced:0",       &Info,
              &Allocate,        &Free,
              &StreamCreate,    &StreamDestroy,
              &CopyAsync,       &EventCreate,
              &EventDestroy,    &EventRecord,
              &StreamWaitEvent, &EventSynchronize,
              &EventElapsedUs};
  }

  const tessera_device_table* table() const { return &table_; }
  Memory& memory() { return memory_; }

  // From now on every call that can fail does, and work is not done.
  void Lose() { lost_ = true; }
  void CheckNotLost() const {
    if (lost_) throw tessera::plugin::Error(TESSERA_UNAVAILABLE, "fell off the bus");
  }

 private:
  static Memory& MemoryOf(void* self) { return static_cast<Device*>(self)->memory_; }
  static Event& EventOf(tessera_event* event) { return *reinterpret_cast<Event*>(event); }

  template <typename Body>
  static tessera_code Guard(void* self, tessera_message* message, Body body) {
    return tessera::plugin::internal::Guard(message, [&] {
      static_cast<const Device*>(self)->CheckNotLost();
      body();
    });
  }

  static tessera_code Info(void* self, tessera_device_info* info, tessera_message*) {
    std::strcpy(info->name, "fenced test device");
    info->compute_units = 1;
    info->total_memory_bytes = Memory::kTotalBytes;
    info->free_memory_bytes = MemoryOf(self).free_bytes();
    info->fast_memory_bytes = 64 << 10;
    info->l2_bytes = 1 << 20;
    return TESSERA_OK;
  }

  // Pinned memory is plain host memory: the host works in it.
  static tessera_code Allocate(void* self, tessera_memory_kind kind, size_t bytes, void** memory,
                               tessera_message* message) {
    return Guard(self, message, [&] {
      *memory = kind == TESSERA_MEMORY_DEVICE ? MemoryOf(self).Allocate(bytes)
                                              : std::aligned_alloc(64, (bytes + 63) / 64 * 64);
      if (*memory == nullptr) throw std::bad_alloc();
    });
  }
  static void Free(void* self, tessera_memory_kind kind, void* memory) {
    kind == TESSERA_MEMORY_DEVICE ? MemoryOf(self).Free(memory) : std::free(memory);
  }

  static tessera_code StreamCreate(void* self, tessera_stream** stream, tessera_message* message) {
    return Guard(self, message, [&] { *stream = reinterpret_cast<tessera_stream*>(new Stream); });
  }
  static void StreamDestroy(void*, tessera_stream* stream) { delete &StreamOf(stream); }

  static tessera_code CopyAsync(void* self, void* destination, const void* source, size_t bytes,
                                tessera_copy_kind kind, tessera_stream* stream, tessera_message* message) {
    return Guard(self, message, [&] {
      const auto size = static_cast<int64_t>(bytes);
      const Memory& memory = MemoryOf(self);
      void* const to = kind == TESSERA_COPY_DEVICE_TO_HOST
                           ? destination
                           : memory.Reach(destination, size, "the destination of a copy");
      const void* const from =
          kind == TESSERA_COPY_HOST_TO_DEVICE ? source : memory.Reach(source, size, "the source of a copy");
      StreamOf(stream).Push([=] { std::memcpy(to, from, bytes); });
    });
  }

  static tessera_code EventCreate(void* self, tessera_event** event, tessera_message* message) {
    return Guard(self, message, [&] { *event = reinterpret_cast<tessera_event*>(new Event); });
  }
  static void EventDestroy(void*, tessera_event* event) { delete &EventOf(event); }
  static tessera_code EventRecord(void* self, tessera_event* event, tessera_stream* stream,
                                  tessera_message* message) {
    return Guard(self, message, [&] { StreamOf(stream).Record(EventOf(event)); });
  }
  static tessera_code StreamWaitEvent(void* self, tessera_stream* stream, tessera_event* event,
                                      tessera_message* message) {
    return Guard(self, message, [&] { StreamOf(stream).WaitFor(EventOf(event)); });
  }
  static tessera_code EventSynchronize(void* self, tessera_event* event, tessera_message* message) {
    return Guard(self, message, [&] {
      const std::string error = EventOf(event).Wait();
      static_cast<const Device*>(self)->CheckNotLost();
      if (!error.empty()) throw tessera::plugin::Error(TESSERA_INTERNAL, error);
    });
  }
  static tessera_code EventElapsedUs(void* self, tessera_event* begin, tessera_event* end,
                                     double* microseconds, tessera_message* message) {
    return Guard(self, message, [&] {
      *microseconds =
          std::chrono::duration<double, std::micro>(EventOf(end).time() - EventOf(begin).time()).count();
    });
  }

  Memory memory_;
  tessera_device_table table_{};
  std::atomic<bool> lost_{false};
};

}  // namespace fenced
