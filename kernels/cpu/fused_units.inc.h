// In what unit the online softmax counts logits, and what is left to do for a row once all its keys have been
// seen: what the schedule, which merges splits, shares with the kernels. In an unnamed namespace: each
// instruction set has its own copy.
#pragma once

#include "tessera/attention.h"

namespace tessera::kernels::cpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kInfinity = __builtin_inff();

// Soft-cap, ALiBi or a dense mask. Without them logits are counted to base 2, so that scale and exponent take
// one multiplication. With them logits are natural, for they may be as large as fp32 holds: the lowest finite
// value, the usual bias of a hidden key, would become -inf when multiplied by log2 e.
inline bool HasLogitFeatures(const tessera_attention_problem& problem) {
  return problem.softcap != 0 || problem.alibi_slopes != nullptr || problem.mask_kind != TESSERA_MASK_NONE;
}

// The factor that scales a row's sums to outputs, given the sink if there is one. row_max is in the problem's
// unit. Writes the row's lse.
inline float FinishRow(const tessera_attention_problem& problem, int64_t token, int64_t head, float row_max,
                       float row_sum) {
  float max = HasLogitFeatures(problem) ? row_max : row_max * kLn2;
  float carry = 1.0f;
  if (problem.sinks != nullptr && problem.sinks[head] > -kInfinity) {
    const float sink = problem.sinks[head], keys_max = max;
    max = keys_max > sink ? keys_max : sink;
    carry = __builtin_expf(keys_max - max);
    row_sum = row_sum * carry + __builtin_expf(sink - max);
  }
  if (problem.lse.data != nullptr) {
    problem.lse.data[token * problem.lse.token_stride + head * problem.lse.head_stride] =
        row_sum == 0.0f ? -kInfinity : max + __builtin_logf(row_sum);
  }
  return row_sum == 0.0f ? 0.0f : carry / row_sum;
}

}  // namespace
}  // namespace tessera::kernels::cpu
