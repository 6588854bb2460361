// Runs launches on one device: place, launch, account.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/device.h"
#include "server/job.h"

namespace tessera {

// HostExecutor runs one launch after the other, on tensors where they are; DeviceExecutor moves the tensors
// of one launch while another computes. AwaitRoom and Run are for one thread.
class Executor {
 public:
  // Whom an executor tells what it cannot settle alone; called on the thread of Run or on the executor's own.
  class Owner {
   public:
    // The launch of `jobs` is over; on success their ledgers say what it took. Called before anything else is
    // said of them.
    virtual void Ended(const Jobs& /*jobs*/, bool /*succeeded*/) {}
    // `jobs` failed, maybe for each other's sake or for that of a launch before: each is to run once more, by
    // itself.
    virtual void RunAlone(Jobs jobs) = 0;
    // The device's Health() has turned bad, or it was given up; so it stays. Called before any job is
    // completed with it, at least once.
    virtual void DeviceLost(const absl::Status& health) = 0;

   protected:
    ~Owner() = default;
  };

  // The right one for `device`, which with at most `copiers` threads copies inputs to where the device gets
  // them. Device and owner outlive the executor.
  static absl::StatusOr<std::unique_ptr<Executor>> Create(Device& device, int64_t max_workspace_bytes,
                                                          int copiers, Owner& owner);
  // Waits for what runs.
  virtual ~Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Waits until Run would start its jobs at once.
  virtual void AwaitRoom() {}

  // Runs `jobs` (not empty, one backend; several: equal launch keys, CanShareLaunch) as one launch, and
  // completes each or hands it back to the owner, before Run returns or later.
  virtual void Run(Jobs jobs) = 0;

 protected:
  Executor(Device& device, Owner& owner) : device_(device), owner_(owner) {}

  // Ends a launch. `had_company`: the failure may be another launch's, one that ran before on the same
  // streams.
  void Settle(Jobs jobs, const absl::Status& status, bool had_company);

  // Treats the device as lost, whatever it says of itself: for `cause`, what runs on it cannot be waited for,
  // and so none of the memory that it uses may be used again. Thread-safe.
  void GiveUp(const absl::Status& cause);
  // The device's, or why it was given up. Thread-safe.
  absl::Status Health() const;

  Device& device_;

 private:
  Owner& owner_;
  mutable std::mutex mutex_;
  absl::Status given_up_;  // guarded by mutex_
};

// Sets the traffic of `jobs`, which have one backend: what each moves by its own plan. That can take longer
// than a kernel, so it is for the time in which the device works.
absl::Status ModelTraffic(const std::vector<Job*>& jobs);

// What a launch cost.
struct LaunchCost {
  double queue = 0;        // microseconds, after what AccountQueue enters: placed, but behind others' work
  double transfer_in = 0;  // also microseconds
  double compute = 0;
  double transfer_out = 0;
  int64_t workspace_peak = 0;  // bytes
};

// Enters it and their traffic into the ledgers of `jobs`, which ran as `problem` by `plan`. Leaves to others
// what the jobs' tensors took.
void AccountLaunch(const std::vector<Job*>& jobs, const AttentionProblem& problem, const Plan& plan,
                   const LaunchCost& cost);

// Enters the end of the jobs' wait, now: their tensors begin to move.
void AccountQueue(const Jobs& jobs);

std::vector<Job*> PointersTo(const Jobs& jobs);

}  // namespace tessera
