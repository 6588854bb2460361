#include "server/load_estimate.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "server/batch_placement.h"

namespace tessera {
namespace {

constexpr double kDecay = 0.875;

// What no launch has confirmed for so long may be wrong, as that of a cold start is.
constexpr std::chrono::seconds kValidFor(10);

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
  return absl::StrCat(std::chrono::floor<std::chrono::milliseconds>(duration).count(), " ms");
}

absl::Status DeadlineUnreachable(const std::string& message, const std::string& expected,
                                 const std::string& actual, std::optional<std::chrono::milliseconds> retry) {
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("the request cannot end by its deadline", message, ": expected ", expected, ", got ",
                   actual, retry.has_value() ? "; try again later or allow more time" : "; allow more time"),
      {.reason = "DEADLINE_UNREACHABLE",
       .metadata = {{"expected", expected}, {"actual", actual}},
       .retry_after = retry});
}

// Even if it ran at once.
absl::Status TooLongByItself(Clock::duration allowed, Clock::duration own) {
  return DeadlineUnreachable("", absl::StrCat("more than ", Milliseconds(own), " for its own launch"),
                             Milliseconds(allowed), std::nullopt);
}

absl::Status TooLongAWait(Clock::duration most, Clock::duration wait, Clock::duration own) {
  const auto over = std::chrono::duration_cast<std::chrono::milliseconds>(wait - most);
  return DeadlineUnreachable(absl::StrCat(", with a launch of ", Milliseconds(own)),
                             absl::StrCat("a wait of at most ", Milliseconds(most)),
                             absl::StrCat("an estimated ", Milliseconds(wait)), std::max(kLeastRetry, over));
}

int Log2(double value) { return std::bit_width(static_cast<uint64_t>(std::min(value, 0x1p62))); }

double BytesOf(const Job& job) {
  return static_cast<double>(job.request.input_bytes) + static_cast<double>(job.request.output_bytes);
}

}  // namespace

// What its launch will have to do: where it has been placed on arrival, nothing is left to move.
LoadEstimate::Work LoadEstimate::WorkOf(const Job& job) {
  return {.jobs = 1,
          .flops = static_cast<double>(job.size.flops),
          .bytes = IsPlacedOnArrival(job) ? 0 : BytesOf(job)};
}

LoadEstimate::SizeClass LoadEstimate::ClassOf(const Job& job) {
  return {.backend = job.backend,
          .dtype = job.request.problem.q.dtype,
          .flops = Log2(static_cast<double>(job.size.flops)),
          .bytes = Log2(BytesOf(job))};
}

void LoadEstimate::Move(const Work& some, Work* from, Work* to) {
  if (to != nullptr) *to = {to->jobs + some.jobs, to->flops + some.flops, to->bytes + some.bytes};
  if (from == nullptr) return;
  *from = {from->jobs - some.jobs, from->flops - some.flops, from->bytes - some.bytes};
  if (from->jobs == 0) *from = {};  // and no rounding errors
}

void LoadEstimate::Push(const Job& job) {
  Move(WorkOf(job), nullptr, &loads_[ClassOf(job)].waiting);
  ++waiting_;
}

void LoadEstimate::Drop(const Job& job) {
  Move(WorkOf(job), &loads_[ClassOf(job)].waiting, nullptr);
  --waiting_;
}

void LoadEstimate::Begin(const Jobs& jobs, Clock::time_point now) {
  if (running_ == 0) running_since_ = now;
  for (const auto& job : jobs) {
    Load& load = loads_[ClassOf(*job)];
    if (!load.IsKnown(now)) load.recent = {};
    Move(WorkOf(*job), &load.waiting, &load.running);
    --waiting_;
    ++running_;
  }
}

void LoadEstimate::End(const Jobs& jobs, bool succeeded, Clock::time_point now) {
  running_since_ = now;
  for (const auto& job : jobs) {
    Move(WorkOf(*job), &loads_[ClassOf(*job)].running, nullptr);
    --running_;
  }
  if (succeeded) Learn(jobs, now);
  std::erase_if(loads_, [now](const auto& entry) {
    const Load& load = entry.second;
    return load.waiting.jobs == 0 && load.running.jobs == 0 && !load.IsKnown(now);
  });
}

void LoadEstimate::Learn(const Jobs& jobs, Clock::time_point now) {
  Work launch;
  for (const auto& job : jobs) Move(WorkOf(*job), nullptr, &launch);
  const TimeLedger& time = jobs.front()->ledger.time;  // the launch's: the same for all
  const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0; };
  for (const auto& job : jobs) {
    Recent& recent = loads_[ClassOf(*job)].recent;
    if (recent.updated != now) {  // once a launch
      for (double* total : {&recent.flops, &recent.compute_us, &recent.bytes, &recent.transfer_us})
        *total *= kDecay;
      recent.updated = now;
    }
    const Work work = WorkOf(*job);
    recent.flops += work.flops;
    recent.bytes += work.bytes;
    recent.compute_us += time.compute * share(work.flops, launch.flops);
    recent.transfer_us += (time.transfer_in + time.transfer_out) * share(work.bytes, launch.bytes);
  }
}

bool LoadEstimate::Load::IsKnown(Clock::time_point now) const {
  if (recent.updated == Clock::time_point()) return false;
  return running.jobs > 0 || now - recent.updated <= kValidFor;
}

std::optional<Clock::duration> LoadEstimate::DurationOf(const Work& work, const Load& load,
                                                        Clock::time_point now) {
  if (!load.IsKnown(now)) return std::nullopt;
  const Recent& recent = load.recent;
  const auto scaled = [](double amount, double known, double us) {
    return known > 0 ? amount / known * us : 0;
  };
  return FromMicroseconds(scaled(work.flops, recent.flops, recent.compute_us) +
                          scaled(work.bytes, recent.bytes, recent.transfer_us));
}

Clock::duration LoadEstimate::Wait(Clock::time_point now) const {
  Clock::duration waiting{}, running{};
  for (const auto& [size, load] : loads_) {
    waiting += DurationOf(load.waiting, load, now).value_or(Clock::duration{});
    running += DurationOf(load.running, load, now).value_or(Clock::duration{});
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
  const auto load = loads_.find(ClassOf(job));
  // One that is late already gets DEADLINE_EXCEEDED when its turn comes.
  if (load == loads_.end() || now >= job.context.deadline) return absl::OkStatus();
  const auto own = DurationOf(WorkOf(job), load->second, now);
  if (!own) return absl::OkStatus();
  const Clock::duration allowed = job.context.deadline - job.context.arrival;
  if (*own > allowed) return TooLongByItself(allowed, *own);
  const auto most = FromMicroseconds(share * Microseconds(allowed - *own));
  return wait <= most ? absl::OkStatus() : TooLongAWait(most, wait, *own);
}

}  // namespace tessera
