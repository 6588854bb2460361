#include "server/executor.h"

#include <string>
#include <utility>

#include "backend/core/error.h"
#include "backend/core/saturating.h"
#include "server/device_executor.h"
#include "server/host_executor.h"

namespace tessera {
namespace {

constexpr int64_t kWorkspaceAlignment = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(Device& device, int64_t max_workspace_bytes,
                                                           int copiers, Owner& owner) {
  // Admission has compared what a plan asks for; the arena compares what that is rounded up to.
  const int64_t workspace_limit = RoundUp(max_workspace_bytes, kWorkspaceAlignment);
  if (device.host_accessible()) return HostExecutor::Create(device, workspace_limit, owner);
  return DeviceExecutor::Create(device, workspace_limit, copiers, owner);
}

void Executor::Settle(Jobs jobs, const absl::Status& status, bool had_company) {
  owner_.Ended(jobs, status.ok());
  absl::Status outcome = status;
  if (!status.ok()) {
    const absl::Status health = Health();
    if (!health.ok()) {
      owner_.DeviceLost(health);
      outcome = health;
    } else if (jobs.size() > 1 || had_company) {
      return owner_.RunAlone(std::move(jobs));
    }
  }
  for (auto& job : jobs) Complete(std::move(job), outcome);
}

void Executor::GiveUp(const absl::Status& cause) {
  absl::Status health = device_.Health();
  if (health.ok()) health = DeviceLostError(device_.id(), std::string(cause.message()));
  {
    const std::lock_guard lock(mutex_);
    given_up_.Update(health);
  }
  owner_.DeviceLost(health);
}

absl::Status Executor::Health() const {
  {
    const std::lock_guard lock(mutex_);
    if (!given_up_.ok()) return given_up_;
  }
  return device_.Health();
}

absl::Status ModelTraffic(const std::vector<Job*>& jobs) {
  for (Job* const job : jobs) {
    TESSERA_ASSIGN_OR_RETURN(job->traffic, job->backend->ModelTraffic(job->plan, job->request.problem));
  }
  return absl::OkStatus();
}

void AccountLaunch(const std::vector<Job*>& jobs, const AttentionProblem& problem, const Plan& plan,
                   const LaunchCost& cost) {
  ChoiceLedger choice = ChoiceOf(problem, plan, *jobs.front()->backend);
  choice.batch_requests = static_cast<int32_t>(jobs.size());
  const auto flops = static_cast<double>(SizeOf(problem).flops);
  jobs.front()->leads_launch = true;
  for (Job* const job : jobs) {
    Ledger& ledger = job->ledger;
    ledger.memory.workspace_peak = cost.workspace_peak;
    ledger.memory.device_peak += cost.workspace_peak;
    // The traffic is the request's own, the choice that of the launch it ran in.
    AccountProblem(job->request.problem, job->traffic, ledger);
    ledger.choice = choice;
    ledger.time.queue += cost.queue;
    ledger.time.transfer_in = cost.transfer_in;
    ledger.time.compute = cost.compute;
    ledger.time.transfer_out = cost.transfer_out;
    ledger.achieved_flops_per_s = cost.compute > 0 ? flops / (cost.compute * 1e-6) : 0;
  }
}

void AccountQueue(const Jobs& jobs) {
  const Clock::time_point now = Clock::now();
  for (const auto& job : jobs) job->ledger.time.queue = Microseconds(now - job->queued_at);
}

std::vector<Job*> PointersTo(const Jobs& jobs) {
  std::vector<Job*> pointers;
  for (const auto& job : jobs) pointers.push_back(job.get());
  return pointers;
}

}  // namespace tessera
