// One queue and one thread per device: decides what runs next, and with whom.
#pragma once

#include <atomic>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/registry.h"
#include "server/job.h"
#include "server/options.h"

namespace tessera {

// Thread-safe.
class Scheduler {
 public:
  // Starts a thread for each device of `registry`, which outlives the scheduler.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(const BackendRegistry& registry,
                                                           const Limits& limits);
  // Stop()s, and waits for the launches that run.
  ~Scheduler();

  // Queues a planned job for its backend's device. It is completed on another thread, or on this one when
  // stopped.
  void Submit(std::unique_ptr<Job> job);

  // Marks the requests that share `cancelled`, and completes those that still wait, on this thread. A launch
  // that runs is not interrupted.
  void Cancel(const std::shared_ptr<std::atomic<bool>>& cancelled);

  // Completes everything that waits, and all that is submitted from now on, with UNAVAILABLE. Idempotent.
  void Stop();

 private:
  class Lane;
  Scheduler();

  std::map<const Device*, std::unique_ptr<Lane>> lanes_;
};

}  // namespace tessera
