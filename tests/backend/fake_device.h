// A Device for tests: host memory behind it, every call counted, any call made to fail on demand.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "backend/core/device.h"
#include "backend/core/error.h"

namespace tessera::testing {

// Copies happen at once and are remembered by kind; events hold the time they were recorded. Thread-safe.
class FakeDevice : public Device {
 public:
  enum class Call {
    kInfo,
    kAllocate,
    kCreateStream,
    kCopy,
    kCreateEvent,
    kRecord,
    kWait,
    kSynchronize,
    kElapsed
  };

  struct Options {
    std::string id = "fake:0";
    int64_t memory_bytes = int64_t{1} << 30;  // Allocate refuses beyond, both kinds together
    bool host_accessible = true;
    int32_t compute_units = 4;
    int64_t fast_memory_bytes = int64_t{1} << 18;
    int64_t l2_bytes = int64_t{1} << 22;
  };

  // What is alive now, and what has ever been asked for.
  struct Counts {
    int64_t live_allocations = 0;
    int64_t live_bytes = 0;
    int64_t live_streams = 0;
    int64_t live_events = 0;
    int64_t allocations = 0;  // in total
    int64_t copies[3] = {};   // in total, by tessera_copy_kind
    int64_t copied_bytes[3] = {};
  };

  FakeDevice() : FakeDevice(Options{}) {}
  explicit FakeDevice(Options options) : options_(std::move(options)) {}
  ~FakeDevice() override {
    for (const auto& [memory, bytes] : blocks_) std::free(memory);
  }

  // The next `times` calls of this kind return `status`.
  void Fail(Call call, absl::Status status, int times = 1) {
    const std::lock_guard lock(mutex_);
    failures_[call] = {std::move(status), times};
  }

  // From now on the device is lost: whatever can fail does.
  void Lose() {
    const std::lock_guard lock(mutex_);
    health_ = DeviceLostError(options_.id, "made so by the test");
  }

  // From now on work took so long, whatever the clock says.
  void SetElapsed(std::chrono::microseconds elapsed) {
    const std::lock_guard lock(mutex_);
    elapsed_ = elapsed;
  }

  Counts counts() const {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

  const std::string& id() const override { return options_.id; }
  bool host_accessible() const override { return options_.host_accessible; }

  absl::Status Health() const override {
    const std::lock_guard lock(mutex_);
    return health_;
  }

  absl::StatusOr<DeviceInfo> Info() const override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kInfo));
    return DeviceInfo{.name = "fake device",
                      .compute_units = options_.compute_units,
                      .total_memory_bytes = options_.memory_bytes,
                      .free_memory_bytes = options_.memory_bytes - counts_.live_bytes,
                      .fast_memory_bytes = options_.fast_memory_bytes,
                      .l2_bytes = options_.l2_bytes};
  }

  absl::StatusOr<void*> Allocate(MemoryKind, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kAllocate));
    const int64_t free_bytes = options_.memory_bytes - counts_.live_bytes;
    if (bytes > static_cast<uint64_t>(free_bytes)) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       absl::StrCat(options_.id, ": expected at most ", free_bytes, " bytes, got ", bytes),
                       {.reason = "DEVICE_MEMORY",
                        .metadata = {{"expected", absl::StrCat("at most ", free_bytes, " bytes")},
                                     {"actual", absl::StrCat(bytes, " bytes")}},
                        .retry_after = std::nullopt});
    }
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == nullptr) return absl::ResourceExhaustedError("the test machine is out of memory");
    blocks_.emplace(memory, bytes);
    ++counts_.allocations;
    ++counts_.live_allocations;
    counts_.live_bytes += static_cast<int64_t>(bytes);
    return memory;
  }

  void Free(MemoryKind, void* memory) override {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(memory);
    if (block == blocks_.end()) std::abort();  // not ours, or freed twice
    counts_.live_bytes -= static_cast<int64_t>(block->second);
    --counts_.live_allocations;
    blocks_.erase(block);
    std::free(memory);
  }

  absl::StatusOr<tessera_stream*> CreateStream() override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kCreateStream));
    ++counts_.live_streams;
    return reinterpret_cast<tessera_stream*>(new char);
  }

  void DestroyStream(tessera_stream* stream) override {
    const std::lock_guard lock(mutex_);
    --counts_.live_streams;
    delete reinterpret_cast<char*>(stream);
  }

  absl::Status CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                         tessera_stream*) override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kCopy));
    if (bytes > 0) std::memcpy(destination, source, bytes);
    ++counts_.copies[kind];
    counts_.copied_bytes[kind] += static_cast<int64_t>(bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<tessera_event*> CreateEvent() override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kCreateEvent));
    ++counts_.live_events;
    return reinterpret_cast<tessera_event*>(new Clock::time_point(Clock::now()));
  }

  void DestroyEvent(tessera_event* event) override {
    const std::lock_guard lock(mutex_);
    --counts_.live_events;
    delete TimeOf(event);
  }

  absl::Status RecordEvent(tessera_event* event, tessera_stream*) override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kRecord));
    *TimeOf(event) = Clock::now();
    return absl::OkStatus();
  }

  absl::Status WaitEvent(tessera_stream*, tessera_event*) override {
    const std::lock_guard lock(mutex_);
    return TakeFailure(Call::kWait);
  }

  absl::Status SynchronizeEvent(tessera_event*) override {
    const std::lock_guard lock(mutex_);
    return TakeFailure(Call::kSynchronize);
  }

  absl::StatusOr<double> ElapsedMicroseconds(tessera_event* begin, tessera_event* end) override {
    const std::lock_guard lock(mutex_);
    TESSERA_RETURN_IF_ERROR(TakeFailure(Call::kElapsed));
    if (elapsed_) return static_cast<double>(elapsed_->count());
    return std::chrono::duration<double, std::micro>(*TimeOf(end) - *TimeOf(begin)).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Failure {
    absl::Status status;
    int times = 0;
  };

  static Clock::time_point* TimeOf(tessera_event* event) {
    return reinterpret_cast<Clock::time_point*>(event);
  }

  absl::Status TakeFailure(Call call) const {
    if (!health_.ok()) return health_;
    const auto failure = failures_.find(call);
    if (failure == failures_.end() || failure->second.times == 0) return absl::OkStatus();
    --failure->second.times;
    return failure->second.status;
  }

  const Options options_;
  mutable std::mutex mutex_;
  Counts counts_;
  std::optional<std::chrono::microseconds> elapsed_;
  absl::Status health_;
  mutable std::map<Call, Failure> failures_;
  std::map<void*, size_t> blocks_;
};

}  // namespace tessera::testing
