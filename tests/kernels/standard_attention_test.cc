// What the conformance suite does not see of standard attention: how it shares work out, and its parts.
#include "kernels/cpu/standard_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/element_access.h"
#include "kernels/cpu/multiply_tile.h"
#include "kernels/cpu/row_blocks.h"
#include "kernels/cpu/row_math.h"
#include "tests/conformance/error_metric.h"
#include "tests/conformance/number_formats.h"
#include "tests/conformance/problem_builder.h"

namespace tessera::kernels::cpu {
namespace {

using tessera::testing::BuildProblem;
using tessera::testing::HostProblem;
using tessera::testing::ProblemSpec;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Memory = std::unique_ptr<std::byte, decltype(&std::free)>;
Memory AllocateAligned(int64_t bytes) {
  return {static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64))),
          &std::free};
}

std::vector<std::byte> RunOracle(const ProblemSpec& spec, int num_workers) {
  HostProblem host = BuildProblem(spec, 3);
  ThreadPool pool(num_workers);
  const Memory workspace = AllocateAligned(OracleWorkspaceBytes(host.problem(), num_workers));
  OracleAttention(host.problem(), workspace.get(), pool);
  return host.o_memory();
}

std::vector<std::byte> RunUnfused(const ProblemSpec& spec, const Blas& blas, int num_workers) {
  HostProblem host = BuildProblem(spec, 3);
  ThreadPool pool(num_workers);
  const Memory workspace = AllocateAligned(UnfusedWorkspaceBytes(host.problem(), num_workers));
  UnfusedAttention(host.problem(), blas, workspace.get(), pool);
  return host.o_memory();
}

// More scores than small pairs may share (4 Mi), so that several waves run, with a pair in between that is
// larger than that by itself.
ProblemSpec SeveralWaves(tessera_dtype dtype) {
  return {.name = "several_waves",
          .dtype = dtype,
          .num_q_heads = 2,
          .num_kv_heads = 1,
          .head_dim_qk = 8,
          .head_dim_v = 8,
          .sequences = {{900, 1100}, {2100, 2050}, {700, 900}, {3, 5}},
          .window = {.right = 0}};
}

TEST(OracleAttentionTest, ResultDoesNotDependOnTheNumberOfWorkers) {
  const std::vector<std::byte> one = RunOracle(SeveralWaves(TESSERA_DTYPE_FP32), 1);
  EXPECT_EQ(RunOracle(SeveralWaves(TESSERA_DTYPE_FP32), 2), one);
  EXPECT_EQ(RunOracle(SeveralWaves(TESSERA_DTYPE_FP32), 5), one);
}

// A few bytes can ask for this: looping over the heads would take hours.
TEST(RowBlocksTest, CostNothingWithoutQueriesHoweverManyHeads) {
  const std::vector<tessera_sequence> sequences(10000, {.q_len = 0, .kv_len = 5});
  tessera_attention_problem problem{};
  problem.num_q_heads = problem.num_kv_heads = std::numeric_limits<int32_t>::max();
  problem.sequences = sequences.data();
  problem.num_sequences = static_cast<int64_t>(sequences.size());
  ThreadPool pool(1);
  const standard::BlockShape shape{.rows = 8, .stride_multiple = 8, .small_pair_elements = 1024};
  standard::ForEachRowBlock(problem, shape, pool,
                            [](const standard::RowBlock&, int) { ADD_FAILURE() << "there are no rows"; });
}

TEST(OracleAttentionTest, SolvesSeveralWaves) {
  HostProblem host = BuildProblem(SeveralWaves(TESSERA_DTYPE_FP32), 3);
  ThreadPool pool(2);
  const Memory workspace = AllocateAligned(OracleWorkspaceBytes(host.problem(), 2));
  OracleAttention(host.problem(), workspace.get(), pool);
  const auto bounds =
      tessera::testing::ErrorBounds{.relative = 6e-8, .row = 6e-8, .lse = 6e-8};  // one rounding
  const auto report = CompareOutputs(host.problem(), tessera::testing::ComputeReference(host.problem()),
                                     tessera::testing::ReadOutputs(host.problem()), bounds);
  EXPECT_EQ(report.failure, "");
}

