#include "tests/conformance/error_metric.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "tests/conformance/number_formats.h"

namespace tessera::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Outputs fewer than this may all happen to round badly: the bound is the dtype's worst case for them.
constexpr size_t kFewElements = 64;

// Calls body(row, sequence, i, h) for every row, in the reference's order.
template <typename Body>
void ForEachRow(const tessera_attention_problem& p, Body body) {
  int64_t row = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    for (int64_t i = 0; i < p.sequences[n].q_len; ++i) {
      for (int32_t h = 0; h < p.num_q_heads; ++h) body(row++, n, i, h);
    }
  }
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

bool SameKind(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return true;
}

// Goes over the rows of one comparison; stops at the first failure.
class Comparison {
 public:
  Comparison(const tessera_attention_problem& problem, const ReferenceResult& reference,
             const Outputs& actual, const ErrorBounds& bounds)
      : p_(problem), reference_(reference), actual_(actual), bounds_(bounds) {}

  ErrorReport Run() {
    for (int64_t row = 0; row < reference_.rows(); ++row) {
      CompareOutputRow(row);
      if (!actual_.lse.empty()) CompareLse(row);
      if (!report_.failure.empty()) return report_;
    }
    if (reference_squares_ == 0) return report_;
    const double size = std::sqrt(reference_squares_);
    report_.relative = std::sqrt(error_squares_) / size;
    // One row may be most of the error.
    const double slack =
        bounds_.row_slack.empty() ? 0 : *std::max_element(bounds_.row_slack.begin(), bounds_.row_slack.end());
    const double bound = std::max(bounds_.relative, slack / size);
    if (report_.relative > bound) {
      report_.failure = "relative error " + Number(report_.relative) + " exceeds " + Number(bound);
    }
    return report_;
  }

 private:
  void Fail(int64_t row, const std::string& what) { report_.failure = DescribeRow(p_, row) + ": " + what; }

  void CompareOutputRow(int64_t row) {
    double error_squares = 0, reference_squares = 0;
    bool is_finite = true;
    for (int64_t d = 0; d < reference_.dim; ++d) {
      const auto index = static_cast<size_t>(row * reference_.dim + d);
      const double expected = reference_.o[index], actual = actual_.o[index];
      if (!SameKind(expected, actual)) {
        return Fail(row,
                    "o[" + std::to_string(d) + "] is " + Number(actual) + ", expected " + Number(expected));
      }
      if (!std::isfinite(expected)) {
        is_finite = false;
        continue;
      }
      error_squares += (actual - expected) * (actual - expected);
      reference_squares += expected * expected;
    }
    if (reference_squares == 0 && error_squares > 0) return Fail(row, "o must be exactly zero");
    error_squares_ += error_squares;
    reference_squares_ += reference_squares;
    if (!is_finite || reference_squares == 0) return;
    const double size =
        std::max({std::sqrt(reference_squares), reference_.row_size[static_cast<size_t>(row)],
                  SmallestNormal(p_.o.dtype) * std::sqrt(static_cast<double>(reference_.dim))});
    const double error = std::sqrt(error_squares) / size;
    const double bound = bounds_.row + Slack(bounds_.row_slack, row) / size;
    report_.worst_row = std::max(report_.worst_row, error);
    if (error > bound) {
      Fail(row, "relative error " + Number(error) + " of the row exceeds " + Number(bound));
    }
  }

  void CompareLse(int64_t row) {
    if (!report_.failure.empty()) return;
    const double expected = reference_.lse[static_cast<size_t>(row)],
                 actual = actual_.lse[static_cast<size_t>(row)];
    if (std::isnan(expected) && actual == kInfinity) return;
    if (!SameKind(expected, actual)) {
      return Fail(row, "lse is " + Number(actual) + ", expected " + Number(expected));
    }
    if (!std::isfinite(expected)) return;
    const double size = std::max(1.0, std::fabs(expected)), error = std::fabs(actual - expected) / size;
    report_.worst_lse = std::max(report_.worst_lse, error);
    if (error > bounds_.lse + Slack(bounds_.lse_slack, row) / size)
      Fail(row, "lse is " + Number(actual) + ", expected " + Number(expected));
  }

  static double Slack(const std::vector<double>& slack, int64_t row) {
    return slack.empty() ? 0 : slack[static_cast<size_t>(row)];
  }

  const tessera_attention_problem& p_;
  const ReferenceResult& reference_;
  const Outputs& actual_;
  const ErrorBounds& bounds_;
  ErrorReport report_;
  double error_squares_ = 0, reference_squares_ = 0;
};

