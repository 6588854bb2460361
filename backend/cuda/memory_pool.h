// Keeps freed memory for the next who asks, where asking the source (the CUDA driver) is slow: cudaMalloc
// takes up to milliseconds, cudaFree waits for everything that runs on the GPU. Knows no CUDA itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// Thread-safe; the source is called without a lock held, from several threads at once.
class MemoryPool {
 public:
  struct Source {
    // RESOURCE_EXHAUSTED says that giving memory back may help; any other error is final.
    std::function<absl::StatusOr<void*>(size_t bytes)> allocate;
    // Cannot fail. Blocks of a source that is gone come back here all the same.
    std::function<void(void* memory)> free;
  };
  struct Stats {
    int64_t in_use_bytes = 0;       // of blocks handed out, as rounded
    int64_t in_use_peak_bytes = 0;  // the most that has ever been
    int64_t kept_bytes = 0;         // of blocks that wait to be used again
  };

  // `max_kept_bytes`: what may wait to be used again; beyond it the longest unused goes back to the source.
  MemoryPool(Source source, size_t max_kept_bytes);
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  // Every block has been freed.
  ~MemoryPool();

  // A block of at least `bytes`, aligned as the source aligns, undefined content. The smallest kept block
  // that fits, if it is at most an eighth larger than a new one would be; else a new one of
  // RoundedSize(bytes). When the source has no room, everything kept goes back to it and it is asked again;
  // then its error.
  absl::StatusOr<void*> Allocate(size_t bytes);

  // Of a block from Allocate, or null. No work that uses it is still to run.
  void Free(void* memory);

  // Gives everything kept back to the source.
  void Trim();

  Stats stats() const;

  // What a block for `bytes` takes. Up to 1 MiB: one of four sizes between powers of two, at least 256
  // bytes, so that a block wastes less than a fifth of itself and sizes recur. Beyond: a multiple of
  // 2 MiB, which is what the driver takes for it anyway, so that rounding costs no memory.
  static size_t RoundedSize(size_t bytes);

 private:
  struct Kept {
    void* memory;
    uint64_t freed_at;  // by the count of frees
  };

  // Null: none fits.
  void* TakeKept(size_t rounded);
  void HandOut(void* memory, size_t bytes);  // with mutex_ held

  const Source source_;
  const size_t max_kept_bytes_;

  mutable std::mutex mutex_;
  std::multimap<size_t, Kept> kept_;          // by size
  std::unordered_map<void*, size_t> in_use_;  // sizes
  uint64_t frees_ = 0;
  Stats stats_;
};

}  // namespace tessera
