// One launch on a device with memory of its own, on its way: jobs, memory, chunks, events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/batch_placement.h"
#include "server/executor.h"
#include "server/launch_chunks.h"

namespace tessera {

// The streams of one device. What crosses from one to the next is ordered by events, so that uploads, work
// and downloads of different chunks and launches run side by side, each kind in the order it was queued.
struct DeviceStreams {
  Stream upload, compute, download;
  static absl::StatusOr<DeviceStreams> Create(Device& device);
};

// Used by two threads. The launching one calls Begin, Prepare, SetWorkspace, then QueueChunk for one chunk
// after the other, each followed by CollectChunk on the collecting thread, which calls the rest once nothing
// more is queued. Then the slot serves the next launch.
class LaunchSlot {
 public:
  // All outlive it; `copiers` copy the inputs.
  static absl::StatusOr<std::unique_ptr<LaunchSlot>> Create(Device& device, OutputMemory& output_memory,
                                                            CopyThreads& copiers);

  // Takes the jobs in. `has_company`: other launches are under way on the same streams.
  void Begin(Jobs jobs, bool has_company);
  // Reserves memory for the tensors, plans the launch and cuts it into chunks.
  absl::Status Prepare();
  // Device scratch that each chunk takes, one at a time.
  int64_t workspace_bytes() const;
  void SetWorkspace(void* memory, int64_t peak_bytes);
  size_t num_chunks() const { return chunks_.size(); }

  // OK while somebody still waits for one of the jobs.
  absl::Status CheckWanted() const;
  // Moves a chunk's inputs in and queues its work and the way back.
  absl::Status QueueChunk(size_t index, const DeviceStreams& streams);
  // Marks the end of all that was queued, where a failure left it without its own events. On an error the
  // end of it cannot be known.
  absl::Status Fence(const DeviceStreams& streams);

  // Waits for a chunk. Before it waits for the first, models what the jobs move.
  void CollectChunk(size_t index);
  // Waits for all that was queued. Of a slot whose Fence succeeded.
  void AwaitFence();
  // The first failure of the work itself.
  const absl::Status& failure() const { return failure_; }
  // Gives the jobs their outputs and fills their ledgers.
  absl::Status HandOver();
  bool has_company() const { return has_company_; }
  const std::string& backend_name() const { return batch_.front()->backend->info().name; }
  Jobs TakeJobs();

  // Device memory that the launch needs, as far as Prepare came to know; the workspace included.
  int64_t needed_bytes() const;
  // Memory that the slot keeps.
  int64_t held_bytes() const { return placement_.held_bytes(); }
  // Gives the memory back. Of an idle slot.
  void ReleaseMemory() { placement_.Release(); }

 private:
  // The time between two events of one stream.
  struct Span {
    Event begin, end;
  };
  struct Timing {
    Span upload, compute, download;
  };
  struct PlannedChunk {
    Chunk chunk;
    AttentionProblem problem{};
    std::vector<Sequence> sequences;  // of problem
    Plan plan{};
  };

  LaunchSlot(Device& device, OutputMemory& output_memory, CopyThreads& copiers, int64_t compute_units)
      : device_(device), compute_units_(compute_units), placement_(device, output_memory, &copiers) {}

  absl::Status PlanWhole();
  void PlanChunks();
  bool PlanAsChunk(const Chunk& chunk);
  absl::Status CreateTimings();
  absl::StatusOr<double> SumOf(Span Timing::*span);

  Device& device_;
  const int64_t compute_units_;
  BatchPlacement placement_;
  Event fences_[3];
  std::vector<Timing> timings_;  // by chunk; as many as any launch needed so far

  Jobs jobs_;
  std::vector<Job*> batch_;  // jobs_
  bool has_company_ = false;
  AttentionProblem problem_{};
  Plan plan_{};  // of problem_ as one
  std::vector<PlannedChunk> chunks_;
  void* workspace_ = nullptr;
  int64_t workspace_peak_ = 0;
  absl::Status failure_;
  absl::Status modelled_;    // how ModelTraffic ended
  bool has_queued_ = false;  // anything
};

}  // namespace tessera
