// One queue and one thread per device: decides what runs next, and with whom.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/registry.h"
#include "server/job.h"
#include "server/options.h"

namespace tessera {

// Thread-safe.
class Scheduler {
 public:
  using OnDeviceLost = std::function<void(const absl::Status& health)>;

  // Starts a thread for each device of `registry`, which outlives the scheduler. `on_device_lost` (may be
  // empty) is called once for each device that is lost, on a thread of its, before any job is completed with
  // UNAVAILABLE, reason DEVICE_LOST: that is what all jobs of that device get from then on.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(const BackendRegistry& registry,
                                                           const Limits& limits,
                                                           OnDeviceLost on_device_lost = {});
  // Stop()s, and waits for the launches that run.
  ~Scheduler();

  // RESOURCE_EXHAUSTED, reason DEADLINE_UNREACHABLE, where a planned job, whose tensors need not be placed
  // yet, would not end by its deadline for what waits before it.
  absl::Status CheckReachable(const Job& job) const;

  // Queues a planned job for its backend's device. It is completed on another thread, or on this one when
  // stopped. One that will no longer end by its deadline when its turn comes is refused as by CheckReachable.
  void Submit(std::unique_ptr<Job> job);

  // Marks the requests that share `cancelled`, and completes those that still wait, on this thread. What is
  // queued on the device is not interrupted; a large launch whose requests are all dead queues no more.
  void Cancel(const std::shared_ptr<std::atomic<bool>>& cancelled);

  // How many jobs wait for a launch, by the id of their device.
  std::vector<std::pair<std::string, size_t>> Waiting() const;

  // Completes everything that waits, and all that is submitted from now on, with UNAVAILABLE. Idempotent.
  void Stop();

 private:
  class Lane;
  Scheduler();

  std::map<const Device*, std::unique_ptr<Lane>> lanes_;
};

}  // namespace tessera
