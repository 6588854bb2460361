// What shadow verification found. Its threads write, the metrics endpoint reads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace tessera {

enum ShadowResult { kShadowVerified, kShadowDropped, kShadowFailed, kNumShadowResults };

// Thread-safe.
class ShadowMetrics {
 public:
  struct Key {
    std::string backend, dtype, head_dim;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Errors {
    double max = 0, last = 0;
  };

  void Count(ShadowResult result) { counts_[result].fetch_add(1, std::memory_order_relaxed); }
  void CountVerified(const Key& key, double relative_error) {
    Count(kShadowVerified);
    const std::lock_guard lock(mutex_);
    Errors& errors = errors_[key];
    errors.max = std::max(errors.max, relative_error);
    errors.last = relative_error;
  }
  void AddPendingBytes(int64_t bytes) { pending_bytes_.fetch_add(bytes, std::memory_order_relaxed); }

  uint64_t count(ShadowResult result) const { return counts_[result].load(std::memory_order_relaxed); }
  int64_t pending_bytes() const { return pending_bytes_.load(std::memory_order_relaxed); }
  std::map<Key, Errors> errors() const {
    const std::lock_guard lock(mutex_);
    return errors_;
  }

 private:
  std::array<std::atomic<uint64_t>, kNumShadowResults> counts_{};
  std::atomic<int64_t> pending_bytes_{0};
  mutable std::mutex mutex_;
  std::map<Key, Errors> errors_;
};

}  // namespace tessera
