#include "server/load_estimate.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

constexpr double kDecay = 0.875;

// An estimate that no launch has confirmed for so long may be that of a cold start.
constexpr std::chrono::seconds kValidFor(30);

// How much of the time that a request can spare, from its arrival to its deadline without its own launch, it
// may wait. The rest is for the reply's way, and for launches that take longer than the last ones did. Less
// is allowed to those that come than to those that have waited: what was let in should not be wasted.
constexpr double kShareBeforeQueue = 0.75;
constexpr double kShareBeforeLaunch = 0.875;

constexpr std::chrono::milliseconds kLeastRetry(1);

Clock::duration FromMicroseconds(double us) {
  constexpr double kMost = 1e15;  // 30 years: no overflow
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double, std::micro>(std::min(us, kMost)));
}

std::string Milliseconds(Clock::duration duration) {
  return absl::StrCat(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count(), " ms");
}

absl::Status DeadlineUnreachable(Clock::duration most, Clock::duration wait, Clock::duration own) {
  const std::string expected = absl::StrCat("a wait of at most ", Milliseconds(most));
  const std::string actual = absl::StrCat("an estimated ", Milliseconds(wait));
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("the request cannot end by its deadline, with a launch of ", Milliseconds(own),
                   ": expected ", expected, ", got ", actual, "; try again later or allow more time"),
      {.reason = "DEADLINE_UNREACHABLE",
       .metadata = {{"expected", expected}, {"actual", actual}},
       .retry_after =
           std::max(kLeastRetry, std::chrono::duration_cast<std::chrono::milliseconds>(wait - most))});
}

}  // namespace

LoadEstimate::Work LoadEstimate::WorkOf(const Job& job) {
  return {
      .jobs = 1,
      .flops = static_cast<double>(job.size.flops),
      .bytes = static_cast<double>(job.request.input_bytes) + static_cast<double>(job.request.output_bytes)};
}

void LoadEstimate::Move(const Work& some, Work* from, Work* to) {
  if (to != nullptr) *to = {to->jobs + some.jobs, to->flops + some.flops, to->bytes + some.bytes};
  if (from == nullptr) return;
  *from = {from->jobs - some.jobs, from->flops - some.flops, from->bytes - some.bytes};
  if (from->jobs == 0) *from = {};  // and no rounding errors
}

void LoadEstimate::Push(const Job& job) {
  Move(WorkOf(job), nullptr, &loads_[job.backend].waiting);
  ++waiting_;
}

void LoadEstimate::Drop(const Job& job) {
  Move(WorkOf(job), &loads_[job.backend].waiting, nullptr);
  --waiting_;
}

void LoadEstimate::Begin(const Jobs& jobs, Clock::time_point now) {
  if (running_ == 0) running_since_ = now;
  for (const auto& job : jobs) {
    Load& load = loads_[job->backend];
    Move(WorkOf(*job), &load.waiting, &load.running);
    --waiting_;
    ++running_;
  }
}

void LoadEstimate::End(const Jobs& jobs, bool succeeded, Clock::time_point now) {
  running_since_ = now;
  for (const auto& job : jobs) {
    Move(WorkOf(*job), &loads_[job->backend].running, nullptr);
    --running_;
  }
  if (succeeded) Learn(jobs, now, loads_[jobs.front()->backend].recent);
}

void LoadEstimate::Learn(const Jobs& jobs, Clock::time_point now, Recent& recent) {
  for (double* total : {&recent.flops, &recent.compute_us, &recent.bytes, &recent.transfer_us})
    *total *= kDecay;
  for (const auto& job : jobs) {
    const Work work = WorkOf(*job);
    recent.flops += work.flops;
    recent.bytes += work.bytes;
  }
  const TimeLedger& time = jobs.front()->ledger.time;  // the launch's: the same for all
  recent.compute_us += time.compute;
  recent.transfer_us += time.transfer_in + time.transfer_out;
  recent.updated = now;
}

std::optional<Clock::duration> LoadEstimate::DurationOf(const Work& work, const Recent& recent,
                                                        Clock::time_point now) {
  if (recent.updated == Clock::time_point() || now - recent.updated > kValidFor) return std::nullopt;
  const auto scaled = [](double amount, double known, double us) {
    return known > 0 ? amount / known * us : 0;
  };
  return FromMicroseconds(scaled(work.flops, recent.flops, recent.compute_us) +
                          scaled(work.bytes, recent.bytes, recent.transfer_us));
}

Clock::duration LoadEstimate::Wait(Clock::time_point now) const {
  Clock::duration waiting{}, running{};
  for (const auto& [backend, load] : loads_) {
    waiting += DurationOf(load.waiting, load.recent, now).value_or(Clock::duration{});
    running += DurationOf(load.running, load.recent, now).value_or(Clock::duration{});
  }
  return waiting + std::max(running - (now - running_since_), Clock::duration{});
}

absl::Status LoadEstimate::CheckBeforeQueue(const Job& job, Clock::time_point now) const {
  if (job.context.deadline == Clock::time_point::max() || waiting_ + running_ == 0) return absl::OkStatus();
  return Check(job, now - job.context.arrival + Wait(now), kShareBeforeQueue, now);
}

absl::Status LoadEstimate::CheckBeforeLaunch(const Job& job, Clock::time_point now) const {
  if (job.context.deadline == Clock::time_point::max() || waiting_ + running_ == 1) return absl::OkStatus();
  return Check(job, now - job.context.arrival, kShareBeforeLaunch, now);
}

absl::Status LoadEstimate::Check(const Job& job, Clock::duration wait, double share,
                                 Clock::time_point now) const {
  const auto load = loads_.find(job.backend);
  if (load == loads_.end()) return absl::OkStatus();
  const auto own = DurationOf(WorkOf(job), load->second.recent, now);
  if (!own) return absl::OkStatus();
  const Clock::duration spare = job.context.deadline - job.context.arrival - *own;
  const auto most = std::max(FromMicroseconds(share * Microseconds(spare)), Clock::duration{});
  if (spare >= Clock::duration{} && wait <= most) return absl::OkStatus();
  return DeadlineUnreachable(most, wait, *own);
}

}  // namespace tessera
