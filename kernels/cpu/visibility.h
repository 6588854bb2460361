// Which keys a query sees, and what the dense mask adds: tessera/attention.h put into functions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tessera/attention.h"

namespace tessera::kernels::cpu::standard {

// Keys [begin, end).
struct KeySpan {
  int64_t begin, end;
};

// Keys inside kv_len and the window of query i; empty when begin == end. Validate() bounds offset and
// windows.
inline KeySpan WindowOf(const tessera_sequence& sequence, int64_t i) {
  const int64_t diagonal = i + sequence.diagonal_offset;
  KeySpan span{0, sequence.kv_len};
  if (sequence.window_left >= 0) {
    span.begin = std::clamp(diagonal - sequence.window_left, int64_t{0}, sequence.kv_len);
  }
  if (sequence.window_right >= 0) {
    span.end = std::clamp(diagonal + sequence.window_right + 1, span.begin, sequence.kv_len);
  }
  return span;
}

// Keys that any of the queries [row_begin, row_end) has in its window. Both ends of a window rise with i.
inline KeySpan WindowOfRows(const tessera_sequence& sequence, int64_t row_begin, int64_t row_end) {
  const int64_t begin = WindowOf(sequence, row_begin).begin;
  return {begin, std::max(begin, WindowOf(sequence, row_end - 1).end)};
}

// What the dense mask adds to the logits of keys [key_begin, key_begin + count) of one row; -inf hides a key,
// which a boolean mask's zero becomes. The problem has a mask.
void LoadMaskBias(const tessera_attention_problem& problem, const tessera_sequence& sequence, int32_t q_head,
                  int64_t i, int64_t key_begin, int64_t count, float* bias);

}  // namespace tessera::kernels::cpu::standard
