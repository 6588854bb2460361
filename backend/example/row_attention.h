// Attention of one query row in one pass over its keys, with an online softmax (arXiv:1805.02867).
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "tessera/backend.hpp"

constexpr int kMaxHeadDim = 1024;

// Computes o and lse of (query i, head h) of `sequence`. All sums are in float64.
inline void AttendRow(const tessera_attention_problem& p, const tessera_sequence& sequence, int64_t i,
                      int64_t h) {
  namespace plugin = tessera::plugin;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const int64_t kv_head = h / (p.num_q_heads / p.num_kv_heads);
  const double slope = p.alibi_slopes != nullptr ? p.alibi_slopes[h] : 0;
  const double logit_scale = double{p.scale} * plugin::ScaleOf(p, p.q_scales, sequence, h) *
                             plugin::ScaleOf(p, p.k_scales, sequence, kv_head);
  const double value_scale = plugin::ScaleOf(p, p.v_scales, sequence, kv_head);
  const double sink = p.sinks != nullptr ? p.sinks[h] : -kInfinity;

  std::array<float, kMaxHeadDim> query, row;          // row: a key, a value, at last the output
  std::array<double, kMaxHeadDim> weighted_values{};  // sum of exp(logit - row_max) * v
  plugin::Load(p.q.data, p.q.dtype, plugin::RowIndex(p.q, sequence.q_begin, i, h), p.head_dim_qk,
               query.data());

  // The sink is a key without a value. row_max starts finite, so that exp(-inf - row_max) is 0 and never NaN.
  double row_max = sink > -kInfinity ? sink : std::numeric_limits<double>::lowest();
  double row_sum = sink > -kInfinity ? 1 : 0;  // of exp(logit - row_max)
  const plugin::KeyRange keys = plugin::VisibleKeys(sequence, i);
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const double mask = plugin::MaskValue(p, sequence, h, i, j);
    if (mask == -kInfinity) continue;
    plugin::Load(p.k.data, p.k.dtype, plugin::RowIndex(p.k, sequence.kv_begin, j, kv_head), p.head_dim_qk,
                 row.data());
    double logit = 0;
    for (int d = 0; d < p.head_dim_qk; ++d) logit += double{query[d]} * row[d];
    logit *= logit_scale;
    if (p.softcap > 0) logit = p.softcap * std::tanh(logit / p.softcap);
    if (slope != 0) logit -= slope * std::abs(static_cast<double>(i + sequence.diagonal_offset - j));
    logit += mask;
    if (logit > row_max) {
      const double shrink = std::exp(row_max - logit);
      for (int d = 0; d < p.head_dim_v; ++d) weighted_values[d] *= shrink;
      row_sum *= shrink;
      row_max = logit;
    }
    const double weight = std::exp(logit - row_max);
    row_sum += weight;
    plugin::Load(p.v.data, p.v.dtype, plugin::RowIndex(p.v, sequence.kv_begin, j, kv_head), p.head_dim_v,
                 row.data());
    for (int d = 0; d < p.head_dim_v; ++d) weighted_values[d] += weight * row[d];
  }

  for (int d = 0; d < p.head_dim_v; ++d)
    row[d] = row_sum == 0 ? 0 : static_cast<float>(weighted_values[d] / row_sum * value_scale);
  plugin::Store(row.data(), p.head_dim_v, p.o.data, p.o.dtype, plugin::RowIndex(p.o, sequence.q_begin, i, h));
  if (p.lse.data != nullptr) {
    const int64_t index = (sequence.q_begin + i) * p.lse.token_stride + h * p.lse.head_stride;
    p.lse.data[index] = static_cast<float>(row_max + std::log(row_sum));
  }
}
