#include "tests/conformance/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/core/attention_problem.h"
#include "tests/conformance/number_formats.h"

namespace tessera::testing {
namespace {

int64_t MaskIndex(const tessera_sequence& s, int32_t h, int64_t i, int64_t j) {
  return h * s.mask_head_stride + i * s.mask_q_stride + j * s.mask_kv_stride;
}

// Tokens [begin, begin + length) of one head, (length, dim), times their scale.
template <typename Real>
std::vector<Real> ReadHead(const tessera_tensor& t, int64_t begin, int64_t length, int64_t head, int64_t dim,
                           float scale) {
  std::vector<Real> rows;
  rows.reserve(static_cast<size_t>(length * dim));
  for (int64_t token = begin; token < begin + length; ++token) {
    for (int64_t d = 0; d < dim; ++d) {
      rows.push_back(
          static_cast<Real>(ReadElement(t.data, t.dtype, token * t.token_stride + head * t.head_stride + d)) *
          static_cast<Real>(scale));
    }
  }
  return rows;
}

// One query head of one sequence.
template <typename Real>
class Head {
 public:
  Head(const tessera_attention_problem& problem, int64_t n, int32_t h)
      : p_(problem), s_(problem.sequences[n]), h_(h) {
    const int32_t g = h / (p_.num_q_heads / p_.num_kv_heads);
    q_ = ReadHead<Real>(p_.q, s_.q_begin, s_.q_len, h, p_.head_dim_qk, ScaleOf(p_.q_scales, n, h));
    k_ = ReadHead<Real>(p_.k, s_.kv_begin, s_.kv_len, g, p_.head_dim_qk, ScaleOf(p_.k_scales, n, g));
    v_ = ReadHead<Real>(p_.v, s_.kv_begin, s_.kv_len, g, p_.head_dim_v, ScaleOf(p_.v_scales, n, g));
  }

  void ComputeRow(int64_t i, double* o, double& lse, double& row_size) const {
    const std::vector<int64_t> keys = VisibleKeys(i);
    std::vector<Real> x;
    for (int64_t j : keys) x.push_back(Logit(i, j));
    const Real sink = p_.sinks != nullptr ? p_.sinks[h_] : -std::numeric_limits<Real>::infinity();
    Real largest = sink;
    for (Real logit : x) largest = std::max(largest, logit);

    std::fill(o, o + p_.head_dim_v, 0.0);
    lse = sink;
    row_size = 0;
    if (keys.empty()) return;
    Real sum = std::exp(sink - largest);
    for (Real& logit : x) {
      logit = std::exp(logit - largest);
      sum += logit;
    }
    lse = static_cast<double>(largest + std::log(sum));
    WeighValues(keys, x, sum, o, row_size);
  }

  // LogitRounding of row i, whose o and lse are these.
  void ComputeRounding(int64_t i, const double* o, double lse, double& of_o, double& of_lse) const {
    of_o = of_lse = 0;
    for (int64_t j : VisibleKeys(i)) {
      const double weighted = std::exp(static_cast<double>(Logit(i, j)) - lse) * RoundingOfLogit(i, j);
      double distance_squares = 0;
      for (int64_t d = 0; d < p_.head_dim_v; ++d) {
        const double distance = static_cast<double>(v_[static_cast<size_t>(j * p_.head_dim_v + d)]) - o[d];
        distance_squares += distance * distance;
      }
      of_lse += weighted * weighted;
      of_o += weighted * weighted * distance_squares;
    }
    of_o = std::sqrt(of_o);
    of_lse = std::sqrt(of_lse);
  }

 private:
  std::vector<int64_t> VisibleKeys(int64_t i) const {
    std::vector<int64_t> keys;
    for (int64_t j = 0; j < s_.kv_len; ++j) {
      if (IsVisible(p_, s_, h_, i, j)) keys.push_back(j);
    }
    return keys;
  }

  double RoundingOfLogit(int64_t i, int64_t j) const {
    double x = 0, size = 0;
    for (int64_t d = 0; d < p_.head_dim_qk; ++d) {
      const double term = static_cast<double>(q_[static_cast<size_t>(i * p_.head_dim_qk + d)]) *
                          static_cast<double>(k_[static_cast<size_t>(j * p_.head_dim_qk + d)]) * p_.scale;
      x += term;
      size += std::fabs(term);
    }
    const double capped = p_.softcap > 0 ? std::cosh(x / p_.softcap) : 1;
    return UnitRoundoff(TESSERA_DTYPE_FP32) * (size + std::fabs(x)) / (capped * capped);
  }

