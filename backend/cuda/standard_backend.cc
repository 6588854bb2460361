#include "backend/cuda/standard_backend.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/cuda/backend_parts.h"

namespace tessera {

using kernels::cuda::ChooseStandard;
using kernels::cuda::Cublas;
using kernels::cuda::StandardChoice;
using kernels::cuda::StandardStatus;

absl::StatusOr<std::unique_ptr<CudaStandardBackend>> CudaStandardBackend::Create(CudaDevice& device) {
  TESSERA_RETURN_IF_ERROR(device.MakeCurrent());
  std::string error;
  std::unique_ptr<Cublas> blas = Cublas::Create(&error);
  if (blas == nullptr) {
    return MakeError(absl::StatusCode::kUnavailable, error,
                     {.reason = "CUBLAS_UNAVAILABLE",
                      .metadata = {{"backend", "cuda_standard"},
                                   {"expected", "cuBLAS in the dynamic linker's path"},
                                   {"actual", error},
                                   {"fix", "install cuBLAS, or name its folder in LD_LIBRARY_PATH"}},
                      .retry_after = std::nullopt});
  }
  return std::unique_ptr<CudaStandardBackend>(new CudaStandardBackend(device, std::move(blas)));
}

CudaStandardBackend::CudaStandardBackend(CudaDevice& device, std::unique_ptr<Cublas> blas)
    : device_(device),
      blas_(std::move(blas)),
      info_{.name = "cuda_standard",
            .description = absl::StrCat("Standard attention, the scores in memory, by ", blas_->name()),
            .auto_priority = 50,
            .capabilities = CudaCapabilities(kernels::cuda::kStandardMaxHeadDim)} {
  info_.capabilities.input_dtypes |= DTypeBit(TESSERA_DTYPE_FP8_E4M3);
}

CudaStandardBackend::~CudaStandardBackend() {
  device_.MakeCurrent().IgnoreError();  // for the handle's end; a lost GPU has nothing left to free
}

absl::Status CudaStandardBackend::Supports(const AttentionProblem& problem) const {
  TESSERA_RETURN_IF_ERROR(CheckCapabilities(info_, problem));
  const StandardChoice choice = ChooseStandard(problem, device_.traits());
  if (!choice.refusal.empty()) return ProblemUnsupported(info_, choice.refusal);
  return absl::OkStatus();
}

absl::StatusOr<Plan> CudaStandardBackend::MakePlan(const AttentionProblem& problem) const {
  const StandardChoice choice = ChooseStandard(problem, device_.traits());
  const auto launches =
      static_cast<int32_t>(std::min<int64_t>(choice.launches, std::numeric_limits<int32_t>::max()));
  Plan plan{.struct_size = sizeof(Plan),
            .workspace_bytes = choice.workspace_bytes,
            .num_splits = 1,
            .launches = std::max(launches, 1),  // of a problem without queries too: a plan has one at least
            .materialises_scores = 1};
  SetKernelName(choice.kernel, plan);
  return plan;
}

absl::Status CudaStandardBackend::Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                                          tessera_stream* stream) {
  TESSERA_RETURN_IF_ERROR(device_.MakeCurrent());
  const StandardStatus status = kernels::cuda::StandardAttention(problem, device_.traits(), *blas_, workspace,
                                                                 CudaDevice::Unwrap(stream));
  if (status.cublas == nullptr) {
    TESSERA_RETURN_IF_ERROR(device_.Check(status.cuda, plan.kernel));
    return device_.Check(cudaGetLastError(), plan.kernel);
  }
  // CUDA's own error says more, where there is one.
  TESSERA_RETURN_IF_ERROR(device_.Check(cudaGetLastError(), "cublasGemmStridedBatchedEx"));
  return MakeError(absl::StatusCode::kInternal,
                   absl::StrCat(info_.name, ": cublasGemmStridedBatchedEx: ", status.cublas),
                   {.reason = "CUBLAS_ERROR",
                    .metadata = {{"backend", info_.name},
                                 {"library", blas_->name()},
                                 {"expected", "CUBLAS_STATUS_SUCCESS"},
                                 {"actual", status.cublas}},
                    .retry_after = std::nullopt});
}

absl::StatusOr<ModelledTraffic> CudaStandardBackend::ModelTraffic(const Plan&,
                                                                  const AttentionProblem& problem) const {
  const StandardChoice choice = ChooseStandard(problem, device_.traits());
  return ModelledTraffic{.read_bytes = choice.hbm_read_bytes, .write_bytes = choice.hbm_write_bytes};
}

}  // namespace tessera