TEST(UnfusedAttentionTest, ResultDoesNotDependOnTheNumberOfWorkers) {
  const char* error = nullptr;
  const Blas* blas = Blas::Get(&error);
  if (blas == nullptr) GTEST_SKIP() << error;
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_BF16}) {
    const std::vector<std::byte> one = RunUnfused(SeveralWaves(dtype), *blas, 1);
    EXPECT_EQ(RunUnfused(SeveralWaves(dtype), *blas, 2), one);
    EXPECT_EQ(RunUnfused(SeveralWaves(dtype), *blas, 5), one);
  }
}

TEST(StandardWorkspaceTest, HoldsTheScoresOfTheLargestPair) {
  HostProblem host =
      BuildProblem({.name = "n", .num_q_heads = 8, .num_kv_heads = 8, .sequences = {{3000, 3000}}}, 1);
  const int64_t scores = int64_t{3000} * 3000;
  EXPECT_GE(OracleWorkspaceBytes(host.problem(), 1), scores * 8);
  EXPECT_LT(OracleWorkspaceBytes(host.problem(), 1), scores * 8 + (1 << 20));
  EXPECT_GE(UnfusedWorkspaceBytes(host.problem(), 1), scores * 4);
  EXPECT_LT(UnfusedWorkspaceBytes(host.problem(), 1), scores * 4 + (1 << 20));
}

TEST(StandardWorkspaceTest, SaturatesForAbsurdLengths) {
  tessera_sequence sequence{.q_len = int64_t{1} << 40, .kv_len = int64_t{1} << 40};
  tessera_attention_problem problem{.struct_size = sizeof(problem),
                                    .num_q_heads = 1,
                                    .num_kv_heads = 1,
                                    .head_dim_qk = 64,
                                    .head_dim_v = 64};
  problem.sequences = &sequence;
  problem.num_sequences = 1;
  EXPECT_EQ(OracleWorkspaceBytes(problem, 2), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(UnfusedWorkspaceBytes(problem, 2), std::numeric_limits<int64_t>::max());
}

class ElementAccessTest : public ::testing::TestWithParam<tessera_dtype> {};

TEST_P(ElementAccessTest, DecodesEveryElement) {
  std::vector<uint16_t> elements(0x10000);
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<uint16_t>(i);
  const tessera_tensor tensor{elements.data(), 0x10000, 0, 0, GetParam()};
  std::vector<float> row(elements.size());
  standard::LoadRow(tensor, 0, 0, 0x10000, row.data());
  for (size_t i = 0; i < row.size(); ++i) {
    const double expected =
        tessera::testing::ReadElement(elements.data(), GetParam(), static_cast<int64_t>(i));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(row[i])) << i;
    } else {
      EXPECT_EQ(static_cast<double>(row[i]), expected) << i;
    }
  }
}

// Doubles near ties, which rounding by way of float would get wrong, and everything from overflow to
// underflow.
TEST_P(ElementAccessTest, RoundsDoublesOnce) {
  std::vector<double> row = {0.0,   -0.0,    65519.9,       65520.0, 1e30,     -1e39,
                             1e300, 0x1p-25, 0x1.00001p-25, 1e-50,   kInfinity};
  for (double base : {1.0, -3.0, 0x1p-15, 0x1p-20, 1000.0}) {
    for (int fraction_bits : {8, 11}) {
      const double tie = base * (1 + std::ldexp(1.0, -fraction_bits));
      for (double nudge : {0.0, 0x1p-30, -0x1p-30, 0x1p-45, -0x1p-45}) row.push_back(tie * (1 + nudge));
    }
  }
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  for (int i = 0; i < 10000; ++i) row.push_back(normal(random) * std::exp(3 * normal(random)));
  std::vector<uint16_t> actual(row.size()), expected(row.size());
  const tessera_tensor tensor{actual.data(), static_cast<int64_t>(row.size()), 0, 0, GetParam()};
  standard::StoreRow(tensor, 0, 0, static_cast<int64_t>(row.size()), row.data());
  for (size_t i = 0; i < row.size(); ++i) {
    tessera::testing::WriteElement(expected.data(), GetParam(), static_cast<int64_t>(i), row[i]);
    EXPECT_EQ(actual[i], expected[i]) << row[i];
  }
}

