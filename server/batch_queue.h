// The waiting line of one device, and the rule by which requests share a launch. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/job.h"

namespace tessera {

class BatchQueue {
 public:
  // A shared launch has at most `max_batch_tokens` q plus kv tokens.
  explicit BatchQueue(int64_t max_batch_tokens) : max_batch_tokens_(max_batch_tokens) {}

  void Push(std::unique_ptr<Job> job) { jobs_.push_back(std::move(job)); }
  // Puts `jobs` before all others, in their order.
  void PushFront(Jobs jobs);
  bool empty() const { return jobs_.empty(); }
  size_t size() const { return jobs_.size(); }

  // The next launch: the request that waits longest and, if that is a small one and need not run alone, those
  // behind it that may join it. Nobody waits for company, and nobody is overtaken by a launch that would not
  // have run next anyway.
  Jobs PopBatch();

  // Jobs that end without running, and how.
  using Ends = std::vector<std::pair<std::unique_ptr<Job>, absl::Status>>;
  // Takes out those for which `check`, asked of each in turn from the front, is not OK.
  Ends RemoveUnless(const std::function<absl::Status(const Job&)>& check);
  Jobs RemoveAll();

 private:
  const int64_t max_batch_tokens_;
  std::deque<std::unique_ptr<Job>> jobs_;
};

// CANCELLED or DEADLINE_EXCEEDED for a job that nobody waits for; else OK.
absl::Status CheckAlive(const Job& job, Clock::time_point now);

}  // namespace tessera
