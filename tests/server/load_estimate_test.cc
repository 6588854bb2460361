#include "server/load_estimate.h"

#include <chrono>
#include <memory>

#include "backend/core/error.h"
#include "gtest/gtest.h"
#include "server/batch_placement.h"
#include "tests/backend/fake_device.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/reference_backend.h"

namespace tessera {
namespace {

using std::chrono::milliseconds;
using testing::ExpectError;

class LoadEstimateTest : public ::testing::Test {
 protected:
  // Arrives now.
  std::unique_ptr<Job> MakeJob(int64_t flops, Clock::duration time_allowed = Clock::duration::max(),
                               int64_t bytes = 0, Backend* backend = nullptr) {
    auto job = std::make_unique<Job>();
    job->backend = backend == nullptr ? &backend_ : backend;
    job->size.flops = flops;
    job->request.input_bytes = bytes;
    job->context.arrival = now_;
    if (time_allowed != Clock::duration::max()) job->context.deadline = now_ + time_allowed;
    return job;
  }

  // Jobs of 100 flops that share a launch, up to its start.
  Jobs Begin(int count, int64_t flops = 100, int64_t bytes = 0) {
    Jobs jobs;
    for (int i = 0; i < count; ++i) {
      jobs.push_back(MakeJob(flops, Clock::duration::max(), bytes));
      load_.Push(*jobs.back());
    }
    load_.Begin(jobs, now_);
    return jobs;
  }

  void End(const Jobs& jobs, milliseconds compute, milliseconds transfer = milliseconds(0),
           bool succeeded = true) {
    now_ += compute + transfer;
    for (const auto& job : jobs) {
      job->ledger.time.compute = Microseconds(compute);
      job->ledger.time.transfer_in = job->ledger.time.transfer_out = Microseconds(transfer) / 2;
    }
    load_.End(jobs, succeeded, now_);
  }

  void Push(int count, int64_t flops = 100) {
    for (int i = 0; i < count; ++i) load_.Push(*MakeJob(flops));
  }

  // Makes it known that 100 flops take 10 ms.
  void Teach() { End(Begin(1), milliseconds(10)); }

  void ExpectUnreachable(const absl::Status& status) {
    ExpectError(status, absl::StatusCode::kResourceExhausted, "DEADLINE_UNREACHABLE");
    EXPECT_TRUE(GetErrorDetail(status)->retry_after.has_value());
  }

  Clock::time_point now_ = Clock::time_point(std::chrono::hours(1));
  testing::FakeDevice device_{{.host_accessible = false}};  // so that launches move the bytes
  testing::BackendControl control_;
  testing::ReferenceBackend backend_{"reference", 1, device_, control_},
      other_{"other", 1, device_, control_};
  LoadEstimate load_;
};

TEST_F(LoadEstimateTest, AdmitsWhileNothingIsKnown) {
  const Jobs running = Begin(1);
  Push(1000);
  EXPECT_EQ(load_.Wait(now_), Clock::duration{});
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(100, milliseconds(1)), now_).ok());
}

TEST_F(LoadEstimateTest, CountsWorkNotRequests) {
  Teach();
  Push(5);
  EXPECT_EQ(load_.Wait(now_), milliseconds(50));
  const auto leaves = MakeJob(120);  // 1.2 times as much, and as long
  load_.Push(*leaves);
  EXPECT_EQ(load_.Wait(now_), milliseconds(62));
  load_.Drop(*leaves);
  EXPECT_EQ(load_.Wait(now_), milliseconds(50));
}

TEST_F(LoadEstimateTest, CountsBytesApart) {
  End(Begin(1, 100, 1000), milliseconds(10), milliseconds(4));
  load_.Push(*MakeJob(100, Clock::duration::max(), 750));
  EXPECT_EQ(load_.Wait(now_), milliseconds(13));
}

// The host copies those on arrival, many at a time.
TEST_F(LoadEstimateTest, CountsNoBytesThatArePlacedOnArrival) {
  testing::FakeDevice host{{.host_accessible = true}};
  testing::ReferenceBackend backend{"host", 1, host, control_};
  const auto make = [&] { return MakeJob(100, Clock::duration::max(), int64_t{1} << 24, &backend); };
  ASSERT_TRUE(IsPlacedOnArrival(*make()));
  Jobs jobs;
  jobs.push_back(make());
  load_.Push(*jobs.front());
  load_.Begin(jobs, now_);
  End(jobs, milliseconds(10), milliseconds(4));
  load_.Push(*make());
  EXPECT_EQ(load_.Wait(now_), milliseconds(10));
}

