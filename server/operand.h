// The tensors of a problem by number, for code that treats all of them alike.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "backend/core/attention_problem.h"

namespace tessera {

enum Operand { kQ, kK, kV, kO, kLse, kNumOperands };
inline constexpr std::array<Operand, kNumOperands> kAllOperands = {kQ, kK, kV, kO, kLse};

inline bool IsOutput(Operand operand) { return operand == kO || operand == kLse; }
// Whether its rows are those of keys, and so its heads kv heads.
inline bool IsOfKeys(Operand operand) { return operand == kK || operand == kV; }

// One operand, its element size known. Strides in elements; a row is one token of one head.
struct OperandRef {
  std::byte* data;
  int64_t num_elements, token_stride, head_stride, row_elements, element_bytes;
  int64_t heads;
  bool wanted;  // false: an LSE that nobody asked for

  int64_t bytes() const { return num_elements * element_bytes; }
  // Tokens that the memory covers, the last one perhaps in part.
  int64_t tokens() const { return token_stride > 0 ? (num_elements + token_stride - 1) / token_stride : 0; }
};

inline OperandRef RefOf(const AttentionProblem& p, Operand operand) {
  if (operand == kLse) {
    return {.data = reinterpret_cast<std::byte*>(p.lse.data),
            .num_elements = p.lse.num_elements,
            .token_stride = p.lse.token_stride,
            .head_stride = p.lse.head_stride,
            .row_elements = 1,
            .element_bytes = sizeof(float),
            .heads = p.num_q_heads,
            .wanted = WantsLse(p)};
  }
  const TensorView* const views[] = {&p.q, &p.k, &p.v, &p.o};
  const TensorView& view = *views[operand];
  return {.data = static_cast<std::byte*>(view.data),
          .num_elements = view.num_elements,
          .token_stride = view.token_stride,
          .head_stride = view.head_stride,
          .row_elements = operand == kQ || operand == kK ? p.head_dim_qk : p.head_dim_v,
          .element_bytes = DTypeSize(view.dtype),
          .heads = IsOfKeys(operand) ? p.num_kv_heads : p.num_q_heads,
          .wanted = true};
}

// Points a wanted operand of `problem` to other memory.
inline void SetMemory(AttentionProblem& problem, Operand operand, std::byte* data, int64_t num_elements) {
  if (operand == kLse) {
    problem.lse.data = reinterpret_cast<float*>(data);
    problem.lse.num_elements = num_elements;
    return;
  }
  TensorView* const views[] = {&problem.q, &problem.k, &problem.v, &problem.o};
  views[operand]->data = data;
  views[operand]->num_elements = num_elements;
}

// Bytes from `begin` to before `end` of an operand's memory.
struct ByteRange {
  int64_t begin = 0, end = 0;
  int64_t bytes() const { return end - begin; }
};
using OperandRanges = std::array<ByteRange, kNumOperands>;

}  // namespace tessera
