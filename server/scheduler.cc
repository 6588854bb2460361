#include "server/scheduler.h"

#include <sched.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/core/error.h"
#include "server/admission.h"
#include "server/batch_queue.h"
#include "server/executor.h"
#include "server/load_estimate.h"

namespace tessera {

// One core copies 8 GB/s; a PCIe link of the fifth generation takes 50, and the host's memory about 30 beside
// it.
constexpr int kCopiers = 4;

// On a busy core the calling thread, when it wakes, no longer interrupts those that read requests and write
// replies, and finds more that may share a launch. A wish: what an operator has set stays.
void InterruptNobody() {
  const sched_param priority{};
  if (sched_getscheduler(0) == SCHED_OTHER) sched_setscheduler(0, SCHED_BATCH, &priority);
}

// The queue and the thread of one device.
class Scheduler::Lane : private Executor::Owner {
 public:
  static absl::StatusOr<std::unique_ptr<Lane>> Create(Device& device, const Limits& limits,
                                                      const OnDeviceLost& on_device_lost) {
    std::unique_ptr<Lane> lane(new Lane(limits.max_batch_tokens, on_device_lost));
    TESSERA_ASSIGN_OR_RETURN(lane->executor_,
                             Executor::Create(device, limits.max_workspace_bytes, kCopiers, *lane));
    lane->thread_ = std::thread([raw = lane.get()] { raw->Loop(); });
    return lane;
  }

  ~Lane() {
    Stop();
    if (thread_.joinable()) thread_.join();
  }

  void Submit(std::unique_ptr<Job> job) {
    job->queued_at = Clock::now();
    Jobs jobs;
    jobs.push_back(std::move(job));
    Enqueue(std::move(jobs), [this](Jobs waiting) { queue_.Push(std::move(waiting.front())); });
  }

  absl::Status CheckReachable(const Job& job) const {
    std::lock_guard lock(mutex_);
    return load_.CheckBeforeQueue(job, Clock::now());
  }

  void DropDead() {
    BatchQueue::Ends dead;
    {
      std::lock_guard lock(mutex_);
      dead = Remove([now = Clock::now()](const Job& job) { return CheckAlive(job, now); });
    }
    CompleteAll(std::move(dead));
  }

  void Stop() { Close(DrainingError()); }

  size_t waiting() const {
    std::lock_guard lock(mutex_);
    return queue_.size();
  }

 private:
  Lane(int64_t max_batch_tokens, const OnDeviceLost& on_device_lost)
      : on_device_lost_(on_device_lost), queue_(max_batch_tokens) {}

  void Ended(const Jobs& jobs, bool succeeded) override {
    std::lock_guard lock(mutex_);
    load_.End(jobs, succeeded, Clock::now());
  }

  void RunAlone(Jobs jobs) override {
    for (auto& job : jobs) job->alone = true;
    Enqueue(std::move(jobs), [this](Jobs failed) { queue_.PushFront(std::move(failed)); });
  }

  void DeviceLost(const absl::Status& health) override {
    if (!lost_.exchange(true) && on_device_lost_) on_device_lost_(health);
    Close(health);
  }

  // Hands `jobs` to `push`, under the lock, unless the lane is closed.
  template <typename PushTo>
  void Enqueue(Jobs jobs, PushTo push) {
    absl::Status closed;
    {
      std::lock_guard lock(mutex_);
      closed = closed_;
      if (closed.ok()) {
        for (const auto& job : jobs) load_.Push(*job);
        push(std::move(jobs));
        changed_.notify_one();
        return;
      }
    }
    for (auto& job : jobs) Complete(std::move(job), closed);
  }

  // Completes what waits, and all that comes later, with `reason`; the first one counts.
  void Close(const absl::Status& reason) {
    Jobs waiting;
    {
      std::lock_guard lock(mutex_);
      closed_.Update(reason);
      waiting = queue_.RemoveAll();
      for (const auto& job : waiting) load_.Drop(*job);
      changed_.notify_one();
    }
    for (auto& job : waiting) Complete(std::move(job), reason);
  }

  void Loop() {
    InterruptNobody();
    while (true) {
      // Not popped before there is room: until then others may join the batch, and anyone may leave.
      executor_->AwaitRoom();
      BatchQueue::Ends refused;
      Jobs batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !closed_.ok() || !queue_.empty(); });
        if (queue_.empty()) return;  // closed
        const Clock::time_point now = Clock::now();
        refused = Remove([this, now](const Job& job) {
          TESSERA_RETURN_IF_ERROR(CheckAlive(job, now));
          return load_.CheckBeforeLaunch(job, now);
        });
        batch = queue_.PopBatch();
        load_.Begin(batch, now);
      }
      CompleteAll(std::move(refused));
      if (!batch.empty()) executor_->Run(std::move(batch));
    }
  }

  // With the lock.
  template <typename Check>
  BatchQueue::Ends Remove(Check check) {
    return queue_.RemoveUnless([&](const Job& job) {
      absl::Status status = check(job);
      if (!status.ok()) load_.Drop(job);
      return status;
    });
  }

  // Without it.
  static void CompleteAll(BatchQueue::Ends ends) {
    for (auto& [job, status] : ends) Complete(std::move(job), status);
  }

  const OnDeviceLost on_device_lost_;
  std::atomic<bool> lost_ = false;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  BatchQueue queue_;
  LoadEstimate load_;                   // of queue_ and of what runs
  absl::Status closed_;                 // why nothing more is taken
  std::unique_ptr<Executor> executor_;  // uses all of the above
  std::thread thread_;                  // uses all of the above
};

Scheduler::Scheduler() = default;
Scheduler::~Scheduler() = default;

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(const BackendRegistry& registry,
                                                             const Limits& limits,
                                                             OnDeviceLost on_device_lost) {
  std::unique_ptr<Scheduler> scheduler(new Scheduler);
  for (Device* device : registry.devices()) {
    auto lane = Lane::Create(*device, limits, on_device_lost);
    if (!lane.ok()) return Prefixed(device->id(), lane.status());
    scheduler->lanes_[device] = *std::move(lane);
  }
  return scheduler;
}

absl::Status Scheduler::CheckReachable(const Job& job) const {
  if (job.context.deadline == Clock::time_point::max()) return absl::OkStatus();  // most: without the lock
  const auto lane = lanes_.find(&job.backend->device());
  return lane == lanes_.end() ? absl::OkStatus() : lane->second->CheckReachable(job);
}

void Scheduler::Submit(std::unique_ptr<Job> job) {
  const auto lane = lanes_.find(&job->backend->device());
  if (lane != lanes_.end()) return lane->second->Submit(std::move(job));
  Complete(std::move(job), absl::InternalError("the backend's device is not in the registry"));
}

void Scheduler::Cancel(const std::shared_ptr<std::atomic<bool>>& cancelled) {
  cancelled->store(true);
  for (const auto& [device, lane] : lanes_) lane->DropDead();
}

std::vector<std::pair<std::string, size_t>> Scheduler::Waiting() const {
  std::vector<std::pair<std::string, size_t>> waiting;
  for (const auto& [device, lane] : lanes_) waiting.emplace_back(device->id(), lane->waiting());
  return waiting;
}

void Scheduler::Stop() {
  for (const auto& [device, lane] : lanes_) lane->Stop();
}

}  // namespace tessera
