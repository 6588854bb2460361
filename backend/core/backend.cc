#include "backend/core/backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

absl::Status Refuse(const BackendInfo& info, std::string reason, const std::string& field,
                    const std::string& what, const std::string& actual, const std::string& supported) {
  return MakeError(
      absl::StatusCode::kUnimplemented,
      absl::StrCat(info.name, ": ", what, " not supported; supported: ", supported),
      {.reason = std::move(reason),
       .metadata = {{"backend", info.name}, {"field", field}, {"expected", supported}, {"actual", actual}},
       .retry_after = std::nullopt});
}

absl::Status CheckDType(const BackendInfo& info, const std::string& field, DType dtype, uint32_t supported) {
  if ((supported & DTypeBit(dtype)) != 0) return absl::OkStatus();
  return Refuse(info, "DTYPE_UNSUPPORTED", absl::StrCat(field, "_dtype"),
                absl::StrCat(field, " dtype ", DTypeName(dtype), " is"), DTypeName(dtype),
                DTypeSetNames(supported));
}

absl::Status CheckHeadDim(const BackendInfo& info, const std::string& field, int32_t head_dim) {
  const int32_t most = info.capabilities.max_head_dim;
  const int32_t multiple = std::max(info.capabilities.head_dim_multiple, 1);
  if (head_dim <= most && head_dim % multiple == 0) return absl::OkStatus();
  return Refuse(
      info, "HEAD_DIM_UNSUPPORTED", field, absl::StrCat("head_dim ", head_dim, " (", field, ") is"),
      absl::StrCat(head_dim),
      multiple == 1 ? absl::StrCat("1..", most) : absl::StrCat("multiples of ", multiple, " up to ", most));
}

}  // namespace

absl::Status Backend::Supports(const AttentionProblem& problem) const {
  return CheckCapabilities(info(), problem);
}

absl::StatusOr<ModelledTraffic> Backend::ModelTraffic(const Plan&, const AttentionProblem&) const {
  return ModelledTraffic{};
}

absl::Status CheckCapabilities(const BackendInfo& info, const AttentionProblem& problem) {
  const Capabilities& can = info.capabilities;
  TESSERA_RETURN_IF_ERROR(CheckDType(info, "input", problem.q.dtype, can.input_dtypes));
  TESSERA_RETURN_IF_ERROR(CheckDType(info, "output", problem.o.dtype, can.output_dtypes));
  TESSERA_RETURN_IF_ERROR(CheckHeadDim(info, "head_dim_qk", problem.head_dim_qk));
  TESSERA_RETURN_IF_ERROR(CheckHeadDim(info, "head_dim_v", problem.head_dim_v));
  const uint32_t missing = FeaturesOf(problem) & ~can.features;
  if (missing == 0) return absl::OkStatus();
  const std::string names = FeatureNames(missing);
  const bool several = (missing & (missing - 1)) != 0;
  return Refuse(info, "FEATURE_UNSUPPORTED", "features",
                several ? absl::StrCat("features ", names, " are") : absl::StrCat("feature ", names, " is"),
                names, FeatureNames(can.features));
}

}  // namespace tessera