// Of equal operations, those that read more memory for each take longer.
TEST_F(LoadEstimateTest, KeepsApartWhatIsPlacedOnArrivalByItsBytes) {
  testing::FakeDevice host{{.host_accessible = true}};
  testing::ReferenceBackend backend{"host", 1, host, control_};
  const auto run = [&](int64_t bytes, milliseconds compute) {
    Jobs jobs;
    jobs.push_back(MakeJob(100, Clock::duration::max(), bytes, &backend));
    load_.Push(*jobs.front());
    load_.Begin(jobs, now_);
    End(jobs, compute);
  };
  for (int i = 0; i < 10; ++i) {
    run(int64_t{1} << 30, milliseconds(64));
    run(int64_t{1} << 24, milliseconds(1));
  }
  load_.Push(*MakeJob(100, Clock::duration::max(), int64_t{1} << 24, &backend));
  EXPECT_EQ(load_.Wait(now_), milliseconds(1));
  load_.Push(*MakeJob(100, Clock::duration::max(), int64_t{1} << 30, &backend));
  EXPECT_EQ(load_.Wait(now_), milliseconds(65));
}

TEST_F(LoadEstimateTest, KeepsDTypesApart) {
  Teach();
  auto job = MakeJob(100);
  job->request.problem.q.dtype = TESSERA_DTYPE_BF16;
  load_.Push(*job);
  EXPECT_EQ(load_.Wait(now_), Clock::duration{});
}

// A launch of few operations is all fixed cost: a thousand times its time per operation is no estimate.
TEST_F(LoadEstimateTest, SaysNothingOfOtherSizes) {
  for (int i = 0; i < 200; ++i) End(Begin(1), milliseconds(1));
  const Jobs running = Begin(1);
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(1'000'000, milliseconds(100)), now_).ok());
  Push(1, 1'000'000);
  EXPECT_EQ(load_.Wait(now_), milliseconds(1)) << "of what runs";
}

TEST_F(LoadEstimateTest, KnowsEachSizeAmongOthers) {
  for (int i = 0; i < 20; ++i) {
    End(Begin(1, 1'000'000), milliseconds(50));
    for (int k = 0; k < 50; ++k) End(Begin(1), milliseconds(1));
  }
  Push(10);
  Push(1, 1'000'000);
  EXPECT_EQ(load_.Wait(now_), milliseconds(60));
  ExpectUnreachable(load_.CheckBeforeQueue(*MakeJob(1'000'000, milliseconds(100)), now_));
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(1'000'000, milliseconds(140)), now_).ok());
}

TEST_F(LoadEstimateTest, TakesASharedLaunchAsOne) {
  End(Begin(5), milliseconds(10));
  load_.Push(*MakeJob(100));
  EXPECT_EQ(load_.Wait(now_), milliseconds(2));
}

TEST_F(LoadEstimateTest, CountsWhatIsLeftOfALaunch) {
  Teach();
  const Jobs running = Begin(1);
  now_ += milliseconds(4);
  EXPECT_EQ(load_.Wait(now_), milliseconds(6));
  now_ += milliseconds(40);
  EXPECT_EQ(load_.Wait(now_), Clock::duration{});
}

TEST_F(LoadEstimateTest, KeepsBackendsApart) {
  Teach();
  load_.Push(*MakeJob(100, Clock::duration::max(), 0, &other_));
  EXPECT_EQ(load_.Wait(now_), Clock::duration{}) << "nothing is known of the other";
  load_.Push(*MakeJob(100));
  EXPECT_EQ(load_.Wait(now_), milliseconds(10));
}

TEST_F(LoadEstimateTest, RefusesWhatWouldWaitTooLong) {
  Teach();
  Push(7);  // 70 ms
  // 10 ms of its own; of the rest it may wait three quarters.
  ExpectUnreachable(load_.CheckBeforeQueue(*MakeJob(100, milliseconds(103)), now_));
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(100, milliseconds(104)), now_).ok());
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(100), now_).ok()) << "no deadline, no limit";
  const absl::Status refused = load_.CheckBeforeQueue(*MakeJob(100, milliseconds(50)), now_);
  EXPECT_EQ(GetErrorDetail(refused)->retry_after, milliseconds(40));
  EXPECT_EQ(GetErrorDetail(refused)->metadata.at("expected"), "a wait of at most 30 ms");
  EXPECT_EQ(GetErrorDetail(refused)->metadata.at("actual"), "an estimated 70 ms");
}