double RelativeBound(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      return 4e-4;
    case TESSERA_DTYPE_BF16:
      return 3e-3;
    case TESSERA_DTYPE_FP8_E4M3:
      return 3e-2;
    default:
      return 1e-6;
  }
}

// How far the error of so many outputs may stray with inputs of fp8. The three bits of fraction that P has
// make it 2.65e-2 of O, for long rows of unit-normal inputs. That is the root of a quotient of two sums of
// num_outputs squares of normal numbers, each of which strays by sqrt(2 / num_outputs) of itself: so their
// quotient's root by 1 / sqrt(num_outputs). Beyond four times that are some 1 in 30,000
// problems. From 920 outputs on it is within the bound of any number of them.
double ScatterOfFp8(int64_t num_outputs) {
  constexpr double kExpected = 2.65e-2, kDeviations = 4;
  return kExpected * (1 + kDeviations / std::sqrt(static_cast<double>(std::max<int64_t>(num_outputs, 1))));
}

}  // namespace

Outputs ReadOutputs(const tessera_attention_problem& p) {
  Outputs outputs;
  ForEachRow(p, [&](int64_t, int64_t n, int64_t i, int32_t h) {
    const int64_t token = p.sequences[n].q_begin + i;
    for (int64_t d = 0; d < p.head_dim_v; ++d) {
      outputs.o.push_back(
          ReadElement(p.o.data, p.o.dtype, token * p.o.token_stride + h * p.o.head_stride + d));
    }
    if (p.lse.data != nullptr) {
      outputs.lse.push_back(p.lse.data[token * p.lse.token_stride + h * p.lse.head_stride]);
    }
  });
  return outputs;
}

std::string DescribeRow(const tessera_attention_problem& p, int64_t row) {
  std::string text = "row " + std::to_string(row);
  ForEachRow(p, [&](int64_t index, int64_t n, int64_t i, int32_t h) {
    if (index != row) return;
    text = "sequence " + std::to_string(n) + ", query " + std::to_string(i) + ", head " + std::to_string(h);
  });
  return text;
}

ErrorBounds BoundsFor(tessera_dtype input, tessera_dtype output, int64_t num_outputs) {
  const double relative = std::max(RelativeBound(input), RelativeBound(output));
  const double scattered = input == TESSERA_DTYPE_FP8_E4M3 ? ScatterOfFp8(num_outputs) : 0;
  // The tensor cores of compute capability 9.0 sum fp8 products with fewer bits than fp32 has: logits of fp8,
  // and so the LSE, are off by some 2^-12 of the largest term. e^0.01 is within what O may be off.
  const double lse = input == TESSERA_DTYPE_FP8_E4M3 ? 1e-2 : 1e-5;
  return {.relative = std::max(relative, scattered), .row = 5 * relative, .lse = lse};
}

ErrorBounds WidenToFp32(const tessera_attention_problem& problem, const ReferenceResult& reference,
                        ErrorBounds bounds) {
  constexpr double kRoundings = 4;
  const ReferenceResult fp32 = ComputeReferenceFp32(problem);
  const ErrorBounds none{.relative = kInfinity, .row = kInfinity, .lse = kInfinity};
  const ErrorReport report = CompareOutputs(problem, reference, {.o = fp32.o, .lse = fp32.lse}, none);
  LogitRounding rounding = ComputeLogitRounding(problem, reference);
  for (std::vector<double>* slack : {&rounding.o, &rounding.lse}) {
    for (double& of_row : *slack) of_row = std::isfinite(of_row) ? kRoundings * of_row : 0;
  }
  bounds.relative = std::max(bounds.relative, 2 * report.relative);
  bounds.row = std::max(bounds.row, 5 * bounds.relative);
  bounds.row_slack = std::move(rounding.o);
  bounds.lse_slack = std::move(rounding.lse);
  return bounds;
}

ErrorReport CompareOutputs(const tessera_attention_problem& problem, const ReferenceResult& reference,
                           const Outputs& actual, const ErrorBounds& bounds) {
  if (actual.o.size() != reference.o.size()) return {.failure = "o has another number of elements"};
  ErrorBounds effective = bounds;
  if (actual.o.size() < kFewElements) {
    effective.relative = std::max(effective.relative, UnitRoundoff(problem.o.dtype));
    effective.row = std::max(effective.row, effective.relative);
  }
  return Comparison(problem, reference, actual, effective).Run();
}

}  // namespace tessera::testing
