// Standard attention: the N x N scores are written to memory. Two of them, sharing no code with the fused
// kernels: the oracle in float64, and the honest baseline in fp32 over the machine's BLAS.
//
// Both take any problem that has passed Validate() with fp32, fp16 or bf16 inputs, and every feature of
// tessera/attention.h. A sequence's scores are materialised one (sequence, query head) pair at a time, or
// several small ones together; rows are shared out over the pool in blocks of a fixed height, so that results
// do not depend on the number of workers. A row whose visible logits are all -inf is treated as one with no
// visible key.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/thread_pool.h"
#include "tessera/attention.h"

namespace tessera::kernels::cpu {

// The largest pair's q_len * kv_len scores in float64 (rows padded to 8), or as many small pairs as fit in 32
// MiB, and float64 copies of a block of rows and keys for each worker. Saturates at INT64_MAX.
int64_t OracleWorkspaceBytes(const tessera_attention_problem& problem, int num_workers);

// Every product, sum and exponential in float64 over the inputs as quantised; o and lse rounded once.
// `workspace` has OracleWorkspaceBytes(problem, pool.num_workers()), 64-byte aligned, any content.
void OracleAttention(const tessera_attention_problem& problem, std::byte* workspace, ThreadPool& pool);

// The largest pair's scores in fp32 (rows padded to 16), or as many small pairs as fit in 16 MiB; fp32 copies
// of Q, K and V where they are not fp32; an output block for each worker. Saturates at INT64_MAX.
int64_t UnfusedWorkspaceBytes(const tessera_attention_problem& problem, int num_workers);

// S = QK^T, softmax over rows, O = PV in fp32, as a framework without a fused kernel does it: GEMMs by BLAS,
// rows in parallel, vectorised softmax. `workspace` has UnfusedWorkspaceBytes(problem, pool.num_workers()),
// 64-byte aligned.
void UnfusedAttention(const tessera_attention_problem& problem, const Blas& blas, std::byte* workspace,
                      ThreadPool& pool);

}  // namespace tessera::kernels::cpu
