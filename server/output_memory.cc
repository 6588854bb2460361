#include "server/output_memory.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

#include "server/host_buffer.h"

namespace tessera {
namespace {

// Idle pinned memory is memory that nobody else on the machine can use.
constexpr int64_t kMaxIdleBytes = int64_t{512} << 20;

constexpr std::chrono::seconds kPatience(5);

}  // namespace

class OutputMemory::Pool : public std::enable_shared_from_this<Pool> {
 public:
  explicit Pool(Device& device) : device_(&device) {}

  absl::StatusOr<std::shared_ptr<std::byte>> Take(int64_t bytes) {
    // Blocks come in few sizes, so that they fit again.
    const int64_t capacity = HostBuffer::CapacityFor(std::max(bytes, HostBuffer::kAlignment));
    std::byte* block = TakeIdle(capacity);
    if (block == nullptr) {
      const auto fresh = device_->Allocate(TESSERA_MEMORY_PINNED, static_cast<size_t>(capacity));
      if (!fresh.ok()) return fresh.status();
      block = static_cast<std::byte*>(*fresh);
      const std::lock_guard lock(mutex_);
      ++out_;
    }
    return std::shared_ptr<std::byte>(
        block, [pool = shared_from_this(), capacity](std::byte* memory) { pool->Return(memory, capacity); });
  }

  int64_t idle_bytes() {
    const std::lock_guard lock(mutex_);
    return idle_bytes_ + freeing_bytes_;
  }

  // What others free already, too.
  void ReleaseIdle() {
    std::unique_lock lock(mutex_);
    ShrinkTo(0, lock);
    changed_.wait(lock, [this] { return freeing_bytes_ == 0; });
  }

  // Frees all that comes back before long, and forgets the device.
  void Close() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [this] { return out_ == 0; });
    do {
      ShrinkTo(0, lock);
      changed_.wait(lock, [this] { return freeing_bytes_ == 0; });  // meanwhile more may come back
    } while (idle_bytes_ > 0);
    device_ = nullptr;
  }

 private:
  std::byte* TakeIdle(int64_t capacity) {
    const std::lock_guard lock(mutex_);
    const auto found = idle_.find(capacity);
    if (found == idle_.end()) return nullptr;
    std::byte* const block = found->second;
    idle_.erase(found);
    idle_bytes_ -= capacity;
    ++out_;
    return block;
  }

  void Return(std::byte* block, int64_t capacity) {
    std::unique_lock lock(mutex_);
    --out_;
    if (device_ == nullptr) return;
    idle_.emplace(capacity, block);
    idle_bytes_ += capacity;
    changed_.notify_all();
    ShrinkTo(kMaxIdleBytes, lock);
  }

  // The largest go first: one of them makes room for many. Frees without `lock`, as that takes milliseconds.
  void ShrinkTo(int64_t bytes, std::unique_lock<std::mutex>& lock) {
    while (idle_bytes_ > bytes) {
      const auto largest = idle_.extract(std::prev(idle_.end()));
      idle_bytes_ -= largest.key();
      freeing_bytes_ += largest.key();
      Device& device = *device_;  // Close waits for this
      lock.unlock();
      device.Free(TESSERA_MEMORY_PINNED, largest.mapped());
      lock.lock();
      freeing_bytes_ -= largest.key();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Device* device_;
  std::multimap<int64_t, std::byte*> idle_;  // by capacity
  int64_t idle_bytes_ = 0;
  int64_t freeing_bytes_ = 0;  // on their way back to the device
  int out_ = 0;                // blocks that somebody holds
};

OutputMemory::OutputMemory(Device& device) : device_(device), pool_(std::make_shared<Pool>(device)) {}

OutputMemory::~OutputMemory() { pool_->Close(); }

absl::StatusOr<std::shared_ptr<std::byte>> OutputMemory::Allocate(int64_t bytes) {
  return device_.host_accessible() ? Share(HostBuffer(bytes)) : pool_->Take(bytes);
}

int64_t OutputMemory::idle_bytes() const { return pool_->idle_bytes(); }
void OutputMemory::ReleaseIdle() { pool_->ReleaseIdle(); }

}  // namespace tessera
