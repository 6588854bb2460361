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

// What the elements of `sequence` and `head` are multiplied by in the fp8 tensor of `scales`; 1 in others.
inline float ScaleOf(const tessera_attention_problem& problem, const tessera_scales& scales,
                     const tessera_sequence& sequence, int64_t head) {
  if (scales.data == nullptr) return 1.0f;
  return scales.data[(&sequence - problem.sequences) * scales.sequence_stride + head * scales.head_stride];
}

// What fp8 queries of a row are multiplied by: the logits' scale, its sign aside, with the scales of Q and K
// in it, as large as fp32 holds at most. One factor, so that none of its parts overflows by itself.
inline float QueryScaleOf(const tessera_attention_problem& problem, const tessera_sequence& sequence,
                          int64_t head) {
  constexpr double kMost = 3.4028234e38;
  const int64_t kv_head = head / (problem.num_q_heads / problem.num_kv_heads);
  const double scale = __builtin_fabs(static_cast<double>(problem.scale)) *
                       static_cast<double>(ScaleOf(problem, problem.q_scales, sequence, head)) *
                       static_cast<double>(ScaleOf(problem, problem.k_scales, sequence, kv_head));
  return static_cast<float>(scale < kMost ? scale : kMost);
}

// The factor that scales a row's sums to outputs, given the sink if there is one, the scale of V included.
// row_max is in the problem's unit. Writes the row's lse.
inline float FinishRow(const tessera_attention_problem& problem, const tessera_sequence& sequence,
                       int64_t token, int64_t head, float row_max, float row_sum) {
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
  const int64_t kv_head = head / (problem.num_q_heads / problem.num_kv_heads);
  return row_sum == 0.0f ? 0.0f : carry / row_sum * ScaleOf(problem, problem.v_scales, sequence, kv_head);
}

}  // namespace
}  // namespace tessera::kernels::cpu
