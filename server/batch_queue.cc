#include "server/batch_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "backend/core/error.h"
#include "server/batch_placement.h"

namespace tessera {
namespace {

constexpr size_t kMaxBatchRequests = 64;

// Whether the two may run as one problem.
bool MayJoin(const Job& first, const Job& other) {
  return !other.alone && other.backend == first.backend && other.key == first.key && CanShareLaunch(other);
}

int64_t TokensOf(const Job& job) { return job.size.q_tokens + job.size.kv_tokens; }

}  // namespace

void BatchQueue::PushFront(Jobs jobs) {
  jobs_.insert(jobs_.begin(), std::make_move_iterator(jobs.begin()), std::make_move_iterator(jobs.end()));
}

Jobs BatchQueue::PopBatch() {
  Jobs batch;
  if (jobs_.empty()) return batch;
  batch.push_back(std::move(jobs_.front()));
  jobs_.pop_front();
  if (batch.front()->alone || !CanShareLaunch(*batch.front())) return batch;

  int64_t tokens = TokensOf(*batch.front());
  std::deque<std::unique_ptr<Job>> rest;
  for (auto& job : jobs_) {
    const bool joins = batch.size() < kMaxBatchRequests && tokens + TokensOf(*job) <= max_batch_tokens_ &&
                       MayJoin(*batch.front(), *job);
    if (joins) tokens += TokensOf(*job);
    if (joins) {
      batch.push_back(std::move(job));
    } else {
      rest.push_back(std::move(job));
    }
  }
  jobs_ = std::move(rest);
  return batch;
}

BatchQueue::Ends BatchQueue::RemoveUnless(const std::function<absl::Status(const Job&)>& check) {
  Ends removed;
  std::erase_if(jobs_, [&](auto& job) {
    absl::Status status = check(*job);
    if (status.ok()) return false;
    removed.emplace_back(std::move(job), std::move(status));
    return true;
  });
  return removed;
}

Jobs BatchQueue::RemoveAll() {
  Jobs removed(std::make_move_iterator(jobs_.begin()), std::make_move_iterator(jobs_.end()));
  jobs_.clear();
  return removed;
}

absl::Status CheckAlive(const Job& job, Clock::time_point now) {
  const auto error = [](absl::StatusCode code, const char* reason, const char* message) {
    return MakeError(code, message, {.reason = reason, .metadata = {}, .retry_after = std::nullopt});
  };
  // gRPC cancels a call whose deadline passes, so the deadline is asked first.
  if (now >= job.context.deadline) {
    return error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the deadline passed before the request could run");
  }
  if (job.context.cancelled->load()) {
    return error(absl::StatusCode::kCancelled, "CANCELLED", "the client cancelled the request before it ran");
  }
  return absl::OkStatus();
}

}  // namespace tessera
