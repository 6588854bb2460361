// Where the tensors of a launch lie when they cannot be used where they arrived: several small requests
// packed into one problem, or any request of a device that cannot see host memory.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/arena.h"
#include "server/job.h"

namespace tessera {

// Whether `job` may share a launch with others: small enough that packing it is cheaper than a launch of its
// own, and laid out so that its tokens can be moved as a block.
bool CanShareLaunch(const Job& job);

// Not thread-safe: one per executor. Used in order: Place, launch, QueueCollect, wait for the stream,
// Scatter.
class BatchPlacement {
 public:
  explicit BatchPlacement(Device& device);

  // Puts the tensors of `jobs` one after another into device memory and queues the transfers on `stream`.
  // Several jobs must all CanShareLaunch and have equal keys. The problem is valid until the next Place; what
  // it points to on the host belongs to this object and to jobs[0].
  absl::StatusOr<AttentionProblem> Place(const std::vector<Job*>& jobs, tessera_stream* stream);

  // Queues the transfers of the outputs back to the host.
  absl::Status QueueCollect(tessera_stream* stream);

  // Copies the outputs to where each job wants them, and enters copies, transfers and memory into the jobs'
  // ledgers.
  void Scatter(const std::vector<Job*>& jobs);

 private:
  // One operand of all jobs. `host` is where the host writes and reads it: staging, or device memory itself.
  struct Region {
    std::byte* device = nullptr;
    std::byte* host = nullptr;
    int64_t bytes = 0;
  };
  enum Operand { kQ, kK, kV, kO, kLse, kNumOperands };
  struct OperandRef;

  static OperandRef RefOf(const AttentionProblem& problem, Operand operand);
  int64_t ShiftOf(size_t job, Operand operand) const;
  std::byte* HostAt(size_t job, Operand operand, const OperandRef& ref) const;
  absl::Status AllocateRegions(const std::vector<Job*>& jobs);
  absl::Status AllocateRegion(int64_t bytes, Region& region);
  void CopyIn(const std::vector<Job*>& jobs);
  absl::Status QueueTransfer(const Region& region, CopyKind kind, tessera_stream* stream);
  AttentionProblem MergedProblem(const std::vector<Job*>& jobs);

  Device& device_;
  Arena tensors_;
  Arena staging_;
  Region regions_[kNumOperands];
  Region masks_;
  // Tokens by which each job's q side and kv side are moved, and where its masks begin in masks_.
  std::vector<int64_t> q_shifts_, kv_shifts_, mask_offsets_;
  std::vector<Sequence> sequences_;
  bool outputs_go_in_ = false;  // padding values must be on the device before the launch
};

}  // namespace tessera
