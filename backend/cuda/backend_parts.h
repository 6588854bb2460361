// What the CUDA backends have in common.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "backend/core/backend.h"

namespace tessera {

// Every dtype and feature that the CUDA kernels have, for head dims up to `max_head_dim`.
Capabilities CudaCapabilities(int32_t max_head_dim);

// UNIMPLEMENTED, reason PROBLEM_UNSUPPORTED: "<backend>: <refusal>", what the kernels say of a problem that
// the capabilities cover.
absl::Status ProblemUnsupported(const BackendInfo& info, const std::string& refusal);

// Sets plan.kernel, cut to fit.
void SetKernelName(std::string_view kernel, Plan& plan);

}  // namespace tessera
