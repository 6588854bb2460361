// Plain host memory of the server: spans of it, and zeroed, aligned blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace tessera {

// Bytes that someone else owns.
struct HostSpan {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// Move-only block of zeroed memory, aligned to 64 bytes; data() is never null. Zeroed, so that no reply can
// show what an earlier request left; from a size on the pages come zeroed from the kernel and cost nothing
// more.
class HostBuffer {
 public:
  HostBuffer() : HostBuffer(0) {}
  explicit HostBuffer(int64_t bytes)
      : block_(std::calloc(static_cast<size_t>(bytes) + kAlignment, 1), &std::free), bytes_(bytes) {
    if (block_ == nullptr) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(block_.get());
    data_ = reinterpret_cast<std::byte*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 64;
  std::unique_ptr<void, void (*)(void*)> block_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace tessera
