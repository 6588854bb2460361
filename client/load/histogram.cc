#include "client/load/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tessera::load {
namespace {

constexpr int64_t kHalf = int64_t{1} << Histogram::kPrecisionBits;  // buckets of one power of two
constexpr int64_t kLinear = 2 * kHalf;                              // values below have a bucket each

size_t IndexOf(int64_t value) {
  if (value < kLinear) return static_cast<size_t>(value);
  const int shift = std::bit_width(static_cast<uint64_t>(value)) - (Histogram::kPrecisionBits + 1);
  return static_cast<size_t>(kLinear + (shift - 1) * kHalf + (value >> shift) - kHalf);
}

int64_t HighOf(size_t index) {
  const auto i = static_cast<int64_t>(index);
  if (i < kLinear) return i;
  const int64_t shift = (i - kLinear) / kHalf + 1;
  const int64_t top = (i - kLinear) % kHalf + kHalf;
  return ((top + 1) << shift) - 1;
}

}  // namespace

Histogram::Histogram() : counts_(IndexOf(kLongest) + 1) {}

void Histogram::Record(int64_t nanoseconds) noexcept {
  const int64_t value = std::max<int64_t>(nanoseconds, 0);
  ++counts_[IndexOf(std::min(value, kLongest))];
  ++count_;
  max_ = std::max(max_, value);
  min_ = std::min(min_, value);
  sum_ += static_cast<double>(value);
}

void Histogram::Merge(const Histogram& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  max_ = std::max(max_, other.max_);
  min_ = std::min(min_, other.min_);
  sum_ += other.sum_;
}

double Histogram::Mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

int64_t Histogram::Percentile(double percent) const {
  if (count_ == 0) return 0;
  const double share = std::clamp(percent, 0.0, 100.0) / 100;
  // A product that should be whole can come out a little above it, which must not ask for one value more.
  const double wanted = std::ceil(share * static_cast<double>(count_) * (1 - 1e-14));
  const int64_t rank = std::clamp<int64_t>(static_cast<int64_t>(wanted), 1, count_);
  int64_t seen = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    // The last bucket also holds what is longer than it can tell.
    if (seen >= rank) return i + 1 == counts_.size() ? max_ : std::min(HighOf(i), max_);
  }
  return max_;
}

std::vector<Histogram::Bucket> Histogram::Buckets() const {
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] > 0) buckets.push_back({std::min(HighOf(i), max_), counts_[i]});
  }
  return buckets;
}

}  // namespace tessera::load
