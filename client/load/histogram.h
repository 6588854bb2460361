// Latencies with three significant digits at a fixed cost: the layout of HdrHistogram (Gil Tene), a linear
// scale within each power of two.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera::load {

// Of nanoseconds. One writer; merged when it has stopped.
class Histogram {
 public:
  // A recorded value is at most 1/1024 below the highest value of its bucket.
  static constexpr int kPrecisionBits = 10;
  // Longer ones (73 minutes) count as this long; max() keeps the true value.
  static constexpr int64_t kLongest = (int64_t{1} << 42) - 1;

  struct Bucket {
    int64_t high;  // the largest value that falls into it
    int64_t count;
  };

  Histogram();

  // Values below 0 count as 0.
  void Record(int64_t nanoseconds) noexcept;
  void Merge(const Histogram& other);

  int64_t count() const { return count_; }
  int64_t max() const { return max_; }
  int64_t min() const { return count_ == 0 ? 0 : min_; }
  double Mean() const;
  // The least value that `percent` of all values do not exceed, rounded up to its bucket's end but never past
  // max(); 0 when empty. `percent` in [0, 100].
  int64_t Percentile(double percent) const;
  // Those that are not empty, in ascending order.
  std::vector<Bucket> Buckets() const;

 private:
  std::vector<int64_t> counts_;
  int64_t count_ = 0, max_ = 0, min_ = INT64_MAX;
  double sum_ = 0;
};

}  // namespace tessera::load
