#include "server/executor.h"

#include <utility>

#include "backend/core/error.h"
#include "backend/core/saturating.h"
#include "server/batch_queue.h"
#include "server/guarded.h"

namespace tessera {
namespace {

constexpr int64_t kWorkspaceAlignment = 64;

double Microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

}  // namespace

Executor::Executor(Device& device, int64_t max_workspace_bytes)
    : device_(device),
      // Admission has compared what a plan asks for; the arena compares what that is rounded up to.
      workspace_(device, TESSERA_MEMORY_DEVICE, RoundUp(max_workspace_bytes, kWorkspaceAlignment)),
      placement_(device) {}

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(Device& device, int64_t max_workspace_bytes) {
  std::unique_ptr<Executor> executor(new Executor(device, max_workspace_bytes));
  TESSERA_ASSIGN_OR_RETURN(executor->stream_, Stream::Create(device));
  for (Event* event : {&executor->began_, &executor->placed_, &executor->computed_, &executor->collected_}) {
    TESSERA_ASSIGN_OR_RETURN(*event, Event::Create(device));
  }
  return executor;
}

void Executor::Run(std::vector<std::unique_ptr<Job>> jobs) {
  const Clock::time_point begin = Clock::now();
  std::vector<Job*> batch;
  for (const auto& job : jobs) {
    job->ledger.time.queue = Microseconds(begin - job->queued_at);
    batch.push_back(job.get());
  }
  if (batch.size() == 1) return RunAlone(std::move(jobs.front()));
  if (TryLaunch(batch).ok()) {
    for (auto& job : jobs) Complete(std::move(job), absl::OkStatus());
    return;
  }
  for (auto& job : jobs) {
    const absl::Status alive = CheckAlive(*job, Clock::now());
    if (alive.ok()) {
      RunAlone(std::move(job));
    } else {
      Complete(std::move(job), alive);
    }
  }
}

void Executor::RunAlone(std::unique_ptr<Job> job) {
  const absl::Status status = TryLaunch({job.get()});
  Complete(std::move(job), status);
}

// A backend that throws must not take the server along.
absl::Status Executor::TryLaunch(const std::vector<Job*>& jobs) {
  const absl::Status status = Guarded(jobs.front()->backend->info().name, [&] { return Launch(jobs); });
  // What was queued before the failure still uses our memory.
  if (!status.ok()) Quiesce().IgnoreError();
  return status;
}

absl::Status Executor::Launch(const std::vector<Job*>& jobs) {
  Job& first = *jobs.front();
  tessera_stream* const stream = stream_.get();
  const bool placed = jobs.size() > 1 || !device_.host_accessible();
  const Clock::time_point begin = Clock::now();

  AttentionProblem problem = first.request.problem;
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(began_.get(), stream));
  if (placed) {
    TESSERA_ASSIGN_OR_RETURN(problem, placement_.Place(jobs, stream));
  }
  const Clock::time_point copied = Clock::now();

  Plan plan = first.plan;
  if (jobs.size() > 1) {
    // A backend that takes each request may still refuse all of them as one problem.
    TESSERA_RETURN_IF_ERROR(first.backend->Supports(problem));
    TESSERA_ASSIGN_OR_RETURN(plan, first.backend->MakePlan(problem));
  }
  TESSERA_RETURN_IF_ERROR(workspace_.Begin(plan.workspace_bytes));
  TESSERA_ASSIGN_OR_RETURN(void* const workspace, workspace_.Allocate(plan.workspace_bytes));

  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(placed_.get(), stream));
  TESSERA_RETURN_IF_ERROR(first.backend->Enqueue(plan, problem, workspace, stream));
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(computed_.get(), stream));
  if (placed) TESSERA_RETURN_IF_ERROR(placement_.QueueCollect(stream));
  TESSERA_RETURN_IF_ERROR(Quiesce());

  const Clock::time_point collected = Clock::now();
  for (Job* job : jobs) job->ledger.memory.device_peak = workspace_.high_water_bytes();
  if (placed) placement_.Scatter(jobs);
  for (Job* job : jobs) {
    // Host time of packing and unpacking; Account adds the device's transfers.
    job->ledger.time.transfer_in = placed ? Microseconds(copied - begin) : 0;
    job->ledger.time.transfer_out = placed ? Microseconds(Clock::now() - collected) : 0;
  }
  return Account(jobs, problem, plan, placed);
}

absl::Status Executor::Quiesce() {
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(collected_.get(), stream_.get()));
  return device_.SynchronizeEvent(collected_.get());
}

absl::Status Executor::Account(const std::vector<Job*>& jobs, const AttentionProblem& problem,
                               const Plan& plan, bool placed) {
  TESSERA_ASSIGN_OR_RETURN(const double compute, device_.ElapsedMicroseconds(placed_.get(), computed_.get()));
  double transfer_in = 0, transfer_out = 0;
  if (!device_.host_accessible()) {
    TESSERA_ASSIGN_OR_RETURN(transfer_in, device_.ElapsedMicroseconds(began_.get(), placed_.get()));
    TESSERA_ASSIGN_OR_RETURN(transfer_out, device_.ElapsedMicroseconds(computed_.get(), collected_.get()));
  }
  Ledger launch;
  AccountPlan(problem, plan, jobs.front()->backend->info().name, device_.id(), launch);
  launch.choice.batch_requests = static_cast<int32_t>(jobs.size());

  for (Job* job : jobs) {
    Ledger& ledger = job->ledger;
    ledger.memory.workspace_peak = workspace_.high_water_bytes();
    // Tensors that stayed where they arrived are device memory too when the device is the host.
    if (!placed) ledger.memory.device_peak += ledger.memory.input + ledger.memory.output;
    // The traffic is the request's own, the choice that of the launch it ran in.
    AccountPlan(job->request.problem, job->plan, job->backend->info().name, device_.id(), ledger);
    ledger.choice = launch.choice;
    ledger.time.transfer_in += transfer_in;
    ledger.time.transfer_out += transfer_out;
    ledger.time.compute = compute;
    ledger.achieved_flops_per_s = compute > 0 ? static_cast<double>(launch.flops) / (compute * 1e-6) : 0;
  }
  return absl::OkStatus();
}

}  // namespace tessera