INSTANTIATE_TEST_SUITE_P(HalfFormats, ElementAccessTest,
                         ::testing::Values(TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16),
                         [](const auto& info) { return info.param == TESSERA_DTYPE_FP16 ? "fp16" : "bf16"; });

TEST(RowMathTest, SoftmaxIsAccurateOverItsWholeRange) {
  std::vector<float> x;
  for (float value = -100; value <= 0; value += 0.0137f) x.push_back(value);
  x.back() = 0;
  const std::vector<float> before = x;
  const standard::RowSoftmax softmax =
      standard::Softmax(x.data(), static_cast<int64_t>(x.size()), -kInfinity);
  EXPECT_EQ(softmax.shift, 0.0f);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(before[i]));
    sum += expected;
    EXPECT_NEAR(x[i], expected, before[i] < -87 ? 1.7e-38 : 2.5e-7 * expected) << before[i];
  }
  EXPECT_NEAR(softmax.sum, sum, 1e-6 * sum);
}

TEST(RowMathTest, SoftmaxOfNothingSumsToZero) {
  std::vector<float> x(37, -kInfinity);
  const standard::RowSoftmax softmax = standard::Softmax(x.data(), 37, -kInfinity);
  EXPECT_EQ(softmax.sum, 0.0f);
  EXPECT_EQ(softmax.shift, 0.0f);
  for (float p : x) EXPECT_EQ(p, 0.0f);
}

TEST(RowMathTest, SoftmaxKeepsNan) {
  std::vector<float> x(50, 1.0f);
  x[20] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(standard::Softmax(x.data(), 50, -kInfinity).sum));
}

TEST(RowMathTest, CapsAccuratelyNearZeroAndFarOut) {
  std::vector<float> x;
  for (float value = -40; value <= 40; value += 0.01f) x.push_back(value);
  for (float value = 1e-6f; value < 1; value *= 1.3f) x.push_back(value);
  x.push_back(kInfinity);
  x.push_back(-kInfinity);
  const std::vector<float> before = x;
  standard::CapAndAlibi(x.data(), static_cast<int64_t>(x.size()), 3.0f, 0.0f, 0.0f);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = 3 * std::tanh(static_cast<double>(before[i]) / 3);
    EXPECT_NEAR(x[i], expected, 4e-7 * std::fabs(expected)) << before[i];
  }
}

TEST(MultiplyTileTest, AddsTheProductForAnyNumberOfRows) {
  constexpr int64_t kDepth = 13, kColumns = standard::kTileColumns;
  for (int64_t rows = 1; rows <= 14; ++rows) {
    std::vector<double> a(static_cast<size_t>(rows * kDepth)), b(kDepth * kColumns);
    std::vector<double> c(static_cast<size_t>(rows * kColumns), 0.5);
    for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<double>(i % 7) - 3;
    for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<double>(i % 5) - 2;
    standard::MultiplyTile(rows, kDepth, a.data(), kDepth, b.data(), kColumns, c.data(), kColumns);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t column = 0; column < kColumns; ++column) {
        double expected = 0.5;  // small integers: exact in any order
        for (int64_t p = 0; p < kDepth; ++p) {
          expected += a[static_cast<size_t>(r * kDepth + p)] * b[static_cast<size_t>(p * kColumns + column)];
        }
        EXPECT_EQ(c[static_cast<size_t>(r * kColumns + column)], expected);
      }
    }
  }
}

}  // namespace
}  // namespace tessera::kernels::cpu
