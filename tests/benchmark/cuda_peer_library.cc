// A C entry to the CUDA kernels, so that the Python benchmarks can time them in the process that times
// PyTorch: on its tensors, its stream and its GPU. peer_library.py is the other side.
#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/standard_attention.h"

using namespace tessera::kernels::cuda;  // NOLINT: this file is an adapter and defines nothing else

extern "C" {

struct tessera_peer_plan {
  const char* kernel;  // static storage
  int64_t workspace_bytes;
};

}  // extern "C"

namespace {

// The current device. One at a time: the caller is a single-threaded script.
struct Gpu {
  DeviceTraits traits;
  std::unique_ptr<Cublas> blas;
  std::string blas_error;
  std::string refusal;  // of the last plan
};

Gpu& TheGpu() {
  static Gpu gpu = [] {
    Gpu made;
    int device = 0;
    cudaDeviceProp properties{};
    cudaGetDevice(&device);
    cudaGetDeviceProperties(&properties, device);
    made.traits.compute_capability = properties.major * 10 + properties.minor;
    made.traits.multiprocessors = properties.multiProcessorCount;
    made.traits.shared_memory_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
    made.traits.shared_memory_per_multiprocessor =
        static_cast<int64_t>(properties.sharedMemPerMultiprocessor);
    made.traits.l2_bytes = properties.l2CacheSize;
    made.blas = Cublas::Create(&made.blas_error);
    return made;
  }();
  return gpu;
}

}  // namespace

extern "C" {

// What the caller's mirror of tessera_attention_problem must measure.
int64_t tessera_peer_problem_bytes() { return sizeof(tessera_attention_problem); }

// For a valid problem; `standard`: 0 for the fused kernel, else standard attention. Null, or why it cannot
// run. Text is valid until the next call.
const char* tessera_peer_make_plan(const tessera_attention_problem* problem, int32_t standard,
                                   tessera_peer_plan* plan) {
  Gpu& gpu = TheGpu();
  if (standard != 0) {
    if (gpu.blas == nullptr) return gpu.blas_error.c_str();
    const StandardChoice choice = ChooseStandard(*problem, gpu.traits);
    gpu.refusal = choice.refusal;
    *plan = {choice.kernel, choice.workspace_bytes};
  } else {
    const FusedChoice choice = ChooseFused(*problem, gpu.traits);
    gpu.refusal = choice.refusal;
    *plan = {choice.kernel, choice.workspace_bytes};
  }
  return gpu.refusal.empty() ? nullptr : gpu.refusal.c_str();
}

// Queues work that was planned and not refused. Null, or what went wrong.
const char* tessera_peer_attention(const tessera_attention_problem* problem, int32_t standard,
                                   void* workspace, void* stream) {
  Gpu& gpu = TheGpu();
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaError_t error = cudaSuccess;
  if (standard != 0) {
    if (gpu.blas == nullptr) return gpu.blas_error.c_str();
    const StandardStatus status = StandardAttention(*problem, gpu.traits, *gpu.blas, workspace, queue);
    if (status.cublas != nullptr) return status.cublas;
    error = status.cuda;
  } else {
    error = FusedAttention(*problem, gpu.traits, workspace, queue);
  }
  if (error == cudaSuccess) error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // extern "C"
