// A small valid problem with memory behind it, for tests to use or to spoil.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/core/attention_problem.h"

namespace tessera::testing {

struct Lengths {
  int64_t q_len, kv_len;
};

struct Shape {
  int32_t q_heads = 4, kv_heads = 2;
  int32_t head_dim_qk = 8, head_dim_v = 4;
  std::vector<Lengths> sequences = {{3, 5}, {2, 7}};
  DType dtype = TESSERA_DTYPE_FP32;
  bool lse = true;
  bool causal = false;
  bool memory = true;  // false: shapes only, data pointers are null
};

// Packed layout, all tensors contiguous, all elements zero. Not copyable: the problem points into it.
class TestProblem {
 public:
  TestProblem() : TestProblem(Shape{}) {}

  explicit TestProblem(const Shape& shape) : has_memory_(shape.memory) {
    int64_t q_tokens = 0, kv_tokens = 0;
    for (const auto& [q_len, kv_len] : shape.sequences) {
      sequences.push_back({.q_begin = q_tokens,
                           .q_len = q_len,
                           .kv_begin = kv_tokens,
                           .kv_len = kv_len,
                           .diagonal_offset = kv_len - q_len,
                           .window_left = -1,
                           .window_right = shape.causal ? 0 : -1});
      q_tokens += q_len;
      kv_tokens += kv_len;
    }
    problem.struct_size = sizeof(problem);
    problem.num_q_heads = shape.q_heads;
    problem.num_kv_heads = shape.kv_heads;
    problem.head_dim_qk = shape.head_dim_qk;
    problem.head_dim_v = shape.head_dim_v;
    problem.scale = 0.5f;
    problem.q = Tensor(q_tokens, shape.q_heads, shape.head_dim_qk, shape.dtype);
    problem.k = Tensor(kv_tokens, shape.kv_heads, shape.head_dim_qk, shape.dtype);
    problem.v = Tensor(kv_tokens, shape.kv_heads, shape.head_dim_v, shape.dtype);
    problem.o = Tensor(q_tokens, shape.q_heads, shape.head_dim_v, shape.dtype);
    if (shape.lse) {
      const TensorView lse = Tensor(q_tokens, shape.q_heads, 1, TESSERA_DTYPE_FP32);
      problem.lse = {static_cast<float*>(lse.data), lse.num_elements, lse.token_stride, lse.head_stride};
    }
    problem.sequences = sequences.data();
    problem.num_sequences = static_cast<int64_t>(sequences.size());
  }

  TestProblem(const TestProblem&) = delete;
  TestProblem& operator=(const TestProblem&) = delete;

  // A boolean mask of (q_heads, q_len, kv_len) for every sequence.
  void AddBooleanMask() {
    problem.mask_kind = TESSERA_MASK_BOOLEAN;
    problem.mask_dtype = TESSERA_DTYPE_BOOL;
    for (Sequence& s : sequences) {
      s.mask = Memory(problem.num_q_heads * s.q_len * s.kv_len);
      s.mask_head_stride = s.q_len * s.kv_len;
      s.mask_q_stride = s.kv_len;
      s.mask_kv_stride = 1;
    }
  }

  AttentionProblem problem{};
  std::vector<Sequence> sequences;  // what problem.sequences points to

 private:
  TensorView Tensor(int64_t tokens, int64_t heads, int64_t dim, DType dtype) {
    const int64_t elements = tokens * heads * dim;
    return {Memory(elements * DTypeSize(dtype)), elements, heads * dim, dim, dtype};
  }

  void* Memory(int64_t bytes) {
    if (!has_memory_) return nullptr;
    memory_.emplace_back(static_cast<size_t>(bytes) / sizeof(double) + 1);
    return memory_.back().data();
  }

  const bool has_memory_;
  std::vector<std::vector<double>> memory_;  // double: aligned for every dtype
};

}  // namespace tessera::testing
