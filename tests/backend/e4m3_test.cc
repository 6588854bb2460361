// The host's e4m3 conversions, against the format's definition.
#include "tessera/e4m3.hpp"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// The number of a code without its sign and below NaN.
double Defined(int code) {
  const int exponent = code >> 3, fraction = code & 7;
  return exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(1 + fraction / 8.0, exponent - 7);
}

TEST(E4M3Test, DecodesEveryCode) {
  for (int code = 0; code < 0x7f; ++code) {
    EXPECT_EQ(E4M3ToFloat(static_cast<uint8_t>(code)), Defined(code)) << code;
    const float negative = E4M3ToFloat(static_cast<uint8_t>(0x80 | code));
    EXPECT_EQ(negative, -Defined(code)) << code;
    EXPECT_TRUE(std::signbit(negative)) << code;
  }
  EXPECT_TRUE(std::isnan(E4M3ToFloat(0x7f)));
  EXPECT_TRUE(std::isnan(E4M3ToFloat(0xff)));
  EXPECT_EQ(E4M3ToFloat(0x7e), kE4M3Max);
}

TEST(E4M3Test, EveryCodeSurvivesARoundTrip) {
  for (int code = 0; code < 256; ++code) {
    EXPECT_EQ(FloatToE4M3(E4M3ToFloat(static_cast<uint8_t>(code))), code) << code;
  }
}

TEST(E4M3Test, RoundsToTheNearestAndTiesToTheEvenCode) {
  for (int code = 0; code < 0x7e; ++code) {
    const auto tie = static_cast<float>((Defined(code) + Defined(code + 1)) / 2);
    const int even = code % 2 == 0 ? code : code + 1;
    EXPECT_EQ(FloatToE4M3(tie), even) << code;
    EXPECT_EQ(FloatToE4M3(-tie), 0x80 | even) << code;
    EXPECT_EQ(FloatToE4M3(std::nextafter(tie, 0.0f)), code) << code;
    EXPECT_EQ(FloatToE4M3(std::nextafter(tie, kInf)), code + 1) << code;
  }
}

TEST(E4M3Test, SaturatesAndKeepsNan) {
  for (float large : {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, std::numeric_limits<float>::max(), kInf}) {
    EXPECT_EQ(FloatToE4M3(large), 0x7e) << large;
    EXPECT_EQ(FloatToE4M3(-large), 0xfe) << large;
  }
  EXPECT_EQ(FloatToE4M3(kNaN), 0x7f);
  EXPECT_EQ(FloatToE4M3(-kNaN), 0xff);
  EXPECT_EQ(FloatToE4M3(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(FloatToE4M3(-0.0f), 0x80);
}

}  // namespace
}  // namespace tessera
