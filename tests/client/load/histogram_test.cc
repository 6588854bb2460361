#include "client/load/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/cli/random.h"

namespace tessera::load {
namespace {

TEST(HistogramTest, KeepsSmallValuesExactly) {
  Histogram histogram;
  for (int64_t value = 1; value <= 100; ++value) histogram.Record(value);
  EXPECT_EQ(histogram.count(), 100);
  EXPECT_EQ(histogram.Percentile(0), 1);
  EXPECT_EQ(histogram.Percentile(50), 50);
  EXPECT_EQ(histogram.Percentile(99), 99);
  EXPECT_EQ(histogram.Percentile(99.9), 100);
  EXPECT_EQ(histogram.Percentile(100), 100);
  EXPECT_EQ(histogram.Mean(), 50.5);
}

TEST(HistogramTest, IsEmptyAtFirst) {
  const Histogram histogram;
  EXPECT_EQ(histogram.Percentile(99), 0);
  EXPECT_EQ(histogram.max(), 0);
  EXPECT_EQ(histogram.min(), 0);
  EXPECT_EQ(histogram.Mean(), 0);
  EXPECT_TRUE(histogram.Buckets().empty());
}

// Against the sorted values themselves, over nine decades.
TEST(HistogramTest, PercentilesAreWithinAThousandth) {
  client::Random random(3);
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(static_cast<int64_t>(std::pow(10.0, 9 * random.Uniform())));
    histogram.Record(values.back());
  }
  std::sort(values.begin(), values.end());
  for (double percent : {1.0, 50.0, 90.0, 99.0, 99.9, 100.0}) {
    const auto rank =
        static_cast<size_t>(std::ceil(percent * static_cast<double>(values.size() / 100) - 1e-6));
    const int64_t expected = values[rank - 1];
    EXPECT_GE(histogram.Percentile(percent), expected) << percent;
    EXPECT_LE(static_cast<double>(histogram.Percentile(percent)), static_cast<double>(expected) * 1.001 + 1)
        << percent;
  }
}

TEST(HistogramTest, TakesTheLongestAndTheNegative) {
  Histogram histogram;
  histogram.Record(-5);
  histogram.Record(INT64_MAX);
  EXPECT_EQ(histogram.min(), 0);
  EXPECT_EQ(histogram.max(), INT64_MAX);
  EXPECT_EQ(histogram.Percentile(50), 0);
  EXPECT_EQ(histogram.Percentile(100), INT64_MAX);
}

TEST(HistogramTest, MergeIsRecordingBoth) {
  Histogram a, b, both;
  for (int64_t value : {5, 70'000, 3'000'000}) {
    a.Record(value);
    both.Record(value);
  }
  for (int64_t value : {9, 80'000'000}) {
    b.Record(value);
    both.Record(value);
  }
  a.Merge(b);
  EXPECT_EQ(a.count(), 5);
  EXPECT_EQ(a.max(), 80'000'000);
  EXPECT_EQ(a.min(), 5);
  EXPECT_EQ(a.Mean(), both.Mean());
  for (double percent : {20.0, 60.0, 99.0}) EXPECT_EQ(a.Percentile(percent), both.Percentile(percent));
  EXPECT_EQ(a.Buckets().size(), 5u);
}

}  // namespace
}  // namespace tessera::load
