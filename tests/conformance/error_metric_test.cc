#include "tests/conformance/error_metric.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/conformance/number_formats.h"
#include "tests/conformance/problem_builder.h"

namespace tessera::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A problem with a fully masked row (3), its reference, and outputs that agree exactly.
class ErrorMetricTest : public ::testing::Test {
 protected:
  ErrorMetricTest()
      : host_(BuildProblem({.name = "metric",
                            .sequences = {{10, 20}},
                            .mask = {.kind = TESSERA_MASK_BOOLEAN, .dtype = TESSERA_DTYPE_BOOL}},
                           11)),
        reference_(ComputeReference(host_.problem())),
        outputs_{.o = reference_.o, .lse = reference_.lse} {}

  std::string Failure() const { return Report().failure; }
  ErrorReport Report() const {
    return CompareOutputs(host_.problem(), reference_, outputs_,
                          BoundsFor(TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP32, 1000));
  }
  double& O(int64_t query, int64_t head, int64_t d) {
    return outputs_.o[static_cast<size_t>((query * 2 + head) * reference_.dim + d)];
  }

  HostProblem host_;
  ReferenceResult reference_;
  Outputs outputs_;
};

TEST_F(ErrorMetricTest, AcceptsTheReferenceItself) {
  EXPECT_EQ(Failure(), "");
  EXPECT_EQ(Report().relative, 0);
}

TEST_F(ErrorMetricTest, ReportsTheRelativeError) {
  for (double& o : outputs_.o) o *= 1 + 3e-6;
  EXPECT_NEAR(Report().relative, 3e-6, 1e-9);
  EXPECT_NE(Failure(), "");
}

TEST_F(ErrorMetricTest, NamesTheOneWrongRow) {
  O(7, 1, 5) += 0.01;
  EXPECT_NE(Failure().find("sequence 0, query 7, head 1"), std::string::npos) << Failure();
}

TEST_F(ErrorMetricTest, RefusesNanWhereTheReferenceHasNone) {
  O(0, 0, 0) = kNan;
  EXPECT_NE(Failure(), "");
}

TEST_F(ErrorMetricTest, RefusesInfinityOfTheOtherSign) {
  reference_.o[0] = kInfinity;
  O(0, 0, 0) = -kInfinity;
  EXPECT_NE(Failure(), "");
  O(0, 0, 0) = kInfinity;
  EXPECT_EQ(Failure(), "");
}

TEST_F(ErrorMetricTest, WantsMaskedRowsExactlyZero) {
  O(3, 0, 1) = 1e-30;
  EXPECT_NE(Failure().find("exactly zero"), std::string::npos) << Failure();
}

TEST_F(ErrorMetricTest, HoldsLseToItsBound) {
  outputs_.lse[0] += 2e-5 * std::max(1.0, std::fabs(outputs_.lse[0]));
  EXPECT_NE(Failure().find("lse"), std::string::npos) << Failure();
}

TEST_F(ErrorMetricTest, WantsMinusInfinityAsLseOfAMaskedRow) {
  outputs_.lse[3 * 2] = 0;
  EXPECT_NE(Failure().find("lse"), std::string::npos) << Failure();
}

TEST(NumberFormatsTest, RoundsToNearestEven) {
  uint16_t element;
  const auto round_trip = [&](tessera_dtype dtype, double value) {
    WriteElement(&element, dtype, 0, value);
    return ReadElement(&element, dtype, 0);
  };
  EXPECT_EQ(round_trip(TESSERA_DTYPE_BF16, 1 + 0x1p-8), 1.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_BF16, 1 + 3 * 0x1p-8), 1 + 0x1p-6);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_BF16, 1 + 0x1p-8 + 0x1p-40), 1 + 0x1p-7);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP16, 1 + 0x1p-11), 1.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP16, -65519.9), -65504.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP16, 65520), kInfinity);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP16, 0x1p-24), 0x1p-24);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP16, 0x1p-25), 0.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP16, 0x1.8p-25), 0x1p-24);
  EXPECT_TRUE(std::isnan(round_trip(TESSERA_DTYPE_BF16, kNan)));
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP8_E4M3, 1.0625), 1.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP8_E4M3, -1.1875), -1.25);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP8_E4M3, 0x1p-10), 0.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP8_E4M3, 0x1.1p-10), 0x1p-9);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP8_E4M3, 1000), 448.0);
  EXPECT_EQ(round_trip(TESSERA_DTYPE_FP8_E4M3, -kInfinity), -448.0);
  EXPECT_TRUE(std::isnan(round_trip(TESSERA_DTYPE_FP8_E4M3, kNan)));
}

TEST(NumberFormatsTest, EveryFp8CodeSurvivesARoundTrip) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto code = static_cast<uint8_t>(bits);
    uint8_t again;
    WriteElement(&again, TESSERA_DTYPE_FP8_E4M3, 0, ReadElement(&code, TESSERA_DTYPE_FP8_E4M3, 0));
    const bool is_nan = (code & 0x7f) == 0x7f;
    EXPECT_EQ(is_nan ? again & 0x7f : again, is_nan ? 0x7f : code);
  }
}

