// What waits for one device and how long it will take, so that a request that cannot end in time is refused
// rather than computed for nobody. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "absl/status/status.h"
#include "server/job.h"

namespace tessera {

// Goes by the time that recent launches took per floating-point operation and per byte moved, for each
// backend. Where the transfers of one launch overlap another's work that is too much, and the queue is kept
// shorter than it might be.
class LoadEstimate {
 public:
  // The job joins the queue.
  void Push(const Job& job);
  // It leaves the queue and does not run.
  void Drop(const Job& job);
  // These leave the queue as one launch.
  void Begin(const Jobs& jobs, Clock::time_point now);
  // Their launch is over. If it `succeeded`, their ledgers say what it took.
  void End(const Jobs& jobs, bool succeeded, Clock::time_point now);

  // How long a job that joins the queue now will wait. What nothing is known of counts for nothing.
  Clock::duration Wait(Clock::time_point now) const;

  // RESOURCE_EXHAUSTED, reason DEADLINE_UNREACHABLE, with a retry hint, where a job that is not in the queue
  // yet would not end by its deadline. OK where nothing is known, and where nothing is queued or runs: the
  // attempt is at nobody's expense, and corrects a wrong estimate; under a steady load none comes about.
  absl::Status CheckBeforeQueue(const Job& job, Clock::time_point now) const;
  // The same for a job of the queue, launched now.
  absl::Status CheckBeforeLaunch(const Job& job, Clock::time_point now) const;

 private:
  struct Work {
    int64_t jobs = 0;
    double flops = 0, bytes = 0;
  };
  // Totals over launches, each of which counts 7/8 as much as the next.
  struct Recent {
    double flops = 0, compute_us = 0;
    double bytes = 0, transfer_us = 0;
    Clock::time_point updated;
  };
  struct Load {
    Work waiting, running;
    Recent recent;
  };

  static Work WorkOf(const Job& job);
  static void Move(const Work& some, Work* from, Work* to);
  static void Learn(const Jobs& jobs, Clock::time_point now, Recent& recent);
  // Nothing when nothing is known.
  static std::optional<Clock::duration> DurationOf(const Work& work, const Recent& recent,
                                                   Clock::time_point now);
  absl::Status Check(const Job& job, Clock::duration wait, double share, Clock::time_point now) const;

  std::map<const Backend*, Load> loads_;
  int64_t waiting_ = 0, running_ = 0;  // jobs
  Clock::time_point running_since_;    // since when what runs now has had the device, roughly
};

}  // namespace tessera
