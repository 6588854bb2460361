// What is counted, and what counting costs.
#include "server/metrics.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backend/core/error.h"
#include "gtest/gtest.h"
#include "tests/backend/fake_backend.h"
#include "tests/backend/fake_device.h"

namespace tessera {
namespace {

using testing::AbleInfo;
using testing::FakeBackend;
using testing::FakeDevice;

class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest() : device_(registry_.AddDevice(std::make_unique<FakeDevice>())) {
    EXPECT_TRUE(registry_.Add(std::make_unique<FakeBackend>(AbleInfo("first", 2), device_)).ok());
    EXPECT_TRUE(registry_.Add(std::make_unique<FakeBackend>(AbleInfo("second", 1), device_)).ok());
  }

  // A request that computed for 2 ms, in a launch with another.
  RequestRecord Computed(const char* backend) {
    RequestRecord record{.method = Method::kAttend, .backend = *registry_.Find(backend), .computed = true};
    record.ledger.memory.input = 100;
    record.ledger.memory.output = 10;
    record.ledger.memory.host_copies_in_bytes = 200;
    record.ledger.memory.workspace_peak = 4096;
    record.ledger.traffic.hbm_read = 300;
    record.ledger.time = {.queue = 10, .transfer_in = 20, .compute = 2000, .transfer_out = 30, .total = 2100};
    record.ledger.choice.batch_requests = 2;
    record.ledger.choice.batch_sequences = 5;
    record.ledger.flops = 1000;
    return record;
  }

  const BackendMetrics& Of(const Metrics& metrics, const std::string& name) {
    const auto& all = metrics.backends();
    return **std::find_if(all.begin(), all.end(), [&](const auto& each) { return each->name == name; });
  }

  static uint64_t Sum(const std::vector<uint64_t>& counts) {
    uint64_t sum = 0;
    for (const uint64_t count : counts) sum += count;
    return sum;
  }

  BackendRegistry registry_;
  Device& device_;
};

TEST_F(MetricsTest, CountsRequestsAndLaunchesApart) {
  Metrics metrics(registry_);
  RequestRecord leader = Computed("second");
  leader.leads_launch = true;
  metrics.CountRequest(leader, absl::OkStatus());
  metrics.CountRequest(Computed("second"), absl::CancelledError("gone"));
  const BackendMetrics& second = Of(metrics, "second");
  const auto& attend = second.requests[static_cast<size_t>(Method::kAttend)];
  EXPECT_EQ(attend[static_cast<size_t>(absl::StatusCode::kOk)], 1u);
  EXPECT_EQ(attend[static_cast<size_t>(absl::StatusCode::kCancelled)], 1u);
  EXPECT_EQ(Sum(second.phases[kTotal].counts()), 2u) << "both were computed";
  EXPECT_EQ(Sum(second.batch_requests.counts()), 1u) << "in one launch";
  EXPECT_DOUBLE_EQ(second.batch_sequences.sum(), 5);
  EXPECT_DOUBLE_EQ(second.compute_seconds, 0.002);
  EXPECT_DOUBLE_EQ(second.flops, 2000);
  EXPECT_DOUBLE_EQ(second.hbm_read, 600);
  EXPECT_EQ(second.workspace_peak, 4096);
  EXPECT_EQ(metrics.copies().payload_in, 200);
  EXPECT_EQ(metrics.copies().host_in, 400);
  EXPECT_EQ(Sum(Of(metrics, "first").phases[kTotal].counts()), 0u);
  EXPECT_TRUE(metrics.rejections().empty()) << "nobody read the cancelled one's answer";
}

TEST_F(MetricsTest, CountsRejectionsByReasonAndBoundsTheirNumber) {
  Metrics metrics(registry_);
  metrics.CountRequest({}, InvalidArgument("BAD_SHAPE", "q", "one", "other"));
  metrics.CountRequest({}, absl::InternalError("no detail"));
  EXPECT_EQ(metrics.rejections(), (std::map<std::string, uint64_t>{{"BAD_SHAPE", 1}, {"INTERNAL", 1}}));
  for (int i = 0; i < 1000; ++i) {
    metrics.CountRequest({}, InvalidArgument("REASON_" + std::to_string(i), "q", "one", "other"));
  }
  EXPECT_LE(metrics.rejections().size(), 101u);
  EXPECT_EQ(metrics.rejections().at("BAD_SHAPE"), 1u);
  EXPECT_GT(metrics.rejections().at("OTHER"), 800u);
}

TEST_F(MetricsTest, PutsObservationsIntoTheirBuckets) {
  constexpr double kBounds[] = {1, 2.5};
  Histogram histogram(kBounds);
  for (const double value : {0.0, 1.0, 1.1, 2.5, 2.6, 1e9}) histogram.Observe(value);
  EXPECT_EQ(histogram.counts(), (std::vector<uint64_t>{2, 2, 2}));
  EXPECT_DOUBLE_EQ(histogram.sum(), 1e9 + 7.2);
}

TEST_F(MetricsTest, LosesNothingBetweenThreads) {
  Metrics metrics(registry_);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) metrics.CountRequest(Computed("first"), absl::OkStatus());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const BackendMetrics& first = Of(metrics, "first");
  EXPECT_EQ(first.requests[0][0], 20000u);
  EXPECT_EQ(Sum(first.phases[kCompute].counts()), 20000u);
  EXPECT_DOUBLE_EQ(first.flops, 20e6);
}

double ThreadCpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

TEST_F(MetricsTest, CostsLessThanAMicrosecondARequest) {
  Metrics metrics(registry_);
  RequestRecord record = Computed("second");
  record.leads_launch = true;
  constexpr int kRequests = 2000;
  double best = 1;
  for (int round = 0; round < 50; ++round) {  // the best one had the processor to itself
    const double begin = ThreadCpuSeconds();
    for (int i = 0; i < kRequests; ++i) metrics.CountRequest(record, absl::OkStatus());
    best = std::min(best, (ThreadCpuSeconds() - begin) / kRequests);
  }
  RecordProperty("nanoseconds", static_cast<int>(best * 1e9));
  std::printf("%.0f ns a request\n", best * 1e9);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(best, 1e-6);
#endif
}

}  // namespace
}  // namespace tessera
