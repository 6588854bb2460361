// Memory that the host cannot touch: device pointers are host pointers with one bit flipped, which makes them
// addresses that no process can hold. Host code that dereferences one faults; the device flips the bit back.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <string>

#include "tessera/backend.hpp"

namespace fenced {

// Bit 55 selects the kernel's half of the address space on arm64 and makes an address non-canonical on
// x86-64.
constexpr uintptr_t kFence = uintptr_t{1} << 55;

template <typename T>
T* Flip(T* pointer) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) ^ kFence);
}

// The device's heap. Thread-safe.
class Memory {
 public:
  static constexpr int64_t kTotalBytes = int64_t{1} << 30;

  ~Memory() {
    for (const auto& [address, bytes] : blocks_) std::free(reinterpret_cast<void*>(address));
  }

  // A device pointer.
  void* Allocate(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > static_cast<size_t>(kTotalBytes - used_)) {
      throw tessera::plugin::Error(TESSERA_RESOURCE_EXHAUSTED,
                                   "asked for " + std::to_string(bytes) + " bytes, " +
                                       std::to_string(kTotalBytes - used_) + " are free");
    }
    void* const block = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (block == nullptr) throw std::bad_alloc();
    blocks_[reinterpret_cast<uintptr_t>(block)] = bytes;
    used_ += static_cast<int64_t>(bytes);
    return Flip(block);
  }

  void Free(void* device_pointer) {
    if (device_pointer == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto block = blocks_.find(reinterpret_cast<uintptr_t>(Flip(device_pointer)));
    if (block == blocks_.end()) std::abort();  // a double free, or memory of somebody else
    used_ -= static_cast<int64_t>(block->second);
    std::free(reinterpret_cast<void*>(block->first));
    blocks_.erase(block);
  }

  // The host address of [pointer, pointer + bytes); INVALID_ARGUMENT naming `what` when that is not device
  // memory.
  template <typename T>
  T* Reach(T* pointer, int64_t bytes, const char* what) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto address = reinterpret_cast<uintptr_t>(Flip(pointer));
    auto block = blocks_.upper_bound(address);
    if (block == blocks_.begin() ||
        (--block, address + static_cast<uintptr_t>(bytes) > block->first + block->second)) {
      throw tessera::plugin::Error(TESSERA_INVALID_ARGUMENT, std::string(what) + " is not in device memory");
    }
    return Flip(pointer);
  }

  int64_t free_bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kTotalBytes - used_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<uintptr_t, size_t> blocks_;  // by host address
  int64_t used_ = 0;
};

}  // namespace fenced
