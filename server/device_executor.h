// The executor of a device with memory of its own.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "backend/core/arena.h"
#include "server/copy_threads.h"
#include "server/executor.h"
#include "server/launch_slot.h"
#include "server/output_memory.h"

namespace tessera {

// A pipeline of launches, a large launch being several chunks. Run, on the caller's thread, copies inputs
// into pinned memory and queues upload, work and download of one chunk after the other; a thread of the
// executor waits for them in that order and completes the jobs. So the host copies of one chunk, the upload
// of the one before, the work of the one before that and the download of an earlier one overlap, whether of
// one launch or of up to kSlots.
class DeviceExecutor : public Executor {
 public:
  static absl::StatusOr<std::unique_ptr<Executor>> Create(Device& device, int64_t workspace_limit,
                                                          int copiers, Owner& owner);
  ~DeviceExecutor() override;

  void AwaitRoom() override;
  // Returns when all is queued.
  void Run(Jobs jobs) override;

 private:
  // One launch whose inputs move in, one that computes, one whose outputs move out.
  static constexpr int kSlots = 3;

  // What the collecting thread does next: wait for a chunk, or end a launch that was queued with `queued`
  // and, if that failed, then fenced.
  struct Step {
    LaunchSlot* slot;
    std::optional<size_t> chunk = std::nullopt;
    absl::Status queued = {};
    bool is_fenced = false;
  };

  DeviceExecutor(Device& device, int64_t workspace_limit, int copiers, Owner& owner);

  LaunchSlot& TakeSlot(Jobs jobs);
  void FreeSlot(LaunchSlot& slot);
  // Waits until no more than `in_flight` launches are; an error if what they leave is not free to use.
  absl::Status AwaitOthers(int in_flight);
  absl::Status Queue(LaunchSlot& slot);
  absl::Status Reserve(LaunchSlot& slot);
  absl::Status TryReserve(LaunchSlot& slot);
  bool MayHelpToFlush(const LaunchSlot& slot, const absl::Status& status);
  void Push(Step step);

  void Collect();
  std::optional<Step> NextStep();
  void End(const Step& step);

  // One for all: work runs in one stream, one chunk after the other.
  Arena workspace_;
  OutputMemory output_memory_;
  CopyThreads copiers_;
  std::vector<std::unique_ptr<LaunchSlot>> slots_;
  // They go before the memory and the events that they use.
  DeviceStreams streams_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<LaunchSlot*> free_;
  std::deque<Step> steps_;
  bool stopping_ = false;
  std::thread collector_;  // last: it uses all of the above
};

}  // namespace tessera
