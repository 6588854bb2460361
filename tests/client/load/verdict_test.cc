#include "client/load/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera::load {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

// Ten seconds, a thousand replies of 10 ms each, a tenth of a core.
PhaseResult Calm() {
  PhaseResult result;
  result.seconds = 10;
  result.client_cpu = 0.1;
  Tally& tally = result.tally;
  tally.attempted = tally.ok = tally.ledgers = 1000;
  for (int i = 0; i < 1000; ++i) {
    tally.latency.Record(10'000'000);
    tally.lag.Record(1000);
  }
  tally.time.wire = 6e6;  // microseconds, of all
  tally.time.queue = 1e6;
  tally.time.compute = 3e6;
  tally.device_busy = 3e6;
  return result;
}

TEST(VerdictTest, NamesTheLargestPart) {
  const Verdict verdict = JudgeBottleneck(Calm(), /*open=*/false, 1);
  EXPECT_EQ(verdict.bottleneck, "wire");
  EXPECT_THAT(verdict.reasons.front(), HasSubstr("60% of the latency on the wire"));
  EXPECT_THAT(verdict.reasons, Contains("the backend computed 30% of the time"));
}

TEST(VerdictTest, AnOpenLoopThatGotAllHasNoBottleneck) {
  EXPECT_EQ(JudgeBottleneck(Calm(), /*open=*/true, 1).bottleneck,
            "none at this rate, the latency is mostly wire");
}

TEST(VerdictTest, ABusyDeviceIsTheBottleneckWhereverRequestsWait) {
  PhaseResult result = Calm();
  result.tally.time.queue = 50e6;
  result.tally.device_busy = 9.5e6;
  EXPECT_EQ(JudgeBottleneck(result, true, 1).bottleneck, "compute");
}

TEST(VerdictTest, BlamesTheGeneratorForItsOwnLimits) {
  PhaseResult result = Calm();
  result.client_cpu = 1.95;
  EXPECT_EQ(JudgeBottleneck(result, false, 2).bottleneck, "the load generator");
  EXPECT_EQ(JudgeBottleneck(result, false, 4).bottleneck, "wire");

  result = Calm();
  result.tally.errors[{Reach::kNeverLeft, "NOT_SENT", "full"}] = 3;
  EXPECT_EQ(JudgeBottleneck(result, true, 1).bottleneck, "the load generator");
  for (int i = 0; i < 50; ++i) result.tally.lag.Record(5'000'000);
  EXPECT_THAT(JudgeBottleneck(result, true, 1).reasons, Contains(HasSubstr("behind schedule")));
}

TEST(VerdictTest, CountsSheds) {
  PhaseResult result = Calm();
  result.tally.attempted = 1500;
  result.tally.errors[{Reach::kAnswered, "RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS"}] = 500;
  const Verdict verdict = JudgeBottleneck(result, true, 1);
  EXPECT_EQ(verdict.bottleneck, "wire");
  EXPECT_THAT(verdict.reasons, Contains("the server shed 33% of the requests"));
}

TEST(VerdictTest, SaysWhenNothingCanBeTold) {
  PhaseResult result = Calm();
  result.tally.ledgers = 0;
  EXPECT_EQ(JudgeBottleneck(result, false, 1).bottleneck, "none can be told");
  result.tally.ok = 0;
  EXPECT_THAT(JudgeBottleneck(result, false, 1).reasons, Contains("no request succeeded"));
}

}  // namespace
}  // namespace tessera::load
