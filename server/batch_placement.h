// Where the tensors of a launch lie when they cannot be used where they arrived: several small requests
// packed into one problem, or any request of a device that cannot see host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/arena.h"
#include "server/copy_threads.h"
#include "server/job.h"
#include "server/operand.h"
#include "server/output_memory.h"

namespace tessera {

// Whether `job` may share a launch with others: small enough that packing it is cheaper than a launch of its
// own, and laid out so that its tokens can be moved as a block.
bool CanShareLaunch(const Job& job);

// Whether the inputs of `job` are placed where its backend reads them when it arrives, by the thread that
// read it, rather than by its launch: large requests of a device that sees host memory.
bool IsPlacedOnArrival(const Job& job);

// Copies the inputs of a job that runs by itself, on a device that sees host memory, to where its backend
// reads them, enters that into its ledger and gives the transport's buffers back. Does nothing for a job that
// has been placed before.
void PlaceOnHost(Job& job);

// Used in order: Reserve; MoveMasksIn; for each part of the launch MoveIn, its work and QueueMoveOut; once
// all is done, HandOver. The parts' ranges cover every operand once. Not thread-safe.
class BatchPlacement {
 public:
  // All outlive it. Inputs are copied by the threads of `copiers`; null: by the caller's alone.
  BatchPlacement(Device& device, OutputMemory& output_memory, CopyThreads* copiers);

  // Reserves memory for the tensors of `jobs`, one job's after another's, and describes them as one problem.
  // Several jobs must all CanShareLaunch and have equal keys. The problem is valid until the next Reserve;
  // what it points to on the host belongs to this object and to jobs[0]. The jobs outlive the launch.
  absl::StatusOr<AttentionProblem> Reserve(const std::vector<Job*>& jobs);

  // Copies the masks, or the inputs within `ranges`, to where the device's copy begins, and queues their
  // transfers on `stream`. Padding values of the outputs are inputs too.
  absl::Status MoveMasksIn(tessera_stream* stream);
  absl::Status MoveIn(const OperandRanges& ranges, tessera_stream* stream);

  // Queues the transfers of the outputs within `ranges` back to the host.
  absl::Status QueueMoveOut(const OperandRanges& ranges, tessera_stream* stream);

  // Gives each job its share of the outputs, where they are, and enters copies, transfers and memory into the
  // jobs' ledgers.
  void HandOver();

  // Device memory that the last Reserve asked for, whether or not there was so much.
  int64_t needed_bytes() const { return needed_bytes_; }
  // Device and pinned memory kept, of this and earlier launches, but for the outputs'.
  int64_t held_bytes() const { return tensors_.capacity_bytes() + staging_.capacity_bytes(); }

  // Gives the memory back. Nothing that uses it is still to run.
  void Release();

 private:
  // One operand of all jobs. `host` is where the host writes and reads it: staging or, for an output, memory
  // that the replies share; or device memory itself.
  struct Region {
    std::byte* device = nullptr;
    std::byte* host = nullptr;
    int64_t bytes = 0;
    std::shared_ptr<std::byte> shared;  // an output's `host`
  };

  int64_t OffsetOf(size_t job, Operand operand, const OperandRef& ref) const;
  absl::Status ReserveRegions();
  absl::Status ReserveInput(int64_t bytes, Region& region);
  absl::Status ReserveOutput(int64_t bytes, Region& region);
  std::vector<OutputBytes> OutputsOf(size_t job) const;
  bool GoesIn(const Job& job, Operand operand) const;
  // A part of an operand that is copied by one thread and transferred at once.
  struct Piece {
    Operand operand;
    ByteRange range;
  };
  std::vector<Piece> CutIntoPieces(const OperandRanges& ranges) const;
  void CopyIn(const Piece& piece);
  absl::Status QueueTransfer(const Region& region, const ByteRange& range, CopyKind kind,
                             tessera_stream* stream, int64_t& count);
  AttentionProblem MergedProblem();
  tessera_scales MergedScales(tessera_scales AttentionProblem::*scales, int32_t heads,
                              std::vector<float>& values) const;

  Device& device_;
  OutputMemory& output_memory_;
  CopyThreads* const copiers_;
  Arena tensors_;
  Arena staging_;
  std::vector<Job*> jobs_;
  Region regions_[kNumOperands];
  Region masks_;
  // Tokens by which each job's q side and kv side are moved, and where its masks begin in masks_.
  std::vector<int64_t> q_shifts_, kv_shifts_, mask_offsets_;
  std::vector<Sequence> sequences_;
  std::vector<float> q_scales_, k_scales_, v_scales_;  // of all jobs' sequences
  bool outputs_go_in_ = false;  // padding values must be on the device before the launch
  int64_t needed_bytes_ = 0;
  int64_t output_bytes_ = 0;  // of the outputs' regions
  int64_t transfers_in_ = 0, transfers_out_ = 0;
};

}  // namespace tessera
