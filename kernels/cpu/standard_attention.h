// Standard attention: the N x N scores are written to memory. Two of them, sharing no code with the fused kernels:
// the oracle in float64, and the honest baseline in fp32 over the machine's BLAS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"
#include "tessera/attention.h"

namespace tessera::kernels::cpu {

// Scores of one (sequence, head) pair at a time and worker, in float64: q_len * kv_len * 8 bytes for each worker in use.
int64_t OracleWorkspaceBytes(const tessera_attention_problem& problem, int num_workers);
// Every product, sum and exponential in float64 over the inputs as quantised; o and lse rounded once.
void OracleAttention(const tessera_attention_problem& problem, std::byte* workspace, ThreadPool& pool);

// C BLAS, opened at run time (libopenblas.so.0, else libblas.so.3 with its cblas symbols).
class Blas {
 public:
  // nullptr, and the reason in *error, when none can be opened.
  static const Blas* Get(const char** error);
  const char* name() const { return name_; }  // the library that was opened, and its version where it says
  // C (m, n) = alpha * A (m, k) * op(B) + beta * C, row-major with leading dimensions; single-threaded per call.
  void Sgemm(bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
             int64_t ldb, float beta, float* c, int64_t ldc) const;

 private:
  Blas() = default;
  const char* name_ = nullptr;
  void* sgemm_ = nullptr;
};

// S = QK^T, softmax over rows, O = PV with the whole fp32 score matrix of a (sequence, head) pair in memory, as a
// framework without a fused kernel does it: GEMMs by BLAS over row blocks in parallel, vectorised softmax.
int64_t UnfusedWorkspaceBytes(const tessera_attention_problem& problem, int num_workers);
void UnfusedAttention(const tessera_attention_problem& problem, const Blas& blas, std::byte* workspace, ThreadPool& pool);

}  // namespace tessera::kernels::cpu
