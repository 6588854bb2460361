// What waits for one device and how long it will take, so that a request that cannot end in time is refused
// rather than computed for nobody. Not thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>

#include "absl/status/status.h"
#include "server/job.h"

namespace tessera {

// Goes by the time per floating-point operation and per byte moved that jobs of the same backend, dtype and
// about the same size took lately: a small launch's time says little of a large one's, whose fixed costs
// weigh less. Of what has not run for a while nothing is known. Where the transfers of one launch overlap
// another's work the estimate is too much, and the queue is kept shorter than it might be.
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

  // RESOURCE_EXHAUSTED, reason DEADLINE_UNREACHABLE, where a job that is not in the queue yet would not end
  // by its deadline; with a retry hint, unless its own launch alone takes longer. OK where nothing is known,
  // and where nothing is queued or runs: the attempt is at nobody's expense. What is refused teaches nothing:
  // an estimate is corrected by others of its kind, or forgotten after seconds without any.
  absl::Status CheckBeforeQueue(const Job& job, Clock::time_point now) const;
  // The same for a job of the queue, launched now.
  absl::Status CheckBeforeLaunch(const Job& job, Clock::time_point now) const;

 private:
  // Jobs of one backend and dtype, within a factor of 2 of each other in operations and in bytes.
  struct SizeClass {
    const Backend* backend = nullptr;
    DType dtype = TESSERA_DTYPE_INVALID;
    int flops = 0, bytes = 0;  // logarithms to base 2
    auto operator<=>(const SizeClass&) const = default;
  };
  struct Work {
    int64_t jobs = 0;
    double flops = 0, bytes = 0;
  };
  // Totals over launches that had such jobs, by their shares of it. Each counts 7/8 as much as the next.
  struct Recent {
    double flops = 0, compute_us = 0;
    double bytes = 0, transfer_us = 0;
    Clock::time_point updated;
  };
  struct Load {
    Work waiting, running;
    Recent recent;
    // Whether `recent` may be relied on. What runs will renew it, however long that takes.
    bool IsKnown(Clock::time_point now) const;
  };

  static Work WorkOf(const Job& job);
  static SizeClass ClassOf(const Job& job);
  static void Move(const Work& some, Work* from, Work* to);
  void Learn(const Jobs& jobs, Clock::time_point now);
  // As load.recent has it; nothing when nothing is known.
  static std::optional<Clock::duration> DurationOf(const Work& work, const Load& load, Clock::time_point now);
  absl::Status Check(const Job& job, Clock::duration wait, double share, Clock::time_point now) const;

  std::map<SizeClass, Load> loads_;    // of what waits, runs, or is known
  int64_t waiting_ = 0, running_ = 0;  // jobs
  Clock::time_point running_since_;    // since when what runs now has had the device, roughly
};

}  // namespace tessera
