#include "backend/cuda/backend_parts.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"

namespace tessera {

Capabilities CudaCapabilities(int32_t max_head_dim) {
  const uint32_t dtypes =
      DTypeBit(TESSERA_DTYPE_FP32) | DTypeBit(TESSERA_DTYPE_FP16) | DTypeBit(TESSERA_DTYPE_BF16);
  return {.struct_size = sizeof(Capabilities),
          .features = TESSERA_FEATURE_ALL,
          .input_dtypes = dtypes,
          .output_dtypes = dtypes,
          .max_head_dim = max_head_dim,
          .head_dim_multiple = 1};
}

absl::Status ProblemUnsupported(const BackendInfo& info, const std::string& refusal) {
  return MakeError(absl::StatusCode::kUnimplemented, absl::StrCat(info.name, ": ", refusal),
                   {.reason = "PROBLEM_UNSUPPORTED",
                    .metadata = {{"backend", info.name},
                                 {"expected", "a problem within the limits of the kernels"},
                                 {"actual", refusal}},
                    .retry_after = std::nullopt});
}

void SetKernelName(std::string_view kernel, Plan& plan) {
  const size_t length = kernel.copy(plan.kernel, std::min(kernel.size(), sizeof(plan.kernel) - 1));
  plan.kernel[length] = '\0';
}

}  // namespace tessera
