#include "tests/benchmark/cuda_cell_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/saturating.h"
#include "backend/cuda/cuda_device.h"
#include "tests/benchmark/cuda_fill.h"

namespace tessera::benchmark {
namespace {

constexpr int64_t kRotatedBytes = int64_t{1} << 30;
constexpr int64_t kMinCopies = 2;
constexpr int64_t kAlignment = 256;

int64_t Bytes(const TensorView& tensor) { return tensor.num_elements * DTypeSize(tensor.dtype); }

// The tensors of `problem` in the order in which they lie behind each other.
auto Tensors(AttentionProblem& problem) { return std::array{&problem.q, &problem.k, &problem.v, &problem.o}; }

void PlaceAt(std::byte* memory, AttentionProblem& problem) {
  for (TensorView* tensor : Tensors(problem)) {
    tensor->data = memory;
    memory += RoundUp(Bytes(*tensor), kAlignment);
  }
}

}  // namespace

absl::StatusOr<CellRun> CellRun::Create(Device& device, const Cell& cell, DType dtype, uint64_t seed) {
  CellRun run;
  run.device_ = &device;
  run.shapes_ = ProblemOf(cell, dtype, run.sequences_);
  TESSERA_RETURN_IF_ERROR(Validate(run.shapes_, DataRequirement::kShapesOnly));
  AttentionProblem problem = run.shapes_;
  int64_t padded = 0;
  for (const TensorView* tensor : Tensors(problem)) {
    run.copy_bytes_ += Bytes(*tensor);
    padded += RoundUp(Bytes(*tensor), kAlignment);
  }
  TESSERA_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(device));
  const int64_t copies = std::max(CeilDiv(kRotatedBytes, run.copy_bytes_), kMinCopies);
  for (int64_t i = 0; i < copies; ++i) {
    TESSERA_ASSIGN_OR_RETURN(DeviceBuffer memory, DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE,
                                                                       static_cast<size_t>(padded)));
    PlaceAt(memory.data(), problem);
    for (const TensorView* tensor : {&problem.q, &problem.k, &problem.v}) {
      seed += uint64_t{1} << 40;  // beyond any tensor: no two share numbers
      const cudaError_t error =
          FillNormal(tensor->data, dtype, tensor->num_elements, seed, CudaDevice::Unwrap(stream.get()));
      if (error != cudaSuccess) {
        return absl::InternalError(absl::StrCat("FillNormal: ", cudaGetErrorString(error)));
      }
    }
    run.copies_.push_back(std::move(memory));
  }
  TESSERA_ASSIGN_OR_RETURN(const Event done, Event::Create(device));
  TESSERA_RETURN_IF_ERROR(device.RecordEvent(done.get(), stream.get()));
  TESSERA_RETURN_IF_ERROR(device.SynchronizeEvent(done.get()));
  return run;
}

AttentionProblem CellRun::ProblemAt(std::byte* memory) const {
  AttentionProblem problem = shapes_;
  problem.sequences = sequences_.data();
  PlaceAt(memory, problem);
  return problem;
}

absl::Status CellRun::Launch(Backend& backend, const Plan& plan, void* workspace, tessera_stream* stream) {
  const DeviceBuffer& copy = copies_[static_cast<size_t>(turn_++ % copies())];
  return backend.Enqueue(plan, ProblemAt(copy.data()), workspace, stream);
}

absl::StatusOr<SampledError> CellRun::Check(Backend& backend, const Plan& plan, void* workspace,
                                            tessera_stream* stream, uint64_t seed) {
  const AttentionProblem problem = ProblemAt(copies_.front().data());
  TESSERA_ASSIGN_OR_RETURN(DeviceBuffer host,
                           DeviceBuffer::Create(*device_, TESSERA_MEMORY_PINNED, copies_.front().size()));
  AttentionProblem host_problem = ProblemAt(host.data());
  const auto o_bytes = static_cast<size_t>(Bytes(problem.o));
  std::fill_n(static_cast<std::byte*>(host_problem.o.data), o_bytes, std::byte{0xff});
  TESSERA_RETURN_IF_ERROR(
      device_->CopyAsync(problem.o.data, host_problem.o.data, o_bytes, TESSERA_COPY_HOST_TO_DEVICE, stream));
  TESSERA_RETURN_IF_ERROR(backend.Enqueue(plan, problem, workspace, stream));
  TESSERA_RETURN_IF_ERROR(device_->CopyAsync(host.data(), copies_.front().data(), host.size(),
                                             TESSERA_COPY_DEVICE_TO_HOST, stream));
  TESSERA_ASSIGN_OR_RETURN(const Event done, Event::Create(*device_));
  TESSERA_RETURN_IF_ERROR(device_->RecordEvent(done.get(), stream));
  TESSERA_RETURN_IF_ERROR(device_->SynchronizeEvent(done.get()));
  return CheckSampledRows(host_problem, seed);
}

}  // namespace tessera::benchmark
