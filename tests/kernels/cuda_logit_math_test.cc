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

constexpr float kSlope = -60;

// How far a slope's multiples by sigmoids are off for any of the scores, in units of the slope.
double SigmoidsError(const float (&scores)[4], float steepness) {
  float x[4], slopes[4];
  ScaledSigmoids(scores, steepness, kSlope, x, slopes);
  double worst = 0;
  for (int i = 0; i < 4; ++i) {
    const double expected = 1 / (1 + std::exp2(static_cast<double>(scores[i]) * steepness));
    const double found = static_cast<double>(slopes[i]) * x[i] / kSlope;
    if (!(std::fabs(found - expected) <= worst)) worst = std::fabs(found - expected);  // NaN stays
  }
  return worst;
}

TEST(ScaledSigmoidsTest, KeepTheirErrorBesideAnyOthers) {
  constexpr float kHuge = 1e30f;
  for (float steepness : {1e-4f, 0.3f, 2.0f, 9e3f}) {
    for (int i = -20000; i <= 20000; ++i) {
      const float score = static_cast<float>(i) * 2e-3f / steepness;
      for (float other : {-kHuge, kHuge, -1e-3f * score, 2 / steepness}) {
        ASSERT_LT(SigmoidsError({score, other, other, score}, steepness), double{kSigmoidError})
            << score << " " << other << " " << steepness;
        ASSERT_LT(SigmoidsError({other, other, score, -other}, steepness), double{kSigmoidError})
            << score << " " << other << " " << steepness;
      }
    }
  }
}

TEST(ScaledSigmoidsTest, OfInfinityAreNoneAndTheSlope) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_LT(SigmoidsError({kInfinity, -kInfinity, -kInfinity, kInfinity}, 0.125f), double{kSigmoidError});
  EXPECT_LT(SigmoidsError({kInfinity, kInfinity, kInfinity, kInfinity}, 0.125f), double{kSigmoidError});
}

TEST(ScaledSigmoidsTest, NanShows) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (float other : {-1e30f, -2.0f, 1e30f}) {
    for (int at = 0; at < 4; ++at) {
      float scores[4] = {other, 1, other, 3}, x[4], slopes[4];
      scores[at] = kNan;
      ScaledSigmoids(scores, 0.125f, kSlope, x, slopes);
      bool shows = false;
      for (int i = 0; i < 4; ++i) shows |= std::isnan(slopes[i] * x[i]);
      EXPECT_TRUE(shows) << other << " " << at;
    }
  }
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