TEST(NumberFormatsTest, EveryElementSurvivesARoundTrip) {
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const auto element = static_cast<uint16_t>(bits);
      const double value = ReadElement(&element, dtype, 0);
      uint16_t again;
      WriteElement(&again, dtype, 0, value);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(ReadElement(&again, dtype, 0)));
      } else {
        EXPECT_EQ(again, element);
      }
    }
  }
}

// One query of head dim 2 and one key: a logit of (q[0] + q[1]) / 2, capped at 30.
struct OneKey {
  float q[2], k[2] = {1, 1}, v = 1, o = 0, lse = 0;
  tessera_sequence s{.q_len = 1, .kv_len = 1, .window_left = -1, .window_right = -1};
  tessera_attention_problem p{.struct_size = sizeof(p),
                              .num_q_heads = 1,
                              .num_kv_heads = 1,
                              .head_dim_qk = 2,
                              .head_dim_v = 1,
                              .scale = 0.5f,
                              .softcap = 30};

  OneKey(float q0, float q1) : q{q0, q1} {
    p.q = {q, 2, 2, 2, TESSERA_DTYPE_FP32};
    p.k = {k, 2, 2, 2, TESSERA_DTYPE_FP32};
    p.v = {&v, 1, 1, 1, TESSERA_DTYPE_FP32};
    p.o = {&o, 1, 1, 1, TESSERA_DTYPE_FP32};
    p.lse = {&lse, 1, 1, 1};
    p.sequences = &s;
    p.num_sequences = 1;
  }

  // What is said of an LSE that is off by `error`.
  std::string Failure(double error) const {
    const ReferenceResult reference = ComputeReference(p);
    const ErrorBounds bounds =
        WidenToFp32(p, reference, BoundsFor(TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP32, 1000));
    return CompareOutputs(p, reference, {.o = reference.o, .lse = {reference.lse[0] + error}}, bounds)
        .failure;
  }
};

TEST(BoundsForTest, AllowsFewOutputsOfFp8ToStray) {
  const auto bounds = [](int64_t num_outputs) {
    return BoundsFor(TESSERA_DTYPE_FP8_E4M3, TESSERA_DTYPE_BF16, num_outputs);
  };
  EXPECT_NEAR(bounds(128).relative, 3.59e-2, 1e-4);
  EXPECT_EQ(bounds(128).row, 5 * 3e-2);
  EXPECT_EQ(bounds(1000).relative, 3e-2);
  EXPECT_EQ(BoundsFor(TESSERA_DTYPE_BF16, TESSERA_DTYPE_BF16, 1).relative, 3e-3);
}

// Terms of 1000 and -999.5: a logit of 0.5 is known to 4 * 2^-24 * 2000, and 1e-5 that any LSE may be off.
TEST(WidenToFp32Test, AllowsWhatTheLogitsTermsCost) {
  const OneKey problem(2000, -1999);
  EXPECT_EQ(problem.Failure(4.7e-4), "");
  EXPECT_NE(problem.Failure(5.0e-4), "");
}

TEST(WidenToFp32Test, AllowsNothingWhereTheCapIsFlat) {
  const OneKey problem(2000, 1999);
  EXPECT_EQ(problem.Failure(2.9e-4), "");  // 1e-5 of an LSE of 30
  EXPECT_NE(problem.Failure(3.1e-4), "");
}

// Two keys, worked out by hand.
TEST(ReferenceTest, SolvesTwoKeysByHand) {
  float q = 2, k[] = {1, 3}, v[] = {10, 20}, o = 0, lse = 0;
  const float sink = 1, slope = 0.5f;
  tessera_sequence s{.q_len = 1, .kv_len = 2, .diagonal_offset = 1, .window_left = -1, .window_right = -1};
  tessera_attention_problem p{.struct_size = sizeof(p),
                              .num_q_heads = 1,
                              .num_kv_heads = 1,
                              .head_dim_qk = 1,
                              .head_dim_v = 1,
                              .scale = 0.5f,
                              .softcap = 2};
  p.q = {&q, 1, 1, 1, TESSERA_DTYPE_FP32};
  p.k = {k, 2, 1, 1, TESSERA_DTYPE_FP32};
  p.v = {v, 2, 1, 1, TESSERA_DTYPE_FP32};
  p.o = {&o, 1, 1, 1, TESSERA_DTYPE_FP32};
  p.lse = {&lse, 1, 1, 1};
  p.alibi_slopes = &slope;
  p.sinks = &sink;
  p.sequences = &s;
  p.num_sequences = 1;
  const double x0 = 2 * std::tanh(0.5) - 0.5, x1 = 2 * std::tanh(1.5);
  const double sum = std::exp(x0) + std::exp(x1) + std::exp(1.0);
  const ReferenceResult result = ComputeReference(p);
  EXPECT_NEAR(result.o[0], (10 * std::exp(x0) + 20 * std::exp(x1)) / sum, 1e-12);
  EXPECT_NEAR(result.lse[0], std::log(sum), 1e-12);
}

}  // namespace
}  // namespace tessera::testing