// Waiting does not help it.
TEST_F(LoadEstimateTest, RefusesWhatIsTooLongByItselfWithoutARetryHint) {
  Teach();
  Push(1);
  const absl::Status refused = load_.CheckBeforeQueue(*MakeJob(100, milliseconds(9)), now_);
  ExpectError(refused, absl::StatusCode::kResourceExhausted, "DEADLINE_UNREACHABLE");
  EXPECT_FALSE(GetErrorDetail(refused)->retry_after.has_value());
  EXPECT_EQ(GetErrorDetail(refused)->metadata.at("expected"), "more than 10 ms for its own launch");
  EXPECT_EQ(GetErrorDetail(refused)->metadata.at("actual"), "9 ms");
}

TEST_F(LoadEstimateTest, CountsTheTimeSinceArrival) {
  Teach();
  load_.Push(*MakeJob(100));
  const auto job = MakeJob(100, milliseconds(50));
  EXPECT_TRUE(load_.CheckBeforeQueue(*job, now_ + milliseconds(20)).ok());
  ExpectUnreachable(load_.CheckBeforeQueue(*job, now_ + milliseconds(21)));
}

TEST_F(LoadEstimateTest, RefusesWhatHasWaitedTooLong) {
  Teach();
  load_.Push(*MakeJob(100));
  const auto job = MakeJob(100, milliseconds(90));
  load_.Push(*job);
  EXPECT_TRUE(load_.CheckBeforeLaunch(*job, now_ + milliseconds(70)).ok());
  ExpectUnreachable(load_.CheckBeforeLaunch(*job, now_ + milliseconds(71)));
}

// Else an estimate that is wrong would never be put right.
TEST_F(LoadEstimateTest, LetsTheOnlyRequestTry) {
  Teach();
  const auto job = MakeJob(100, milliseconds(1));
  EXPECT_TRUE(load_.CheckBeforeQueue(*job, now_).ok());
  load_.Push(*job);
  EXPECT_TRUE(load_.CheckBeforeLaunch(*job, now_).ok());
}

TEST_F(LoadEstimateTest, FollowsAChangeOfSpeed) {
  Teach();
  for (int i = 0; i < 40; ++i) End(Begin(1), milliseconds(1));
  load_.Push(*MakeJob(100));
  EXPECT_LT(load_.Wait(now_), std::chrono::microseconds(1100));
}

TEST_F(LoadEstimateTest, LearnsNothingFromAFailureAndForgetsWhatIsOld) {
  Teach();
  End(Begin(1), milliseconds(0), milliseconds(0), /*succeeded=*/false);
  load_.Push(*MakeJob(100));
  EXPECT_EQ(load_.Wait(now_), milliseconds(10));
  EXPECT_EQ(load_.Wait(now_ + std::chrono::minutes(1)), Clock::duration{});
  now_ += std::chrono::minutes(1);
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(100, milliseconds(1)), now_).ok());
}

// As that of a cold start should be.
TEST_F(LoadEstimateTest, ForgetsForGood) {
  End(Begin(1), milliseconds(5000));
  now_ += std::chrono::minutes(1);
  End(Begin(1), milliseconds(1));
  Push(1);
  EXPECT_EQ(load_.Wait(now_), milliseconds(1));
}

TEST_F(LoadEstimateTest, RemembersWhileItRuns) {
  constexpr milliseconds kLong(60'000);
  End(Begin(1), kLong);
  const Jobs running = Begin(1);
  now_ += kLong / 2;
  Push(1);
  EXPECT_EQ(load_.Wait(now_), kLong + kLong / 2);
}

TEST_F(LoadEstimateTest, LeavesWhatIsLateAlreadyToOthers) {
  Teach();
  Push(1);
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(100, milliseconds(0)), now_).ok());
  EXPECT_TRUE(load_.CheckBeforeQueue(*MakeJob(100, milliseconds(5)), now_ + milliseconds(5)).ok());
}

}  // namespace
}  // namespace tessera
