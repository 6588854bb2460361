#include "server/host_executor.h"

#include <utility>

#include "backend/core/error.h"
#include "server/guarded.h"
#include "server/launch_chunks.h"

namespace tessera {

HostExecutor::HostExecutor(Device& device, int64_t workspace_limit, Owner& owner)
    : Executor(device, owner),
      workspace_(device, TESSERA_MEMORY_DEVICE, workspace_limit),
      output_memory_(device),
      placement_(device, output_memory_, /*copiers=*/nullptr) {}

absl::StatusOr<std::unique_ptr<Executor>> HostExecutor::Create(Device& device, int64_t workspace_limit,
                                                               Owner& owner) {
  std::unique_ptr<HostExecutor> executor(new HostExecutor(device, workspace_limit, owner));
  TESSERA_ASSIGN_OR_RETURN(executor->stream_, Stream::Create(device));
  for (Event* event : {&executor->placed_, &executor->computed_, &executor->done_}) {
    TESSERA_ASSIGN_OR_RETURN(*event, Event::Create(device));
  }
  return executor;
}

void HostExecutor::Run(Jobs jobs) {
  AccountQueue(jobs);
  const std::vector<Job*> batch = PointersTo(jobs);
  // A backend that throws must not take the server along.
  const absl::Status status = Guarded(batch.front()->backend->info().name, [&] { return Launch(batch); });
  // What was queued before the failure still uses our memory.
  if (!status.ok()) Quiesce().IgnoreError();
  Settle(std::move(jobs), status, /*had_company=*/false);
}

absl::Status HostExecutor::Launch(const std::vector<Job*>& jobs) {
  Job& first = *jobs.front();
  tessera_stream* const stream = stream_.get();
  const bool packed = jobs.size() > 1;
  const Clock::time_point begin = Clock::now();

  if (!packed) PlaceOnHost(first);
  AttentionProblem problem = first.request.problem;
  Plan plan = first.plan;
  Chunk whole;
  if (packed) {
    TESSERA_ASSIGN_OR_RETURN(problem, placement_.Reserve(jobs));
    whole = WholeLaunch(problem);
    TESSERA_RETURN_IF_ERROR(placement_.MoveMasksIn(stream));
    TESSERA_RETURN_IF_ERROR(placement_.MoveIn(whole.ranges, stream));
  }
  const Clock::time_point copied = Clock::now();
  if (packed) {
    // A backend that takes each request may still refuse all of them as one problem.
    TESSERA_RETURN_IF_ERROR(first.backend->Supports(problem));
    TESSERA_ASSIGN_OR_RETURN(plan, first.backend->MakePlan(problem));
  }
  TESSERA_RETURN_IF_ERROR(workspace_.Begin(plan.workspace_bytes));
  TESSERA_ASSIGN_OR_RETURN(void* const workspace, workspace_.Allocate(plan.workspace_bytes));

  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(placed_.get(), stream));
  TESSERA_RETURN_IF_ERROR(first.backend->Enqueue(plan, problem, workspace, stream));
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(computed_.get(), stream));
  TESSERA_RETURN_IF_ERROR(ModelTraffic(jobs));
  TESSERA_RETURN_IF_ERROR(Quiesce());

  LaunchCost cost{.workspace_peak = workspace_.high_water_bytes()};
  TESSERA_ASSIGN_OR_RETURN(cost.compute, device_.ElapsedMicroseconds(placed_.get(), computed_.get()));
  if (packed) {
    cost.transfer_in = Microseconds(copied - begin);
    placement_.HandOver();
  } else {
    cost.transfer_in = first.ledger.time.transfer_in;
    // What the host placed is device memory too.
    first.ledger.memory.device_peak += first.ledger.memory.input + first.ledger.memory.output;
  }
  AccountLaunch(jobs, problem, plan, cost);
  return absl::OkStatus();
}

absl::Status HostExecutor::Quiesce() {
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(done_.get(), stream_.get()));
  return device_.SynchronizeEvent(done_.get());
}

}  // namespace tessera
