// Plain host memory of the server, recycled: fresh pages cost as much as copying into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tessera {

// Move-only block, aligned to 64 bytes; data() is never null. Its contents are not initialised. Large blocks
// (kRecycledBytes and more) go back to a pool of this process and are handed out again, of smaller ones
// malloc takes care. The pool keeps at most kMaxIdleBytes; what is more goes back to the system. Thread-safe.
class HostBuffer {
 public:
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kRecycledBytes = int64_t{256} << 10;
  static constexpr int64_t kMaxIdleBytes = int64_t{512} << 20;

  HostBuffer() : HostBuffer(0) {}
  // Throws std::bad_alloc.
  explicit HostBuffer(int64_t bytes);

  std::byte* data() const { return block_.get(); }
  int64_t bytes() const { return bytes_; }

  // One of four sizes for each power of two: a block of it serves any request of up to a quarter less.
  static int64_t CapacityFor(int64_t bytes);

 private:
  struct Free {
    int64_t capacity;  // 0: from malloc
    void operator()(std::byte* block) const;
  };
  std::unique_ptr<std::byte, Free> block_;
  int64_t bytes_ = 0;
};

// The block as one that several may hold, until the last lets go.
std::shared_ptr<std::byte> Share(HostBuffer buffer);

}  // namespace tessera
