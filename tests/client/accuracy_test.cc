#include "client/cli/accuracy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "client/cli/numbers.h"
#include "client/cli/random_problem.h"

namespace tessera::client {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

AttendResult Result(const std::vector<float>& rows_of_two, const std::vector<float>& lse = {}) {
  AttendResult result;
  result.output =
      FromFloats(rows_of_two, v1::DATA_TYPE_FP32, {static_cast<int64_t>(rows_of_two.size() / 2), 1, 2});
  if (!lse.empty()) result.lse = FromFloats(lse, v1::DATA_TYPE_FP32, {static_cast<int64_t>(lse.size()), 1});
  return result;
}

TEST(AccuracyTest, MeasuresTheWholeAndTheWorstRow) {
  const Accuracy accuracy = Compare(Result({3, 4, 0, 1.1f}), Result({3, 4, 0, 1}));
  EXPECT_EQ(accuracy.defect, "");
  EXPECT_NEAR(accuracy.relative, 0.1 / std::sqrt(26.0), 1e-7);
  EXPECT_NEAR(accuracy.worst_row, 0.1, 1e-6);
}

TEST(AccuracyTest, MeasuresLseRelativeToItsSize) {
  EXPECT_NEAR(Compare(Result({1, 1}, {0.5f}), Result({1, 1}, {0.4f})).lse, 0.1, 1e-6);
  EXPECT_NEAR(Compare(Result({1, 1}, {101}), Result({1, 1}, {100})).lse, 0.01, 1e-6);
  EXPECT_EQ(Compare(Result({1, 1}, {-kInfinity}), Result({1, 1}, {-kInfinity})).lse, 0);
}

TEST(AccuracyTest, NamesWhatNoToleranceCovers) {
  EXPECT_THAT(Compare(Result({kNaN, 1}), Result({1, 1})).defect, HasSubstr("element 0 is nan, expected 1"));
  EXPECT_THAT(Compare(Result({1, 1}), Result({1, kNaN})).defect, HasSubstr("element 1 is 1, expected nan"));
  EXPECT_THAT(Compare(Result({kInfinity, 1}), Result({-kInfinity, 1})).defect,
              HasSubstr("is inf, expected -inf"));
  EXPECT_THAT(Compare(Result({0, 1e-30f}), Result({0, 0})).defect, HasSubstr("row 0 is not zero"));
  EXPECT_THAT(Compare(Result({1, 1}, {0}), Result({1, 1}, {-kInfinity})).defect, HasSubstr("lse element 0"));
  EXPECT_THAT(Compare(Result({1, 1}), Result({1, 1, 1, 1})).defect,
              HasSubstr("shape [1, 1, 2], expected [2, 1, 2]"));
  EXPECT_EQ(Compare(Result({kNaN, 2}), Result({kNaN, 2})).defect, "");
}

TEST(AccuracyTest, DoesNotHoldFp16ToDigitsItLacks) {
  AttendResult actual = Result({0x1p-24f, 1}), reference = Result({0x1.4p-24f, 1});
  actual.output = FromFloats(ToFloats(actual.output), v1::DATA_TYPE_FP16, {2, 1, 1});
  reference.output.shape = {2, 1, 1};
  EXPECT_EQ(Violation(Compare(actual, reference), BoundsOf(v1::DATA_TYPE_FP16, 2)), "");
}

TEST(AccuracyTest, HoldsResultsToTheBoundsOfTheLessPreciseType) {
  EXPECT_EQ(LessPrecise(v1::DATA_TYPE_FP32, v1::DATA_TYPE_BF16), v1::DATA_TYPE_BF16);
  const Bounds bounds = BoundsOf(v1::DATA_TYPE_FP16, 1000);
  EXPECT_EQ(Violation({.relative = 4e-4}, bounds), "");
  EXPECT_THAT(Violation({.relative = 5e-4}, bounds), HasSubstr("relative error 5.00e-04, allowed 4e-04"));
  EXPECT_EQ(Violation({.relative = 5e-4}, BoundsOf(v1::DATA_TYPE_FP16, 8)), "");
  EXPECT_THAT(Violation({.worst_row = 3e-3}, bounds), HasSubstr("worst row"));
  EXPECT_THAT(Violation({.lse = 2e-5}, bounds), HasSubstr("LSE"));
}

TEST(RandomProblemTest, IsTheSameForASeedAndFitsItsCall) {
  for (int64_t index = 0; index < 60; ++index) {
    const auto once = MakeRandomProblem(42, index, {});
    const auto again = MakeRandomProblem(42, index, {});
    EXPECT_EQ(once->Describe(), again->Describe());
    EXPECT_EQ(once->q.bytes, again->q.bytes);
    const auto request = EncodeRequest(once->call);
    ASSERT_TRUE(request.ok()) << once->Describe() << request.status();
    EXPECT_EQ(request->SerializeAsString(), EncodeRequest(again->call)->SerializeAsString());
  }
  EXPECT_NE(MakeRandomProblem(42, 0, {})->q.bytes, MakeRandomProblem(43, 0, {})->q.bytes);
}

}  // namespace
}  // namespace tessera::client
