// One cell on the GPU: random inputs in more copies than the L2 holds, launches over them in turn.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/core/backend.h"
#include "backend/core/device.h"
#include "backend/core/error.h"
#include "tests/benchmark/cuda_cells.h"
#include "tests/benchmark/sampled_rows.h"

namespace tessera::benchmark {

class CellRun {
 public:
  // Draws the inputs on `device`, a CUDA device that outlives this. Copies of the tensors take 1 GiB
  // together, and are two at least.
  static absl::StatusOr<CellRun> Create(Device& device, const Cell& cell, DType dtype, uint64_t seed);
  CellRun(CellRun&&) = default;

  // Without data, for plans.
  const AttentionProblem& shapes() const { return shapes_; }
  int64_t copies() const { return static_cast<int64_t>(copies_.size()); }
  // Of Q, K, V and O: what any implementation must move.
  int64_t operand_bytes() const { return copy_bytes_; }

  // Queues one launch on the next copy.
  absl::Status Launch(Backend& backend, const Plan& plan, void* workspace, tessera_stream* stream);

  // Runs `backend` once on the first copy and compares sampled rows with float64.
  absl::StatusOr<SampledError> Check(Backend& backend, const Plan& plan, void* workspace,
                                     tessera_stream* stream, uint64_t seed);

 private:
  CellRun() = default;
  AttentionProblem ProblemAt(std::byte* memory) const;

  Device* device_ = nullptr;
  std::vector<Sequence> sequences_;
  AttentionProblem shapes_{};
  int64_t copy_bytes_ = 0;
  std::vector<DeviceBuffer> copies_;  // q, k, v, o each
  int64_t turn_ = 0;
};

// Microseconds that one call of `body`, which queues work on `stream`, takes on the device: the mean of
// `repeats` in a row.
absl::StatusOr<double> TimeOnDevice(Device& device, tessera_stream* stream, int64_t repeats,
                                    const auto& body) {
  TESSERA_ASSIGN_OR_RETURN(const Event begin, Event::Create(device));
  TESSERA_ASSIGN_OR_RETURN(const Event end, Event::Create(device));
  TESSERA_RETURN_IF_ERROR(device.RecordEvent(begin.get(), stream));
  for (int64_t i = 0; i < repeats; ++i) TESSERA_RETURN_IF_ERROR(body());
  TESSERA_RETURN_IF_ERROR(device.RecordEvent(end.get(), stream));
  TESSERA_RETURN_IF_ERROR(device.SynchronizeEvent(end.get()));
  TESSERA_ASSIGN_OR_RETURN(const double microseconds, device.ElapsedMicroseconds(begin.get(), end.get()));
  return microseconds / static_cast<double>(repeats);
}

}  // namespace tessera::benchmark
