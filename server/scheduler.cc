#include "server/scheduler.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/core/error.h"
#include "server/admission.h"
#include "server/batch_queue.h"
#include "server/executor.h"

namespace tessera {

// The queue and the thread of one device.
class Scheduler::Lane {
 public:
  Lane(std::unique_ptr<Executor> executor, int64_t max_batch_tokens)
      : executor_(std::move(executor)), queue_(max_batch_tokens), thread_([this] { Loop(); }) {}

  ~Lane() {
    Stop();
    thread_.join();
  }

  void Submit(std::unique_ptr<Job> job) {
    {
      std::lock_guard lock(mutex_);
      if (!stopped_) {
        job->queued_at = Clock::now();
        queue_.Push(std::move(job));
        changed_.notify_one();
        return;
      }
    }
    Complete(std::move(job), DrainingError());
  }

  void DropDead() {
    Jobs dead;
    {
      std::lock_guard lock(mutex_);
      dead = queue_.RemoveDead(Clock::now());
    }
    CompleteDead(std::move(dead));
  }

  void Stop() {
    Jobs waiting;
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      waiting = queue_.RemoveAll();
      changed_.notify_one();
    }
    for (auto& job : waiting) Complete(std::move(job), DrainingError());
  }

 private:
  void Loop() {
    while (true) {
      Jobs dead, batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopped_ || !queue_.empty(); });
        if (queue_.empty()) return;  // stopped
        dead = queue_.RemoveDead(Clock::now());
        batch = queue_.PopBatch();
      }
      CompleteDead(std::move(dead));
      if (!batch.empty()) executor_->Run(std::move(batch));
    }
  }

  static void CompleteDead(Jobs dead) {
    const Clock::time_point now = Clock::now();
    for (auto& job : dead) {
      const absl::Status status = CheckAlive(*job, now);
      Complete(std::move(job), status);
    }
  }

  const std::unique_ptr<Executor> executor_;
  std::mutex mutex_;
  std::condition_variable changed_;
  BatchQueue queue_;
  bool stopped_ = false;
  std::thread thread_;  // last: it uses all of the above
};

Scheduler::Scheduler() = default;
Scheduler::~Scheduler() = default;

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(const BackendRegistry& registry,
                                                             const Limits& limits) {
  std::unique_ptr<Scheduler> scheduler(new Scheduler);
  for (Device* device : registry.devices()) {
    auto executor = Executor::Create(*device, limits.max_workspace_bytes);
    if (!executor.ok()) return Prefixed(device->id(), executor.status());
    scheduler->lanes_[device] = std::make_unique<Lane>(*std::move(executor), limits.max_batch_tokens);
  }
  return scheduler;
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

void Scheduler::Stop() {
  for (const auto& [device, lane] : lanes_) lane->Stop();
}

}  // namespace tessera
