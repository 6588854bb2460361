// Shapes of a batch without memory behind them, and what a launch on it would carry.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {

// bf16, contiguous (token, head, dim) tensors, sequences behind one another.
struct CudaBatch {
  tessera_attention_problem problem{};
  std::vector<tessera_sequence> sequences;

  CudaBatch(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim = 128) {
    problem.struct_size = sizeof problem;
    problem.num_q_heads = num_q_heads;
    problem.num_kv_heads = num_kv_heads;
    problem.head_dim_qk = problem.head_dim_v = head_dim;
    problem.scale = 0.1f;
    for (tessera_tensor* t : {&problem.q, &problem.k, &problem.v, &problem.o}) {
      const bool is_query = t == &problem.q || t == &problem.o;
      t->dtype = TESSERA_DTYPE_BF16;
      t->head_stride = head_dim;
      t->token_stride = int64_t{head_dim} * (is_query ? num_q_heads : num_kv_heads);
    }
  }

  CudaBatch(CudaBatch&&) = default;  // not copied: problem points to sequences
  CudaBatch& operator=(CudaBatch&&) = default;

  void Add(int64_t q_len, int64_t kv_len) {
    tessera_sequence s{};
    if (!sequences.empty()) {
      s.q_begin = sequences.back().q_begin + sequences.back().q_len;
      s.kv_begin = sequences.back().kv_begin + sequences.back().kv_len;
    }
    s.q_len = q_len;
    s.kv_len = kv_len;
    s.window_left = s.window_right = -1;
    sequences.push_back(s);
    problem.sequences = sequences.data();
    problem.num_sequences = static_cast<int64_t>(sequences.size());
  }
};

// A device problem that host code may read.
struct HostLaunch {
  DeviceProblem problem;
  std::vector<std::byte> tables;

  HostLaunch(const CudaBatch& batch, const RowTiling& tiling, int64_t l2_bytes)
      : tables(FillDeviceProblem(batch.problem, tiling, l2_bytes, &problem)) {
    if (!tables.empty()) problem.tables = tables.data();
  }
};

}  // namespace tessera::kernels::cuda