  Real Logit(int64_t i, int64_t j) const {
    Real x = 0;
    for (int64_t d = 0; d < p_.head_dim_qk; ++d) {
      x += q_[static_cast<size_t>(i * p_.head_dim_qk + d)] * k_[static_cast<size_t>(j * p_.head_dim_qk + d)];
    }
    x *= static_cast<Real>(p_.scale);
    if (p_.softcap > 0) x = static_cast<Real>(p_.softcap) * std::tanh(x / static_cast<Real>(p_.softcap));
    if (p_.alibi_slopes != nullptr) {
      x += -static_cast<Real>(p_.alibi_slopes[h_]) * static_cast<Real>(std::abs(i + s_.diagonal_offset - j));
    }
    if (p_.mask_kind == TESSERA_MASK_ADDITIVE) {
      x += static_cast<Real>(ReadElement(s_.mask, p_.mask_dtype, MaskIndex(s_, h_, i, j)));
    }
    return x;
  }

  void WeighValues(const std::vector<int64_t>& keys, const std::vector<Real>& weights, Real sum, double* o,
                   double& row_size) const {
    const int64_t dim = p_.head_dim_v;
    std::vector<Real> row(static_cast<size_t>(dim), 0);
    double squares = 0;
    for (size_t n = 0; n < keys.size(); ++n) {
      const Real* v = v_.data() + keys[n] * dim;
      double value_squares = 0;
      for (int64_t d = 0; d < dim; ++d) {
        row[static_cast<size_t>(d)] += weights[n] * v[d];
        value_squares += static_cast<double>(v[d]) * static_cast<double>(v[d]);
      }
      const double weight = static_cast<double>(weights[n] / sum);
      squares += weight * weight * value_squares;
    }
    for (int64_t d = 0; d < dim; ++d) o[d] = static_cast<double>(row[static_cast<size_t>(d)] / sum);
    row_size = std::sqrt(squares);
  }

  const tessera_attention_problem& p_;
  const tessera_sequence& s_;
  const int32_t h_;
  std::vector<Real> q_, k_, v_;
};

template <typename Real>
ReferenceResult Compute(const tessera_attention_problem& p) {
  ReferenceResult result;
  result.dim = p.head_dim_v;
  int64_t first_row = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const tessera_sequence& s = p.sequences[n];
    const auto rows = static_cast<size_t>(first_row + s.q_len * p.num_q_heads);
    result.o.resize(rows * static_cast<size_t>(result.dim));
    result.lse.resize(rows);
    result.row_size.resize(rows);
    for (int32_t h = 0; h < p.num_q_heads; ++h) {
      const Head<Real> head(p, n, h);
      for (int64_t i = 0; i < s.q_len; ++i) {
        const auto row = static_cast<size_t>(first_row + i * p.num_q_heads + h);
        head.ComputeRow(i, result.o.data() + row * static_cast<size_t>(result.dim), result.lse[row],
                        result.row_size[row]);
      }
    }
    first_row = static_cast<int64_t>(rows);
  }
  return result;
}

}  // namespace

bool IsVisible(const tessera_attention_problem& problem, const tessera_sequence& s, int32_t h, int64_t i,
               int64_t j) {
  if (j < 0 || j >= s.kv_len) return false;
  if (s.window_left >= 0 && j < i + s.diagonal_offset - s.window_left) return false;
  if (s.window_right >= 0 && j > i + s.diagonal_offset + s.window_right) return false;
  if (problem.mask_kind == TESSERA_MASK_NONE) return true;
  const double mask = ReadElement(s.mask, problem.mask_dtype, MaskIndex(s, h, i, j));
  return problem.mask_kind == TESSERA_MASK_BOOLEAN ? mask != 0
                                                   : mask != -std::numeric_limits<double>::infinity();
}

ReferenceResult ComputeReference(const tessera_attention_problem& problem) {
  return Compute<double>(problem);
}

ReferenceResult ComputeReferenceFp32(const tessera_attention_problem& problem) {
  return Compute<float>(problem);
}

LogitRounding ComputeLogitRounding(const tessera_attention_problem& p, const ReferenceResult& reference) {
  LogitRounding rounding{std::vector<double>(reference.lse.size()),
                         std::vector<double>(reference.lse.size())};
  int64_t first_row = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    for (int32_t h = 0; h < p.num_q_heads; ++h) {
      const Head<double> head(p, n, h);
      for (int64_t i = 0; i < p.sequences[n].q_len; ++i) {
        const auto row = static_cast<size_t>(first_row + i * p.num_q_heads + h);
        head.ComputeRounding(i, reference.o.data() + row * static_cast<size_t>(reference.dim),
                             reference.lse[row], rounding.o[row], rounding.lse[row]);
      }
    }
    first_row += p.sequences[n].q_len * p.num_q_heads;
  }
  return rounding;
}

}  // namespace tessera::testing
