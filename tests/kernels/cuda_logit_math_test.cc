// The arithmetic of soft-capped and ALiBi logits as the Hopper kernels do it, against double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cuda/hopper/logit_math.h"

namespace tessera::kernels::cuda::hopper {
namespace {

double RelativeError(float x) {
  const double expected = std::tanh(static_cast<double>(x));
  return std::fabs(static_cast<double>(Tanh(x)) / expected - 1);
}

TEST(TanhTest, KeepsItsRelativeErrorEverywhere) {
  double worst = 0;
  for (float x = 1e-30f; x < 1e30f; x *= 1.001f) worst = std::fmax(worst, RelativeError(x));
  for (int i = 1; i < 200000; ++i) {
    worst = std::fmax(worst, RelativeError(static_cast<float>(i) * 5e-5f));
  }
  EXPECT_LT(worst, static_cast<double>(kTanhError));
}

TEST(TanhTest, IsOdd) {
  for (float x : {0.0f, 1e-20f, 0.3f, 2.0f, 7.1f, 9.0f, 1e20f}) EXPECT_EQ(Tanh(-x), -Tanh(x));
}

TEST(TanhTest, OfInfinityIsOneAndOfNanIsNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_NEAR(Tanh(kInfinity), 1, kTanhError);
  EXPECT_NEAR(Tanh(-kInfinity), -1, kTanhError);
  EXPECT_TRUE(std::isnan(Tanh(std::numeric_limits<float>::quiet_NaN())));
}

// How far the logits of a pair of scores are off, relative to themselves.
double PairError(const SoftCapQuotient& quotient, float scale, float softcap, float first, float second) {
  float pair[2] = {first, second}, inverse[2];
  quotient.Divide(pair, inverse, quotient.bound);
  double worst = 0;
  for (int i = 0; i < 2; ++i) {
    const double score = i == 0 ? first : second;
    const double expected = softcap * std::tanh(score * scale / softcap) * 1.4426950408889634;
    worst = std::fmax(worst, std::fabs(double{pair[i]} * inverse[i] / expected - 1));
  }
  return worst;
}

TEST(SoftCapQuotientTest, KeepsTanhsErrorForEveryScore) {
  constexpr float kHuge = 1e30f;
  for (float softcap : {0.001f, 1.5f, 30.0f, 80.0f}) {
    for (float inner : {1.1e-4f, 3e-3f, 1.0f, 9e3f}) {
      const float scale = inner * softcap;
      ASSERT_TRUE(SoftCapQuotient::Holds(scale, softcap));
      const SoftCapQuotient quotient = SoftCapQuotient::Of(scale, softcap);
      double worst = 0;
      for (int i = 1; i < 100000; ++i) {
        const float score = static_cast<float>(i) * 1e-4f / inner;
        for (float other : {-kHuge, -1e-3f * score, 2 / inner}) {
          worst = std::fmax(worst, PairError(quotient, scale, softcap, score, other));
        }
      }
      EXPECT_LT(worst, double{kTanhError} + 5e-7) << softcap << " " << inner;
    }
  }
}

TEST(SoftCapQuotientTest, OfInfinityIsTheSoftCapAndOfNanIsNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const SoftCapQuotient quotient = SoftCapQuotient::Of(0.125f, 30);
  float pair[2] = {kInfinity, -kInfinity}, inverse[2];
  quotient.Divide(pair, inverse, quotient.bound);
  EXPECT_NEAR(pair[0] * inverse[0], 43.280851, 2e-4);
  EXPECT_NEAR(pair[1] * inverse[1], -43.280851, 2e-4);
  pair[0] = std::numeric_limits<float>::quiet_NaN();
  pair[1] = 1;
  quotient.Divide(pair, inverse, quotient.bound);
  EXPECT_TRUE(std::isnan(pair[0] * inverse[0]));
}

TEST(SoftCapQuotientTest, HoldsOnlyWhereCoefficientsAreNormal) {
  EXPECT_FALSE(SoftCapQuotient::Holds(1e-6f, 1));
  EXPECT_FALSE(SoftCapQuotient::Holds(1e6f, 1));
  EXPECT_FALSE(SoftCapQuotient::Holds(1, 1e5f));
  EXPECT_FALSE(SoftCapQuotient::Holds(0.125f, 0));
}

TEST(LinearBiasTest, IsMinusTheDistanceOnEitherSideOfTheDiagonal) {
  for (float slope : {0.25f, 1.0f / 3}) {
    for (int32_t diagonal : {0, 200, 5000}) {
      for (int32_t offset = 0; offset < 176; ++offset) {
        const int32_t left = diagonal - 175, right = diagonal;
        const auto expected = [&](int32_t key) { return -double{slope} * std::abs(diagonal - key); };
        // Relative to the bias at the tile's far end.
        const double tolerance = 2e-7 * 176 * static_cast<double>(slope);
        EXPECT_NEAR(LinearBias(slope, true, left, diagonal).At(offset), expected(left + offset), tolerance);
        EXPECT_NEAR(LinearBias(slope, false, right, diagonal).At(offset), expected(right + offset),
                    tolerance);
      }
    }
  }
}

}  // namespace
}  // namespace tessera::kernels::cuda::hopper
