// The problems that the CUDA benchmark times, by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/core/attention_problem.h"

namespace tessera::benchmark {

struct Length {
  int64_t q, kv;
};

// Packed sequences, aligned bottom-right.
struct Cell {
  std::string name;  // "d128_causal_s2k"
  int32_t num_q_heads, num_kv_heads, head_dim;
  std::vector<Length> sequences;
  int64_t window_left = -1, window_right = -1;  // as in tessera_sequence
  bool quick = false;                           // stays in a quick run
  bool by_default = true;                       // runs unless named

  bool decodes() const { return sequences.front().q == 1; }
};

// Prefill of 16k tokens at hidden size 2048 (head dims 64, 128, 256; full and causal; 512 ... 16k tokens a
// sequence), the same with 32 query heads over 8 kv heads, ragged batches, a sliding window, decoding, and
// 64k tokens with 4 heads.
std::vector<Cell> AllCells();

// `cell` as a problem without memory: shapes, strides and the sequences, which `sequences` is made to hold.
AttentionProblem ProblemOf(const Cell& cell, DType dtype, std::vector<Sequence>& sequences);

}  // namespace tessera::benchmark
