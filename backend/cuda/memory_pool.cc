#include "backend/cuda/memory_pool.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <limits>
#include <utility>
#include <vector>

namespace tessera {
namespace {

constexpr size_t kSmallestBytes = 256;
constexpr size_t kLargestClassBytes = size_t{1} << 20;
constexpr size_t kGranularity = size_t{2} << 20;
constexpr size_t kSizesPerDoubling = 4;

size_t RoundUp(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

}  // namespace

MemoryPool::MemoryPool(Source source, size_t max_kept_bytes)
    : source_(std::move(source)), max_kept_bytes_(max_kept_bytes) {}

MemoryPool::~MemoryPool() { Trim(); }

size_t MemoryPool::RoundedSize(size_t bytes) {
  if (bytes <= kSmallestBytes) return kSmallestBytes;
  if (bytes <= kLargestClassBytes) return RoundUp(bytes, std::bit_floor(bytes - 1) / kSizesPerDoubling);
  // No source has that much; it shall say so itself.
  if (bytes > std::numeric_limits<size_t>::max() - kGranularity) return bytes;
  return RoundUp(bytes, kGranularity);
}

absl::StatusOr<void*> MemoryPool::Allocate(size_t bytes) {
  const size_t rounded = RoundedSize(bytes);
  if (void* const kept = TakeKept(rounded)) return kept;
  absl::StatusOr<void*> memory = source_.allocate(rounded);
  if (absl::IsResourceExhausted(memory.status())) {
    Trim();
    memory = source_.allocate(rounded);
  }
  if (!memory.ok()) return memory;
  const std::lock_guard lock(mutex_);
  HandOut(*memory, rounded);
  return memory;
}

void* MemoryPool::TakeKept(size_t rounded) {
  const std::lock_guard lock(mutex_);
  const auto best = kept_.lower_bound(rounded);
  if (best == kept_.end() || best->first - rounded > rounded / 8) return nullptr;
  const auto [bytes, kept] = *best;
  kept_.erase(best);
  stats_.kept_bytes -= static_cast<int64_t>(bytes);
  HandOut(kept.memory, bytes);
  return kept.memory;
}

void MemoryPool::HandOut(void* memory, size_t bytes) {
  in_use_.emplace(memory, bytes);
  stats_.in_use_bytes += static_cast<int64_t>(bytes);
  stats_.in_use_peak_bytes = std::max(stats_.in_use_peak_bytes, stats_.in_use_bytes);
}

void MemoryPool::Free(void* memory) {
  if (memory == nullptr) return;
  std::vector<void*> surplus;
  {
    const std::lock_guard lock(mutex_);
    const auto block = in_use_.find(memory);
    assert(block != in_use_.end() && "not of this pool, or freed twice");
    if (block == in_use_.end()) return;
    const size_t bytes = block->second;
    in_use_.erase(block);
    stats_.in_use_bytes -= static_cast<int64_t>(bytes);
    if (bytes > max_kept_bytes_) {
      surplus.push_back(memory);
    } else {
      kept_.emplace(bytes, Kept{memory, ++frees_});
      stats_.kept_bytes += static_cast<int64_t>(bytes);
    }
    while (static_cast<size_t>(stats_.kept_bytes) > max_kept_bytes_) {
      const auto oldest = std::min_element(kept_.begin(), kept_.end(), [](const auto& a, const auto& b) {
        return a.second.freed_at < b.second.freed_at;
      });
      surplus.push_back(oldest->second.memory);
      stats_.kept_bytes -= static_cast<int64_t>(oldest->first);
      kept_.erase(oldest);
    }
  }
  for (void* const block : surplus) source_.free(block);
}

void MemoryPool::Trim() {
  std::multimap<size_t, Kept> kept;
  {
    const std::lock_guard lock(mutex_);
    kept.swap(kept_);
    stats_.kept_bytes = 0;
  }
  for (const auto& [bytes, block] : kept) source_.free(block.memory);
}

MemoryPool::Stats MemoryPool::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace tessera
