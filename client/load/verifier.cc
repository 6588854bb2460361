#include "client/load/verifier.h"

#include <sched.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace tessera::load {
namespace {

constexpr size_t kQueueCapacity = 64;

// A failure leaves the usual priority, at which the results are as true.
void YieldToEveryone() {
  const sched_param parameters{};
  sched_setscheduler(0, SCHED_IDLE, &parameters);
}

}  // namespace

Verifier::Verifier(const Workload& workload, double share)
    : workload_(workload), interval_(static_cast<uint64_t>(std::max(1.0, std::round(1 / share)))) {
  thread_ = std::thread([this] { Loop(); });
}

Verifier::~Verifier() { Finish(); }

bool Verifier::Wants(uint64_t n) const { return n % interval_ == 0; }

void Verifier::Offer(uint64_t n, grpc::ByteBuffer reply) {
  const std::lock_guard lock(mutex_);
  if (queue_.size() >= kQueueCapacity) {
    ++dropped_;
    return;
  }
  queue_.emplace_back(n, std::move(reply));
  changed_.notify_one();
}

VerifierReport Verifier::Finish() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  report_.dropped = dropped_;
  return report_;
}

void Verifier::Loop() {
  YieldToEveryone();
  while (true) {
    std::pair<uint64_t, grpc::ByteBuffer> next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    const std::string wrong = workload_.Judge(workload_.IndexOf(next.first), next.second, report_.worst);
    ++report_.verified;
    if (wrong.empty()) continue;
    if (++report_.wrong == 1) report_.first_wrong = absl::StrCat("request ", next.first, ": ", wrong);
  }
}

}  // namespace tessera::load
