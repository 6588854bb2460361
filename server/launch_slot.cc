#include "server/launch_slot.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "backend/core/error.h"
#include "backend/core/saturating.h"
#include "server/batch_queue.h"
#include "server/guarded.h"

namespace tessera {
namespace {

// Rounds of query tiles over all compute units that a chunk must have: fewer, and too many of them idle in
// the last one.
constexpr int64_t kMinWaves = 2;

// Query tiles of a launch: the pieces of work that a device spreads over its compute units. At least 1.
int64_t QueryTiles(const AttentionProblem& problem, int32_t tile_q) {
  const int64_t group = problem.num_q_heads / problem.num_kv_heads;
  int64_t tiles = 0;
  for (int64_t s = 0; s < problem.num_sequences; ++s) {
    const int64_t rows = SaturatingMultiply(problem.sequences[s].q_len, group);
    tiles = SaturatingAdd(tiles, SaturatingMultiply(CeilDiv(rows, tile_q), problem.num_kv_heads));
  }
  return std::max<int64_t>(tiles, 1);
}

// Whether each (sequence, kv head) pair is computed by `part` as it would be by `whole`. Not so where a plan
// divides the keys, which depends on how much else there is to do, nor where the scores are materialised:
// libraries choose their algorithm by the size of the batch.
bool ComputesAlike(const Plan& part, const Plan& whole) {
  const auto is_simple = [](const Plan& plan) {
    return plan.num_splits <= 1 && plan.materialises_scores == 0;
  };
  return is_simple(whole) && is_simple(part) &&
         std::strncmp(part.kernel, whole.kernel, sizeof(whole.kernel)) == 0 && part.tile_q == whole.tile_q &&
         part.tile_kv == whole.tile_kv && part.stages == whole.stages;
}

}  // namespace

absl::StatusOr<DeviceStreams> DeviceStreams::Create(Device& device) {
  DeviceStreams streams;
  for (Stream* stream : {&streams.upload, &streams.compute, &streams.download}) {
    TESSERA_ASSIGN_OR_RETURN(*stream, Stream::Create(device));
  }
  return streams;
}

absl::StatusOr<std::unique_ptr<LaunchSlot>> LaunchSlot::Create(Device& device, OutputMemory& output_memory,
                                                               CopyThreads& copiers) {
  TESSERA_ASSIGN_OR_RETURN(const DeviceInfo info, device.Info());
  std::unique_ptr<LaunchSlot> slot(
      new LaunchSlot(device, output_memory, copiers, std::max(info.compute_units, 1)));
  for (Event& fence : slot->fences_) {
    TESSERA_ASSIGN_OR_RETURN(fence, Event::Create(device));
  }
  return slot;
}

void LaunchSlot::Begin(Jobs jobs, bool has_company) {
  jobs_ = std::move(jobs);
  batch_ = PointersTo(jobs_);
  has_company_ = has_company;
  chunks_.clear();
  failure_ = absl::OkStatus();
  modelled_ = absl::OkStatus();
  has_queued_ = false;
}

absl::Status LaunchSlot::Prepare() {
  TESSERA_ASSIGN_OR_RETURN(problem_, placement_.Reserve(batch_));
  TESSERA_RETURN_IF_ERROR(PlanWhole());
  PlanChunks();
  return CreateTimings();
}

absl::Status LaunchSlot::PlanWhole() {
  plan_ = batch_.front()->plan;
  if (batch_.size() == 1) return absl::OkStatus();
  // A backend that takes each request may still refuse all of them as one problem.
  const Backend& backend = *batch_.front()->backend;
  TESSERA_RETURN_IF_ERROR(backend.Supports(problem_));
  TESSERA_ASSIGN_OR_RETURN(plan_, backend.MakePlan(problem_));
  return absl::OkStatus();
}

// Fills chunks_: with several where that changes no result, else with one.
void LaunchSlot::PlanChunks() {
  ChunkLimits limits;
  if (plan_.tile_q > 0) {
    const int64_t chunks = QueryTiles(problem_, plan_.tile_q) / (kMinWaves * compute_units_);
    limits.max_chunks = static_cast<int>(std::min<int64_t>(limits.max_chunks, chunks));
  }
  const std::vector<Chunk> cut = SplitLaunch(problem_, limits);
  chunks_.clear();
  if (cut.size() > 1 &&
      std::all_of(cut.begin(), cut.end(), [this](const Chunk& chunk) { return PlanAsChunk(chunk); })) {
    return;
  }
  chunks_.clear();
  chunks_.push_back({.chunk = WholeLaunch(problem_), .problem = problem_, .sequences = {}, .plan = plan_});
}

// Appends `chunk` to chunks_ unless the backend would not compute it as it computes the whole.
bool LaunchSlot::PlanAsChunk(const Chunk& chunk) {
  const Backend& backend = *batch_.front()->backend;
  PlannedChunk& part = chunks_.emplace_back();
  part.chunk = chunk;
  part.problem = ProblemOf(problem_, chunk, part.sequences);
  if (!backend.Supports(part.problem).ok()) return false;
  const absl::StatusOr<Plan> plan = backend.MakePlan(part.problem);
  if (!plan.ok() || !ComputesAlike(*plan, plan_)) return false;
  part.plan = *plan;
  return true;
}

absl::Status LaunchSlot::CreateTimings() {
  while (timings_.size() < chunks_.size()) {
    Timing timing;
    for (Span* span : {&timing.upload, &timing.compute, &timing.download}) {
      TESSERA_ASSIGN_OR_RETURN(span->begin, Event::Create(device_));
      TESSERA_ASSIGN_OR_RETURN(span->end, Event::Create(device_));
    }
    timings_.push_back(std::move(timing));
  }
  return absl::OkStatus();
}

int64_t LaunchSlot::workspace_bytes() const {
  int64_t bytes = 0;
  for (const PlannedChunk& part : chunks_) bytes = std::max(bytes, part.plan.workspace_bytes);
  return bytes;
}

int64_t LaunchSlot::needed_bytes() const {
  return SaturatingAdd(placement_.needed_bytes(), workspace_bytes());
}

void LaunchSlot::SetWorkspace(void* memory, int64_t peak_bytes) {
  workspace_ = memory;
  workspace_peak_ = peak_bytes;
}

absl::Status LaunchSlot::CheckWanted() const {
  const Clock::time_point now = Clock::now();
  absl::Status status;
  for (const Job* job : batch_) {
    status = CheckAlive(*job, now);
    if (status.ok()) break;
  }
  return status;
}

absl::Status LaunchSlot::QueueChunk(size_t index, const DeviceStreams& streams) {
  const PlannedChunk& part = chunks_[index];
  const Timing& timing = timings_[index];
  tessera_stream* const upload = streams.upload.get();
  tessera_stream* const compute = streams.compute.get();
  tessera_stream* const download = streams.download.get();
  has_queued_ = true;
  if (index == 0) AccountQueue(jobs_);

  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(timing.upload.begin.get(), upload));
  // Masks may serve any sequence: all go first.
  if (index == 0) TESSERA_RETURN_IF_ERROR(placement_.MoveMasksIn(upload));
  TESSERA_RETURN_IF_ERROR(placement_.MoveIn(part.chunk.ranges, upload));
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(timing.upload.end.get(), upload));

  TESSERA_RETURN_IF_ERROR(device_.WaitEvent(compute, timing.upload.end.get()));
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(timing.compute.begin.get(), compute));
  TESSERA_RETURN_IF_ERROR(batch_.front()->backend->Enqueue(part.plan, part.problem, workspace_, compute));
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(timing.compute.end.get(), compute));

  TESSERA_RETURN_IF_ERROR(device_.WaitEvent(download, timing.compute.end.get()));
  TESSERA_RETURN_IF_ERROR(device_.RecordEvent(timing.download.begin.get(), download));
  TESSERA_RETURN_IF_ERROR(placement_.QueueMoveOut(part.chunk.ranges, download));
  return device_.RecordEvent(timing.download.end.get(), download);
}

