#include "client/cli/accuracy.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/numbers.h"

namespace tessera::client {
namespace {

constexpr int64_t kFewElements = 64;

double UsualBound(DType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FP32:
      return 1e-6;
    case v1::DATA_TYPE_FP16:
      return 4e-4;
    case v1::DATA_TYPE_BF16:
      return 3e-3;
    default:
      return 3e-2;  // fp8
  }
}

// Both NaN, or the same infinity, or both finite.
bool SameKind(float actual, float reference) {
  if (std::isfinite(reference)) return std::isfinite(actual);
  return std::isnan(reference) ? std::isnan(actual) : actual == reference;
}

// Below this a type has fewer digits, until it has none: what a row can be off by does not shrink with it.
double SmallestNormal(DType dtype) { return dtype == v1::DATA_TYPE_FP16 ? 0x1p-14 : 0x1p-126; }

std::string ShapeDefect(const char* name, const Tensor& actual, const Tensor& reference) {
  if (actual.shape == reference.shape) return "";
  return absl::StrCat(name, " has shape ", ShapeString(actual.shape), ", expected ",
                      ShapeString(reference.shape));
}

std::string ElementDefect(const char* name, size_t index, float actual, float reference) {
  return absl::StrFormat("%s element %d is %g, expected %g", name, index, actual, reference);
}

void CompareOutput(const Tensor& actual, const Tensor& reference, Accuracy& accuracy) {
  accuracy.defect = ShapeDefect("output", actual, reference);
  if (!accuracy.defect.empty() || reference.shape.empty()) return;
  const std::vector<float> a = ToFloats(actual), r = ToFloats(reference);
  for (size_t i = 0; i < r.size(); ++i) {
    if (!SameKind(a[i], r[i])) {
      accuracy.defect = ElementDefect("output", i, a[i], r[i]);
      return;
    }
  }
  double total_error = 0, total = 0;
  const auto width = static_cast<size_t>(reference.shape.back());
  const double smallest_row = SmallestNormal(actual.dtype) * std::sqrt(static_cast<double>(width));
  for (size_t row = 0; row + width <= r.size() && width > 0; row += width) {
    double row_error = 0, row_total = 0;
    for (size_t i = row; i < row + width; ++i) {
      if (!std::isfinite(r[i])) continue;  // equal to a[i], as checked
      const double difference = double{a[i]} - double{r[i]};
      row_error += difference * difference;
      row_total += double{r[i]} * double{r[i]};
    }
    total_error += row_error;
    total += row_total;
    if (row_total > 0) {
      const double row_size = std::max(std::sqrt(row_total), smallest_row);
      accuracy.worst_row = std::max(accuracy.worst_row, std::sqrt(row_error) / row_size);
    } else if (row_error > 0) {
      accuracy.defect = absl::StrCat("output row ", row / width, " is not zero, and it should be");
      return;
    }
  }
  if (total > 0) {
    accuracy.relative = std::sqrt(total_error) / std::max(std::sqrt(total), smallest_row);
  }
}

void CompareLse(const Tensor& actual, const Tensor& reference, Accuracy& accuracy) {
  accuracy.defect = ShapeDefect("lse", actual, reference);
  if (!accuracy.defect.empty()) return;
  const std::vector<float> a = ToFloats(actual), r = ToFloats(reference);
  for (size_t i = 0; i < r.size(); ++i) {
    if (!SameKind(a[i], r[i])) {
      accuracy.defect = ElementDefect("lse", i, a[i], r[i]);
      return;
    }
    if (!std::isfinite(r[i])) continue;
    const double difference = std::abs(double{a[i]} - double{r[i]});
    accuracy.lse = std::max(accuracy.lse, difference / std::max(1.0, std::abs(double{r[i]})));
  }
}

}  // namespace

void Accuracy::Merge(const Accuracy& other) {
  relative = std::max(relative, other.relative);
  worst_row = std::max(worst_row, other.worst_row);
  lse = std::max(lse, other.lse);
  if (defect.empty()) defect = other.defect;
}

Accuracy Compare(const AttendResult& actual, const AttendResult& reference) {
  Accuracy accuracy;
  CompareOutput(actual.output, reference.output, accuracy);
  if (accuracy.defect.empty() && actual.lse && reference.lse)
    CompareLse(*actual.lse, *reference.lse, accuracy);
  return accuracy;
}

Bounds BoundsOf(DType dtype, int64_t elements) {
  const double relative = UsualBound(dtype);
  // Tensor cores sum fp8 products with fewer bits than fp32 has.
  const double lse = dtype == v1::DATA_TYPE_FP8_E4M3 ? 1e-2 : 1e-5;
  return {elements < kFewElements ? 2 * relative : relative, 5 * relative, lse};
}

DType LessPrecise(DType a, DType b) { return UsualBound(a) > UsualBound(b) ? a : b; }

std::string Violation(const Accuracy& accuracy, const Bounds& bounds) {
  if (!accuracy.defect.empty()) return accuracy.defect;
  if (accuracy.relative > bounds.relative) {
    return absl::StrFormat("relative error %.2e, allowed %.0e", accuracy.relative, bounds.relative);
  }
  if (accuracy.worst_row > bounds.worst_row) {
    return absl::StrFormat("error of the worst row %.2e, allowed %.0e", accuracy.worst_row, bounds.worst_row);
  }
  if (accuracy.lse > bounds.lse) {
    return absl::StrFormat("LSE error %.2e, allowed %.0e", accuracy.lse, bounds.lse);
  }
  return "";
}

}  // namespace tessera::client
