#include "server/device_executor.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backend/core/error.h"
#include "server/guarded.h"

namespace tessera {

DeviceExecutor::DeviceExecutor(Device& device, int64_t workspace_limit, int copiers, Owner& owner)
    : Executor(device, owner),
      workspace_(device, TESSERA_MEMORY_DEVICE, workspace_limit),
      output_memory_(device),
      copiers_(copiers) {}

absl::StatusOr<std::unique_ptr<Executor>> DeviceExecutor::Create(Device& device, int64_t workspace_limit,
                                                                 int copiers, Owner& owner) {
  std::unique_ptr<DeviceExecutor> executor(new DeviceExecutor(device, workspace_limit, copiers, owner));
  TESSERA_ASSIGN_OR_RETURN(executor->streams_, DeviceStreams::Create(device));
  for (int i = 0; i < kSlots; ++i) {
    TESSERA_ASSIGN_OR_RETURN(auto slot,
                             LaunchSlot::Create(device, executor->output_memory_, executor->copiers_));
    executor->free_.push_back(slot.get());
    executor->slots_.push_back(std::move(slot));
  }
  executor->collector_ = std::thread([raw = executor.get()] { raw->Collect(); });
  return executor;
}

DeviceExecutor::~DeviceExecutor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (collector_.joinable()) collector_.join();
}

// ---- The launching thread ----

void DeviceExecutor::AwaitRoom() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !free_.empty(); });
}

absl::Status DeviceExecutor::AwaitOthers(int in_flight) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return free_.size() + static_cast<size_t>(in_flight) == slots_.size(); });
  lock.unlock();
  return Health();
}

// The slot freed last, so that a server with one request at a time keeps the memory of one.
LaunchSlot& DeviceExecutor::TakeSlot(Jobs jobs) {
  if (jobs.front()->alone) AwaitOthers(0).IgnoreError();  // Queue looks again
  AwaitRoom();
  std::unique_lock lock(mutex_);
  const bool has_company = free_.size() < slots_.size();
  LaunchSlot& slot = *free_.back();
  free_.pop_back();
  lock.unlock();
  slot.Begin(std::move(jobs), has_company);
  return slot;
}

void DeviceExecutor::FreeSlot(LaunchSlot& slot) {
  const std::lock_guard lock(mutex_);
  free_.push_back(&slot);
  changed_.notify_all();
}

void DeviceExecutor::Push(Step step) {
  const std::lock_guard lock(mutex_);
  steps_.push_back(std::move(step));
  changed_.notify_all();
}

void DeviceExecutor::Run(Jobs jobs) {
  LaunchSlot& slot = TakeSlot(std::move(jobs));
  // A backend that throws must not take the server along.
  const absl::Status queued = Guarded(slot.backend_name(), [&] { return Queue(slot); });
  // What was queued before the failure still uses the slot's memory.
  const absl::Status fenced = queued.ok() ? absl::OkStatus() : slot.Fence(streams_);
  if (!fenced.ok()) GiveUp(fenced);
  Push({.slot = &slot, .chunk = std::nullopt, .queued = queued, .is_fenced = !queued.ok() && fenced.ok()});
}

absl::Status DeviceExecutor::Queue(LaunchSlot& slot) {
  // The slot may be one whose last launch still runs, for all that is known.
  TESSERA_RETURN_IF_ERROR(Health());
  TESSERA_RETURN_IF_ERROR(Reserve(slot));
  for (size_t chunk = 0; chunk < slot.num_chunks(); ++chunk) {
    // The wait for memory, too, may have outlasted those who asked.
    TESSERA_RETURN_IF_ERROR(slot.CheckWanted());
    TESSERA_RETURN_IF_ERROR(slot.QueueChunk(chunk, streams_));
    Push({.slot = &slot, .chunk = chunk});
  }
  return absl::OkStatus();
}

absl::Status DeviceExecutor::Reserve(LaunchSlot& slot) {
  const absl::Status status = TryReserve(slot);
  if (status.ok() || !MayHelpToFlush(slot, status)) return status;
  // What the other slots keep may be just what is missing.
  TESSERA_RETURN_IF_ERROR(AwaitOthers(1));
  for (const auto& other : slots_) other->ReleaseMemory();
  workspace_.Release();
  output_memory_.ReleaseIdle();
  return TryReserve(slot);
}

// Whether `status` says that memory is short, and others hold some without which there would be enough. To
// take it from them stops the pipeline.
bool DeviceExecutor::MayHelpToFlush(const LaunchSlot& slot, const absl::Status& status) {
  const std::string reason = GetErrorDetail(status).value_or(ErrorDetail{}).reason;
  if (reason != "DEVICE_MEMORY" && reason != "OUT_OF_MEMORY") return false;
  const absl::StatusOr<DeviceInfo> info = device_.Info();
  if (!info.ok()) return false;
  // 0: the device does not say.
  const int64_t total = info->total_memory_bytes;
  if (total > 0 && slot.needed_bytes() > total) return false;
  return workspace_.capacity_bytes() > 0 || output_memory_.idle_bytes() > 0 ||
         std::any_of(slots_.begin(), slots_.end(), [](const auto& any) { return any->held_bytes() > 0; });
}

absl::Status DeviceExecutor::TryReserve(LaunchSlot& slot) {
  TESSERA_RETURN_IF_ERROR(slot.Prepare());
  const int64_t bytes = slot.workspace_bytes();
  if (bytes > workspace_.capacity_bytes()) {
    TESSERA_RETURN_IF_ERROR(AwaitOthers(1));  // it moves, and they use it
  }
  TESSERA_RETURN_IF_ERROR(workspace_.Begin(bytes));
  TESSERA_ASSIGN_OR_RETURN(void* const memory, workspace_.Allocate(bytes));
  slot.SetWorkspace(memory, workspace_.high_water_bytes());
  return absl::OkStatus();
}

// ---- The collecting thread ----

void DeviceExecutor::Collect() {
  while (const std::optional<Step> step = NextStep()) {
    if (step->chunk) {
      step->slot->CollectChunk(*step->chunk);
    } else {
      End(*step);
    }
  }
}

std::optional<DeviceExecutor::Step> DeviceExecutor::NextStep() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || !steps_.empty(); });
  if (steps_.empty()) return std::nullopt;
  Step step = std::move(steps_.front());
  steps_.pop_front();
  return step;
}

void DeviceExecutor::End(const Step& step) {
  LaunchSlot& slot = *step.slot;
  if (step.is_fenced) slot.AwaitFence();
  const bool failed_late = !slot.failure().ok();
  absl::Status status = failed_late ? slot.failure() : step.queued;
  if (status.ok()) status = Guarded(slot.backend_name(), [&] { return slot.HandOver(); });
  const bool had_company = failed_late && slot.has_company();
  Jobs jobs = slot.TakeJobs();
  FreeSlot(slot);
  Settle(std::move(jobs), status, had_company);
}

}  // namespace tessera
