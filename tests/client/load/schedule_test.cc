#include "client/load/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "client/load/distribution.h"

namespace tessera::load {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ScheduleTest, ConstantDoesNotDrift) {
  const auto schedule = MakeSchedule(Arrivals::kConstant, 3000, 1);
  Nanoseconds last{0};
  for (int n = 0; n <= 3'000'000; ++n) last = *schedule->Next();
  EXPECT_EQ(last, std::chrono::seconds(1000));
}

// Gaps of a Poisson process: mean 1/rate, deviation the same, a share of 1 - 1/e below the mean, and no
// memory.
TEST(ScheduleTest, PoissonGapsAreExponential) {
  constexpr int kCount = 200'000;
  constexpr double kRate = 5000;
  const auto schedule = MakeSchedule(Arrivals::kPoisson, kRate, 42);
  double sum = 0, squares = 0, product = 0, last_gap = 0;
  int below = 0;
  Nanoseconds last{0};
  for (int n = 0; n < kCount; ++n) {
    const Nanoseconds at = *schedule->Next();
    ASSERT_GE(at, last);
    const double gap = 1e-9 * static_cast<double>((at - last).count()) * kRate;  // of mean 1
    last = at;
    sum += gap;
    squares += gap * gap;
    product += gap * last_gap;
    last_gap = gap;
    below += gap < 1 ? 1 : 0;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean, 1, 0.01);
  EXPECT_NEAR(squares / kCount - mean * mean, 1, 0.03);
  EXPECT_NEAR(below / static_cast<double>(kCount), 1 - std::exp(-1.0), 0.005);
  EXPECT_NEAR(product / kCount - mean * mean, 0, 0.02);
}

TEST(ScheduleTest, ASeedRepeatsAPoissonSchedule) {
  const auto a = MakeSchedule(Arrivals::kPoisson, 10, 7), b = MakeSchedule(Arrivals::kPoisson, 10, 7),
             c = MakeSchedule(Arrivals::kPoisson, 10, 8);
  const Nanoseconds first = *a->Next();
  EXPECT_EQ(first, *b->Next());
  EXPECT_NE(first, *c->Next());
}

TEST(ScheduleTest, StepsFollowEachOther) {
  const auto schedule = MakeSteps(Arrivals::kConstant, {{10, milliseconds(300)}, {100, milliseconds(50)}}, 1);
  std::vector<int64_t> at;
  while (const auto next = schedule->Next()) at.push_back(next->count() / 1'000'000);
  EXPECT_THAT(at, ::testing::ElementsAre(0, 100, 200, 300, 310, 320, 330, 340));
}

TEST(TraceTest, ReadsTimesAndLengths) {
  const auto trace =
      ParseTrace("seconds,q_len,kv_len\n# a comment\n0,16\n0.25, 32 ,64  # longer\n\n1.5,8,8\n");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 3u);
  EXPECT_EQ((*trace)[1].at, milliseconds(250));
  EXPECT_EQ((*trace)[0].q_len, 16);
  EXPECT_FALSE((*trace)[0].kv_len.has_value());
  EXPECT_EQ((*trace)[1].kv_len, 64);

  const auto schedule = ReplayTrace(*trace, 2);
  EXPECT_EQ(schedule->Next(), milliseconds(0));
  EXPECT_EQ(schedule->Next(), milliseconds(125));
  EXPECT_EQ(schedule->Next(), milliseconds(750));
  EXPECT_EQ(schedule->Next(), std::nullopt);
}

struct BadTrace {
  const char* name;
  const char* text;
  const char* expected;
  const char* actual;
};
class BadTraceTest : public ::testing::TestWithParam<BadTrace> {};
TEST_P(BadTraceTest, NamesLineExpectedAndActual) {
  const auto trace = ParseTrace(GetParam().text);
  EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(trace.status().message()),
              AllOf(HasSubstr(GetParam().expected), HasSubstr(GetParam().actual)));
}
INSTANTIATE_TEST_SUITE_P(
    All, BadTraceTest,
    ::testing::Values(
        BadTrace{"empty", "# nothing\n", "expected at least one request", "got none"},
        BadTrace{"not_a_time", "0\n1.x\n", "line 2: expected seconds", "got '1.x'"},
        BadTrace{"negative", "-1\n", "line 1: expected seconds", "got '-1'"},
        BadTrace{"infinite", "0\ninf\n", "line 2: expected seconds", "got 'inf'"},
        BadTrace{"backwards", "1\n0.5\n", "line 2: expected a time not before", "got '0.5'"},
        BadTrace{"zero_length", "0,0\n", "line 1: expected a length of at least 1", "got '0'"},
        BadTrace{"too_many", "0,1,2,3\n", "line 1: expected SECONDS[,Q_LEN[,KV_LEN]]", "got '0,1,2,3'"},
        BadTrace{"mixed", "0,1\n1\n", "line 2: expected lengths on every line or on none", "got '1'"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(TraceTest, NamesAFileThatIsNotThere) {
  const auto trace = ReadTrace("/no/such/trace");
  EXPECT_EQ(trace.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(trace.status().message()), HasSubstr("/no/such/trace"));
}

TEST(DistributionTest, DrawsWithinItsBounds) {
  client::Random random(1);
  const auto uniform = Distribution::Parse("3..7"), choice = Distribution::Parse("5/9"),
             lognormal = Distribution::Parse("lognormal:100:1:400");
  ASSERT_TRUE(uniform.ok() && choice.ok() && lognormal.ok());
  int above = 0;
  for (int i = 0; i < 2000; ++i) {
    EXPECT_THAT(uniform->Draw(random), AllOf(::testing::Ge(3), ::testing::Le(7)));
    EXPECT_THAT(choice->Draw(random), ::testing::AnyOf(5, 9));
    const int64_t length = lognormal->Draw(random);
    EXPECT_THAT(length, AllOf(::testing::Ge(1), ::testing::Le(400)));
    above += length > 100 ? 1 : 0;
  }
  EXPECT_NEAR(above, 1000, 100);  // the median
  EXPECT_EQ(uniform->largest(), 7);
  EXPECT_EQ(lognormal->largest(), 400);
}

TEST(DistributionTest, SaysWhatItExpected) {
  for (const char* text :
       {"", "0", "7..3", "1..2..3", "a", "1//2", "lognormal:1:1", "lognormal:9:1:3", "1,2"}) {
    const auto parsed = Distribution::Parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()),
                AllOf(HasSubstr("expected N, A..B"), HasSubstr("got '" + std::string(text) + "'")));
  }
}

}  // namespace
}  // namespace tessera::load
