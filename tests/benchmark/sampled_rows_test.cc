// The benchmark's check: it must accept what is right and refuse what is not.
#include "tests/benchmark/sampled_rows.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "backend/core/dtype.h"
#include "gtest/gtest.h"
#include "tests/backend/seed.h"
#include "tests/benchmark/cuda_cells.h"
#include "tests/conformance/number_formats.h"
#include "tests/conformance/reference.h"

namespace tessera::benchmark {
namespace {

// A cell in host memory, with the reference's result as its output.
class SolvedCell {
 public:
  SolvedCell(const Cell& cell, DType dtype) : problem_(ProblemOf(cell, dtype, sequences_)) {
    std::mt19937_64 random(seed_);
    std::normal_distribution<double> normal;
    for (TensorView* tensor : {&problem_.q, &problem_.k, &problem_.v, &problem_.o}) {
      memory_.emplace_back(static_cast<size_t>(tensor->num_elements * DTypeSize(dtype)));
      tensor->data = memory_.back().data();
      for (int64_t i = 0; i < tensor->num_elements; ++i) {
        testing::WriteElement(tensor->data, dtype, i, normal(random));
      }
    }
    // Rows of the reference lie as those of a packed problem do.
    const testing::ReferenceResult reference = testing::ComputeReference(problem_);
    for (size_t i = 0; i < reference.o.size(); ++i) SetOutput(static_cast<int64_t>(i), reference.o[i]);
  }

  double Output(int64_t i) const { return testing::ReadElement(problem_.o.data, problem_.o.dtype, i); }
  void SetOutput(int64_t i, double value) {
    testing::WriteElement(problem_.o.data, problem_.o.dtype, i, value);
  }
  AttentionProblem& problem() { return problem_; }
  SampledError Check() const { return CheckSampledRows(problem_, seed_); }

 private:
  const uint64_t seed_ = testing::DrawSeed();
  std::vector<Sequence> sequences_;
  std::vector<std::vector<std::byte>> memory_;
  AttentionProblem problem_;
};

Cell SmallCell(int64_t window_left, int64_t window_right) {
  return {.name = "small",
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 16,
          .sequences = {{70, 70}, {1, 40}, {33, 90}},
          .window_left = window_left,
          .window_right = window_right};
}

TEST(SampledRowsTest, AcceptsTheReference) {
  for (const DType dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (const Cell& cell : {SmallCell(-1, -1), SmallCell(-1, 0), SmallCell(20, 0)}) {
      const SampledError error = SolvedCell(cell, dtype).Check();
      EXPECT_EQ(error.failure, "") << DTypeName(dtype) << ", window right " << cell.window_right;
      EXPECT_GT(error.rows, 0);
    }
  }
}

TEST(SampledRowsTest, RefusesWrongOutput) {
  SolvedCell cell(SmallCell(-1, 0), TESSERA_DTYPE_BF16);
  for (int64_t i = 0; i < cell.problem().o.num_elements; ++i) cell.SetOutput(i, cell.Output(i) * 1.02);
  EXPECT_NE(cell.Check().failure, "");
}

TEST(SampledRowsTest, RefusesAnotherMask) {
  SolvedCell cell(SmallCell(-1, 0), TESSERA_DTYPE_BF16);
  for (int64_t n = 0; n < cell.problem().num_sequences; ++n) {
    const_cast<Sequence&>(cell.problem().sequences[n]).window_right = 1;
  }
  EXPECT_NE(cell.Check().failure, "");
}

TEST(SampledRowsTest, RefusesNanAndUnwrittenElements) {
  SolvedCell cell(SmallCell(-1, -1), TESSERA_DTYPE_FP16);
  const TensorView& o = cell.problem().o;
  static_cast<uint16_t*>(o.data)[o.num_elements / 2] = 0xffff;
  EXPECT_EQ(cell.Check().failure, "1 of " + std::to_string(o.num_elements) + " elements were not written");
  for (int64_t i = 0; i < o.num_elements; ++i) static_cast<uint16_t*>(o.data)[i] = 0x7e00;
  EXPECT_NE(cell.Check().failure, "");
}

TEST(CellsTest, AreValidAndNamedOnce) {
  std::vector<std::string> names;
  for (const Cell& cell : AllCells()) {
    std::vector<Sequence> sequences;
    const AttentionProblem problem = ProblemOf(cell, TESSERA_DTYPE_BF16, sequences);
    EXPECT_TRUE(Validate(problem, DataRequirement::kShapesOnly).ok()) << cell.name;
    names.push_back(cell.name);
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

}  // namespace
}  // namespace tessera::benchmark
