// The one place where errors of the CUDA runtime become statuses.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "absl/status/status.h"

namespace tessera {

// Whether `error` has ended the use of its GPU by this process: every later call returns it, and what the
// memory held is gone. (A failed allocation, say, is not: the next call may succeed.)
bool IsSticky(cudaError_t error);

// Whether `error`, on a GPU that this process has opened, means that it is lost: a sticky error, or one that
// says there is no such GPU, driver or service of it (any more).
bool MeansLost(cudaError_t error);

// DeviceLostError of `device`, because `call` returned `error`.
absl::Status LostStatus(cudaError_t error, const std::string& device, const std::string& call);

// OK for cudaSuccess; DeviceLostError for a sticky error; else "<device>: <call>: <name of the error>: <what
// CUDA says of it>" with metadata {device, call, cuda_error, expected, actual} and the reason
//   OUT_OF_MEMORY     RESOURCE_EXHAUSTED  of the GPU, or of the host for pinned memory
//   CUDA_UNAVAILABLE  UNAVAILABLE         no usable GPU, driver or service of it, at present
//   CUDA_UNSUPPORTED  UNIMPLEMENTED       this GPU or driver cannot do that, or not with this build
//   CUDA_ERROR        INTERNAL            anything else: our mistake
// `device`: "cuda:0".
absl::Status ToStatus(cudaError_t error, const std::string& device, const std::string& call);

// Why this process has no GPU, and what an operator does about it, from what cudaGetDeviceCount returned and
// what cudaDriverGetVersion gave (12080 for CUDA 12.8; 0: no driver): UNAVAILABLE with the reason
//   NO_GPU            there is no driver, or it shows no GPU
//   CUDA_UNAVAILABLE  there is a driver, and CUDA does not start: a GPU may well be there
absl::Status WhyNoGpu(cudaError_t error, int driver_version);

}  // namespace tessera
