#include "server/host_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <utility>

namespace tessera {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

// AddressSanitizer sees an overrun only of a block of exactly the size asked for.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kRecycles = false;
#else
constexpr bool kRecycles = true;
#endif

std::byte* Allocate(int64_t bytes, int64_t alignment) {
  void* block = nullptr;
  if (posix_memalign(&block, static_cast<size_t>(alignment), static_cast<size_t>(bytes)) != 0) {
    throw std::bad_alloc();
  }
  return static_cast<std::byte*>(block);
}

std::byte* AllocateLarge(int64_t bytes) {
  const bool huge = bytes >= kHugePage;
  std::byte* const block = Allocate(bytes, huge ? kHugePage : HostBuffer::kAlignment);
  // A wish: one page fault instead of 512. Where there are no huge pages it changes nothing.
  if (huge) madvise(block, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return block;
}

// Blocks by capacity.
class Pool {
 public:
  std::byte* Take(int64_t capacity) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = idle_.find(capacity);
      if (found != idle_.end()) {
        std::byte* const block = found->second;
        idle_.erase(found);
        idle_bytes_ -= capacity;
        return block;
      }
    }
    return AllocateLarge(capacity);
  }

  // Past the bound the largest blocks go: one of them makes room for many.
  void Return(std::byte* block, int64_t capacity) {
    std::multimap<int64_t, std::byte*> excess;
    {
      const std::lock_guard lock(mutex_);
      idle_.emplace(capacity, block);
      idle_bytes_ += capacity;
      while (idle_bytes_ > HostBuffer::kMaxIdleBytes) {
        const auto largest = std::prev(idle_.end());
        idle_bytes_ -= largest->first;
        excess.insert(idle_.extract(largest));
      }
    }
    for (const auto& [size, memory] : excess) std::free(memory);
  }

 private:
  std::mutex mutex_;
  std::multimap<int64_t, std::byte*> idle_;
  int64_t idle_bytes_ = 0;
};

// Never destroyed: gRPC may hold the last bytes of a reply when the program ends.
Pool& ThePool() {
  static Pool* const pool = new Pool;
  return *pool;
}

}  // namespace

HostBuffer::HostBuffer(int64_t bytes) : block_(nullptr, Free{0}), bytes_(bytes) {
  if (kRecycles && bytes >= kRecycledBytes) {
    const int64_t capacity = CapacityFor(bytes);
    block_ = {ThePool().Take(capacity), Free{capacity}};
  } else {
    block_ = {Allocate(std::max<int64_t>(bytes, 1), kAlignment), Free{0}};
  }
}

void HostBuffer::Free::operator()(std::byte* block) const {
  if (capacity > 0) {
    ThePool().Return(block, capacity);
  } else {
    std::free(block);
  }
}

int64_t HostBuffer::CapacityFor(int64_t bytes) {
  const auto size = static_cast<uint64_t>(bytes);
  const uint64_t step = std::max<uint64_t>(std::bit_floor(size) / 4, 1);
  return static_cast<int64_t>((size + step - 1) / step * step);
}

std::shared_ptr<std::byte> Share(HostBuffer buffer) {
  std::byte* const data = buffer.data();
  return {data, [owned = std::make_shared<HostBuffer>(std::move(buffer))](std::byte*) {}};
}

}  // namespace tessera