absl::Status LaunchSlot::Fence(const DeviceStreams& streams) {
  if (!has_queued_) return absl::OkStatus();
  const Stream* const all[] = {&streams.upload, &streams.compute, &streams.download};
  for (size_t i = 0; i < std::size(all); ++i) {
    TESSERA_RETURN_IF_ERROR(device_.RecordEvent(fences_[i].get(), all[i]->get()));
  }
  return absl::OkStatus();
}

void LaunchSlot::CollectChunk(size_t index) {
  const Timing& timing = timings_[index];
  // Here, as this thread would only wait, while the other has tensors to move.
  if (index == 0) modelled_ = Guarded(backend_name(), [this] { return ModelTraffic(batch_); });
  // The download is the last to end: one wait, after which the others are over too. They are asked all the
  // same, as a failure need not reach the streams that wait for it, and the first failure is the cause.
  const absl::Status download = device_.SynchronizeEvent(timing.download.end.get());
  failure_.Update(device_.SynchronizeEvent(timing.upload.end.get()));
  failure_.Update(device_.SynchronizeEvent(timing.compute.end.get()));
  failure_.Update(download);
}

void LaunchSlot::AwaitFence() {
  if (!has_queued_) return;
  // An error is that of the work, which is over then and has failed anyway.
  for (const Event& fence : fences_) device_.SynchronizeEvent(fence.get()).IgnoreError();
}

absl::StatusOr<double> LaunchSlot::SumOf(Span Timing::*span) {
  double sum = 0;
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const Span& times = timings_[i].*span;
    TESSERA_ASSIGN_OR_RETURN(const double elapsed,
                             device_.ElapsedMicroseconds(times.begin.get(), times.end.get()));
    sum += elapsed;
  }
  return sum;
}

absl::Status LaunchSlot::HandOver() {
  TESSERA_RETURN_IF_ERROR(modelled_);
  LaunchCost cost{.workspace_peak = workspace_peak_};
  const Timing& first = timings_.front();
  TESSERA_ASSIGN_OR_RETURN(cost.queue,
                           device_.ElapsedMicroseconds(first.upload.end.get(), first.compute.begin.get()));
  TESSERA_ASSIGN_OR_RETURN(cost.transfer_in, SumOf(&Timing::upload));
  TESSERA_ASSIGN_OR_RETURN(cost.compute, SumOf(&Timing::compute));
  TESSERA_ASSIGN_OR_RETURN(cost.transfer_out, SumOf(&Timing::download));

  Plan plan = chunks_.front().plan;
  plan.launches = 0;
  for (const PlannedChunk& part : chunks_) plan.launches += part.plan.launches;
  placement_.HandOver();
  AccountLaunch(batch_, problem_, plan, cost);
  return absl::OkStatus();
}

Jobs LaunchSlot::TakeJobs() {
  batch_.clear();
  return std::move(jobs_);
}

}  // namespace tessera
