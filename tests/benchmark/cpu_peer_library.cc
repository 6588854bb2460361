// A C entry to the fused CPU kernel, so that cpu_peers.py can time it in the process that times PyTorch.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/cpu/fused_attention.h"

using namespace tessera::kernels::cpu;  // NOLINT: this file is an adapter and defines nothing else

namespace {

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};

// One at a time: the caller is a single-threaded script.
struct Runner {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<std::byte, Free> workspace;
  int64_t workspace_bytes = 0;
};

Runner& TheRunner() {
  static Runner runner;
  return runner;
}

}  // namespace

extern "C" {

struct tessera_peer_call {
  int32_t dtype;  // tessera_dtype of q, k, v and o
  int32_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, causal;
  int32_t threads, tile_q, tile_kv, num_splits;  // 0: the kernel's choice
  const char* isa;                               // null: the best
  void *q, *k, *v, *o;                           // (batch, heads, len, head_dim), contiguous
  float* lse;                                    // (batch, heads, len), or null
};

// Returns the kernel's name, or null when the instruction set cannot be used here.
const char* tessera_peer_attention(const tessera_peer_call* call) {
  FusedConfig config;
  config.isa = BestIsa();
  if (call->isa != nullptr && (!ParseIsa(call->isa, &config.isa) || !IsaUsable(config.isa))) return nullptr;
  Runner& runner = TheRunner();
  if (!runner.pool || (call->threads > 0 && runner.pool->num_workers() != call->threads)) {
    runner.pool = std::make_unique<ThreadPool>(call->threads);
  }
  config.tile_q = call->tile_q;
  config.tile_kv = call->tile_kv;
  config.num_splits = call->num_splits;
  config.num_workers = runner.pool->num_workers();

  const int64_t dim = call->head_dim, q_tokens = call->q_len, kv_tokens = call->kv_len;
  auto tensor = [&](void* data, int64_t heads, int64_t tokens) {
    return tessera_tensor{data, call->batch * heads * tokens * dim, dim, tokens * dim,
                          static_cast<tessera_dtype>(call->dtype)};
  };
  std::unique_ptr<tessera_sequence[]> sequences(new tessera_sequence[call->batch]());
  for (int64_t b = 0; b < call->batch; ++b) {
    sequences[b].q_begin = b * call->q_heads * q_tokens;
    sequences[b].kv_begin = b * call->kv_heads * kv_tokens;
    sequences[b].q_len = q_tokens;
    sequences[b].kv_len = kv_tokens;
    sequences[b].window_left = -1;
    sequences[b].window_right = call->causal ? 0 : -1;
  }
  tessera_attention_problem problem{};
  problem.struct_size = sizeof problem;
  problem.num_q_heads = call->q_heads;
  problem.num_kv_heads = call->kv_heads;
  problem.head_dim_qk = problem.head_dim_v = call->head_dim;
  problem.scale = 1.0f / __builtin_sqrtf(static_cast<float>(dim));
  problem.q = tensor(call->q, call->q_heads, q_tokens);
  problem.k = tensor(call->k, call->kv_heads, kv_tokens);
  problem.v = tensor(call->v, call->kv_heads, kv_tokens);
  problem.o = tensor(call->o, call->q_heads, q_tokens);
  if (call->lse != nullptr) problem.lse = {call->lse, call->batch * call->q_heads * q_tokens, 1, q_tokens};
  problem.sequences = sequences.get();
  problem.num_sequences = call->batch;

  const int64_t bytes = (FusedWorkspaceBytes(problem, config) + 63) / 64 * 64;
  if (bytes > runner.workspace_bytes) {
    runner.workspace.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
    runner.workspace_bytes = bytes;
  }
  FusedAttention(problem, config, runner.workspace.get(), *runner.pool);
  return FusedKernelName(config.isa, problem.q.dtype);
}

}  // extern "C"
