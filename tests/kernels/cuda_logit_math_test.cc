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
