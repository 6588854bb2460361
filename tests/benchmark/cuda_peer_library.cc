// A C entry to the CUDA kernels, so that cuda_peers.py can time them in the process that times PyTorch: on
// its tensors, its stream and its GPU.
#include <cuda_runtime.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/standard_attention.h"

using namespace tessera::kernels::cuda;  // NOLINT: this file is an adapter and defines nothing else

extern "C" {

struct tessera_peer_call {
  int32_t standard;  // 0: the fused kernel, 1: standard attention
  int32_t dtype;     // tessera_dtype of q, k, v and o
  int32_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, causal;
  int32_t heads_first;  // 0: tensors are (batch, len, heads, head_dim), 1: (batch, heads, len, head_dim)
  void *q, *k, *v, *o;  // contiguous
  void *workspace, *stream;
};

struct tessera_peer_plan {
  const char* kernel;
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

// The problem of `call`; `sequences` holds what it points to.
tessera_attention_problem ProblemOf(const tessera_peer_call& call, std::vector<tessera_sequence>& sequences) {
  const int64_t dim = call.head_dim;
  const auto tensor = [&](void* data, int64_t heads, int64_t tokens) {
    const int64_t elements = call.batch * heads * tokens * dim;
    const auto dtype = static_cast<tessera_dtype>(call.dtype);
    return call.heads_first != 0 ? tessera_tensor{data, elements, dim, tokens * dim, dtype}
                                 : tessera_tensor{data, elements, heads * dim, dim, dtype};
  };
  sequences.assign(static_cast<size_t>(call.batch), {});
  for (int64_t b = 0; b < call.batch; ++b) {
    tessera_sequence& s = sequences[static_cast<size_t>(b)];
    s.q_begin = b * call.q_len * (call.heads_first != 0 ? call.q_heads : 1);
    s.kv_begin = b * call.kv_len * (call.heads_first != 0 ? call.kv_heads : 1);
    s.q_len = call.q_len;
    s.kv_len = call.kv_len;
    s.diagonal_offset = call.kv_len - call.q_len;
    s.window_left = -1;
    s.window_right = call.causal != 0 ? 0 : -1;
  }
  tessera_attention_problem problem{};
  problem.struct_size = sizeof problem;
  problem.num_q_heads = call.q_heads;
  problem.num_kv_heads = call.kv_heads;
  problem.head_dim_qk = problem.head_dim_v = call.head_dim;
  problem.scale = 1 / std::sqrt(static_cast<float>(dim));
  problem.q = tensor(call.q, call.q_heads, call.q_len);
  problem.k = tensor(call.k, call.kv_heads, call.kv_len);
  problem.v = tensor(call.v, call.kv_heads, call.kv_len);
  problem.o = tensor(call.o, call.q_heads, call.q_len);
  problem.sequences = sequences.data();
  problem.num_sequences = call.batch;
  return problem;
}

}  // namespace

extern "C" {

// Null, or why the call cannot run. Text is valid until the next call.
const char* tessera_peer_make_plan(const tessera_peer_call* call, tessera_peer_plan* plan) {
  Gpu& gpu = TheGpu();
  std::vector<tessera_sequence> sequences;
  const tessera_attention_problem problem = ProblemOf(*call, sequences);
  if (call->standard != 0) {
    if (gpu.blas == nullptr) return gpu.blas_error.c_str();
    const StandardChoice choice = ChooseStandard(problem, gpu.traits);
    gpu.refusal = choice.refusal;
    *plan = {choice.kernel, choice.workspace_bytes};
  } else {
    const FusedChoice choice = ChooseFused(problem, gpu.traits);
    gpu.refusal = choice.refusal;
    *plan = {choice.kernel, choice.workspace_bytes};
  }
  return gpu.refusal.empty() ? nullptr : gpu.refusal.c_str();
}

// Queues the work. Null, or what went wrong.
const char* tessera_peer_attention(const tessera_peer_call* call) {
  Gpu& gpu = TheGpu();
  std::vector<tessera_sequence> sequences;
  const tessera_attention_problem problem = ProblemOf(*call, sequences);
  const auto stream = static_cast<cudaStream_t>(call->stream);
  cudaError_t error = cudaSuccess;
  if (call->standard != 0) {
    if (gpu.blas == nullptr) return gpu.blas_error.c_str();
    const StandardStatus status = StandardAttention(problem, gpu.traits, *gpu.blas, call->workspace, stream);
    if (status.cublas != nullptr) return status.cublas;
    error = status.cuda;
  } else {
    error = FusedAttention(problem, gpu.traits, call->workspace, stream);
  }
  if (error == cudaSuccess) error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // extern "C"
