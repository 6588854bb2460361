// Standard attention on NVIDIA GPUs, as far as it goes without one: what is planned, how the products are put
// into batches (run by a stand-in for cuBLAS on host memory), and what is said where cuBLAS is missing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/standard_attention.h"
#include "kernels/cuda/standard_product.h"
#include "kernels/cuda/standard_wave.h"

namespace tessera::kernels::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kFakeCublas = TESSERA_FAKE_CUBLAS;
constexpr DeviceTraits kH200{.compute_capability = 90,
                             .multiprocessors = 132,
                             .shared_memory_per_block = 227 << 10,
                             .shared_memory_per_multiprocessor = 228 << 10,
                             .l2_bytes = int64_t{60} << 20};
constexpr int64_t kMiB = int64_t{1} << 20, kGiB = int64_t{1} << 30;
constexpr int64_t kCublasBytes = 32 * kMiB, kSmallCublasBytes = 4 * kMiB;

// ---- cuBLAS at run time ----

TEST(CublasTest, SaysWhatWasTriedWhereThereIsNone) {
  const char* const libraries[] = {"libcublas-is-not-here.so.1", "libcublas-nor-here.so.2", nullptr};
  std::string error;
  EXPECT_EQ(Cublas::CreateFrom(libraries, &error), nullptr);
  EXPECT_THAT(error, AllOf(HasSubstr("cuBLAS could not be opened"), HasSubstr("libcublas-is-not-here.so.1"),
                           HasSubstr("libcublas-nor-here.so.2")));
}

TEST(CublasTest, RefusesALibraryThatIsAnother) {
  const char* const libraries[] = {"libm.so.6", nullptr};
  std::string error;
  EXPECT_EQ(Cublas::CreateFrom(libraries, &error), nullptr);
  EXPECT_THAT(error, HasSubstr("libm.so.6: lacks an entry point"));
}

TEST(CublasTest, OpensTheFirstThatServes) {
  const char* const libraries[] = {"libcublas-is-not-here.so.1", kFakeCublas, nullptr};
  std::string error;
  const std::unique_ptr<Cublas> blas = Cublas::CreateFrom(libraries, &error);
  ASSERT_NE(blas, nullptr) << error;
  EXPECT_EQ(error, "");
  EXPECT_THAT(blas->name(), HasSubstr("(13.2.5)"));
}

// ---- Products ----

// Tensors of a wave in host memory, filled with small integers, so that sums are exact in any order.
struct Matrices {
  std::vector<float> memory;
  WaveTensor tensor;
};

Matrices MakeMatrices(int64_t sequences, int64_t heads, int64_t rows, int64_t length, WaveTensor strides) {
  const int64_t last = (sequences - 1) * strides.sequence_stride + (heads - 1) * strides.head_stride +
                       (rows - 1) * strides.row_stride + length;
  Matrices matrices{.memory = std::vector<float>(static_cast<size_t>(last)), .tensor = strides};
  for (size_t i = 0; i < matrices.memory.size(); ++i) {
    matrices.memory[i] = static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
  }
  return matrices;
}

WaveTensor TokenMajor(int64_t heads, int64_t tokens, int64_t dim) {
  return {nullptr, heads * tokens * dim, dim, heads * dim, TESSERA_DTYPE_FP32};
}
WaveTensor HeadMajor(int64_t heads, int64_t tokens, int64_t dim) {
  return {nullptr, heads * tokens * dim, tokens * dim, dim, TESSERA_DTYPE_FP32};
}
WaveTensor Gapped(int64_t heads, int64_t tokens, int64_t dim) {
  const int64_t head = dim + 3, token = heads * head + 5;
  return {nullptr, tokens * token + 2 * token, head, token, TESSERA_DTYPE_FP32};
}

using LayoutFunction = WaveTensor (*)(int64_t heads, int64_t tokens, int64_t dim);

struct ProductCase {
  const char* name;
  LayoutFunction layout;
  int64_t sequences;
  int32_t kv_heads, group, q_len;
  int64_t calls;
};

class ProductTest : public ::testing::TestWithParam<ProductCase> {
 protected:
  static constexpr int32_t kKvLen = 7, kDim = 4;

  void SetUp() override {
    const char* const libraries[] = {kFakeCublas, nullptr};
    std::string error;
    blas_ = Cublas::CreateFrom(libraries, &error);
    ASSERT_NE(blas_, nullptr) << error;
  }

  // Runs the product and holds it to the definition.
  void Check(const WaveProduct& product, Matrices& a, Matrices& b, Matrices& c) {
    WaveProduct p = product;
    p.a.data = a.memory.data();
    p.b.data = b.memory.data();
    p.c.data = c.memory.data();
    const std::vector<float> before = c.memory;
    {
      Cublas::Calls calls(*blas_, nullptr, nullptr, 0);
      ASSERT_TRUE(QueueProduct(p, calls)) << calls.error();
    }
    std::vector<float> expected = before;
    for (int64_t s = 0; s < p.sequences; ++s) {
      for (int64_t h = 0; h < int64_t{p.num_kv_heads} * p.group; ++h) {
        for (int64_t r = 0; r < p.rows; ++r) {
          for (int64_t column = 0; column < p.columns; ++column) {
            float sum = 0;
            for (int64_t d = 0; d < p.depth; ++d) {
              const int64_t b_row = p.transpose_b ? column : d, b_column = p.transpose_b ? d : column;
              sum += a.memory[At(p.a, s, h, r, d)] * b.memory[At(p.b, s, h / p.group, b_row, b_column)];
            }
            float& element = expected[At(p.c, s, h, r, column)];
            element = p.accumulate ? element + sum : sum;
          }
        }
      }
    }
    EXPECT_EQ(c.memory, expected);
  }

  static size_t At(const WaveTensor& t, int64_t sequence, int64_t head, int64_t row, int64_t column) {
    return static_cast<size_t>(sequence * t.sequence_stride + head * t.head_stride + row * t.row_stride +
                               column);
  }

  std::unique_ptr<Cublas> blas_;
};

TEST_P(ProductTest, ScoresAndValuesAreRight) {
  const ProductCase& c = GetParam();
  const int32_t q_heads = c.kv_heads * c.group;
  const auto matrices = [&](LayoutFunction layout, int64_t heads, int64_t rows, int64_t length) {
    return MakeMatrices(c.sequences, heads, rows, length, layout(heads, rows, length));
  };
  Matrices q = matrices(c.layout, q_heads, c.q_len, kDim), k = matrices(c.layout, c.kv_heads, kKvLen, kDim);
  Matrices v = matrices(c.layout, c.kv_heads, kKvLen, kDim), o = matrices(c.layout, q_heads, c.q_len, kDim);
  Matrices scores = matrices(HeadMajor, q_heads, c.q_len, kKvLen);

  const WaveProduct score_product{.sequences = c.sequences,
                                  .num_kv_heads = c.kv_heads,
                                  .group = c.group,
                                  .rows = c.q_len,
                                  .columns = kKvLen,
                                  .depth = kDim,
                                  .transpose_b = true,
                                  .accumulate = false,
                                  .a = q.tensor,
                                  .b = k.tensor,
                                  .c = scores.tensor};
  Check(score_product, q, k, scores);
  EXPECT_EQ(CountCalls(score_product), c.calls);
  WaveProduct value_product = score_product;
  value_product.columns = kDim;
  value_product.depth = kKvLen;
  value_product.transpose_b = false;
  value_product.accumulate = true;
  value_product.a = scores.tensor;
  value_product.b = v.tensor;
  value_product.c = o.tensor;
  Check(value_product, scores, v, o);
  EXPECT_EQ(CountCalls(value_product), c.calls);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, ProductTest,
    ::testing::Values(ProductCase{"one_head", TokenMajor, 1, 1, 1, 5, 1},
                      ProductCase{"token_major_heads", TokenMajor, 1, 6, 1, 5, 1},
                      ProductCase{"token_major_batch_of_heads", TokenMajor, 3, 6, 1, 5, 3},
                      ProductCase{"head_major_batch_of_heads", HeadMajor, 3, 6, 1, 5, 1},
                      ProductCase{"gapped_batch_of_heads", Gapped, 3, 6, 1, 5, 3},
                      ProductCase{"token_major_groups", TokenMajor, 1, 2, 3, 5, 2},
                      ProductCase{"token_major_more_groups", TokenMajor, 1, 5, 3, 5, 3},
                      ProductCase{"head_major_groups_fold_into_rows", HeadMajor, 2, 2, 3, 5, 1},
                      ProductCase{"one_query_of_groups_folds_into_rows", TokenMajor, 1, 2, 3, 1, 1},
                      ProductCase{"one_query_of_groups_gapped", Gapped, 2, 2, 3, 1, 2},
                      ProductCase{"multi_query", TokenMajor, 2, 1, 4, 5, 2}),
    [](const ::testing::TestParamInfo<ProductCase>& info) { return std::string(info.param.name); });

TEST(CublasCallsTest, NamesTheErrorAndStops) {
  const char* const libraries[] = {kFakeCublas, nullptr};
  std::string error;
  const std::unique_ptr<Cublas> blas = Cublas::CreateFrom(libraries, &error);
  ASSERT_NE(blas, nullptr) << error;
  float memory[4] = {};
  const GemmMatrices matrix{.data = memory, .row_stride = 2, .batch_stride = 0, .dtype = TESSERA_DTYPE_FP32};
  StridedGemm gemm{.rows = 2,
                   .columns = 2,
                   .depth = 2,
                   .batches = 0,
                   .transpose_b = false,
                   .accumulate = false,
                   .a = matrix,
                   .b = matrix,
                   .c = matrix};
  Cublas::Calls calls(*blas, nullptr, nullptr, 0);
  EXPECT_EQ(calls.error(), nullptr);
  EXPECT_FALSE(calls.Gemm(gemm));
  EXPECT_STREQ(calls.error(), "CUBLAS_STATUS_INVALID_VALUE");
  gemm.batches = 1;
  EXPECT_FALSE(calls.Gemm(gemm)) << "calls went on after an error";
}

// ---- Plans ----

// A problem of packed sequences, shapes only.
class Shapes {
 public:
  struct Lengths {
    int64_t q, kv;
  };

  Shapes(tessera_dtype dtype, int32_t q_heads, int32_t kv_heads, int32_t dim, std::vector<Lengths> lengths) {
    int64_t q_tokens = 0, kv_tokens = 0;
    for (const auto& [q, kv] : lengths) {
      sequences_.push_back({.q_begin = q_tokens,
                            .q_len = q,
                            .kv_begin = kv_tokens,
                            .kv_len = kv,
                            .diagonal_offset = kv - q,
                            .window_left = -1,
                            .window_right = -1});
      q_tokens += q;
      kv_tokens += kv;
    }
    const auto tensor = [&](int64_t tokens, int64_t heads) {
      return tessera_tensor{.data = nullptr,
                            .num_elements = tokens * heads * dim,
                            .token_stride = heads * dim,
                            .head_stride = dim,
                            .dtype = dtype};
    };
    problem.struct_size = sizeof(problem);
    problem.num_q_heads = q_heads;
    problem.num_kv_heads = kv_heads;
    problem.head_dim_qk = problem.head_dim_v = dim;
    problem.scale = 1;
    problem.q = problem.o = tensor(q_tokens, q_heads);
    problem.k = problem.v = tensor(kv_tokens, kv_heads);
    problem.sequences = sequences_.data();
    problem.num_sequences = static_cast<int64_t>(sequences_.size());
  }
  Shapes(const Shapes&) = delete;
  Shapes& operator=(const Shapes&) = delete;

  void MakeCausal() {
    for (tessera_sequence& s : sequences_) s.window_right = 0;
  }
  std::vector<tessera_sequence>& sequences() { return sequences_; }

  tessera_attention_problem problem{};

 private:
  std::vector<tessera_sequence> sequences_;
};

TEST(ChooseStandardTest, MaterialisesTheScoresOfAllHeads) {
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    const Shapes shapes(dtype, 4, 4, 128, {{16384, 16384}});
    const StandardChoice choice = ChooseStandard(shapes.problem, kH200);
    EXPECT_EQ(choice.refusal, "");
    EXPECT_STREQ(choice.kernel, "tessera_standard_softmax_16k");
    // fp32: the values come in 16 chunks of keys. 16 bits: in one, in fp32, which a copy then scales.
    const bool is_fp32 = dtype == TESSERA_DTYPE_FP32;
    EXPECT_EQ(choice.launches, is_fp32 ? 1 + 1 + 16 : 1 + 1 + 1 + 1);
    const int64_t values = is_fp32 ? 0 : int64_t{16384} * 4 * (128 + 1) * 4;
    EXPECT_GE(choice.workspace_bytes, 4 * kGiB + kCublasBytes + values);
    EXPECT_LE(choice.workspace_bytes, 4 * kGiB + kCublasBytes + values + 4096);
  }
}

TEST(ChooseStandardTest, ModelsWhatMoves) {
  constexpr int64_t kScores = int64_t{16384} * 16384 * 4, kRows = int64_t{16384} * 4, kOperand = kRows * 128;
  Shapes shapes(TESSERA_DTYPE_BF16, 4, 4, 128, {{16384, 16384}});
  const StandardChoice full = ChooseStandard(shapes.problem, kH200);
  constexpr int64_t kValues = kOperand * 4 + kRows * 4;  // and what the rows of them are scaled by
  EXPECT_EQ(full.hbm_read_bytes, kScores * (4 + 2) + 3 * kOperand * 2 + kValues);
  EXPECT_EQ(full.hbm_write_bytes, kScores * (4 + 2) + kOperand * 2 + kValues);
  // Of a causal softmax's scores half are read; V is copied first.
  shapes.MakeCausal();
  const StandardChoice causal = ChooseStandard(shapes.problem, kH200);
  const int64_t visible = int64_t{16384} * 16385 / 2 * 4;
  EXPECT_EQ(causal.hbm_read_bytes, visible * 4 + kScores * 2 + 4 * kOperand * 2 + kValues);
  EXPECT_EQ(causal.hbm_write_bytes, kScores * (4 + 2) + 2 * kOperand * 2 + kValues);
  // In fp32 O is read and written again for every chunk of keys but the first.
  const Shapes fp32(TESSERA_DTYPE_FP32, 4, 4, 128, {{16384, 16384}});
  const StandardChoice chunks = ChooseStandard(fp32.problem, kH200);
  EXPECT_EQ(chunks.hbm_read_bytes, kScores * (4 + 4) + (3 + 15) * kOperand * 4);
  EXPECT_EQ(chunks.hbm_write_bytes, kScores * (4 + 4) + (1 + 15) * kOperand * 4);
}

TEST(ChooseStandardTest, AddsUpFp32ValuesInShortChains) {
  const auto launches = [](tessera_dtype dtype, int64_t kv) {
    const Shapes shapes(dtype, 2, 2, 64, {{100, kv}});
    return ChooseStandard(shapes.problem, kH200).launches;
  };
  EXPECT_EQ(launches(TESSERA_DTYPE_FP32, 1), 3);
  EXPECT_EQ(launches(TESSERA_DTYPE_FP32, 512), 3);
  EXPECT_EQ(launches(TESSERA_DTYPE_FP32, 513), 4);
  EXPECT_EQ(launches(TESSERA_DTYPE_FP32, 4096), 2 + 8);
  EXPECT_EQ(launches(TESSERA_DTYPE_FP32, 100000), 2 + 16);
  EXPECT_EQ(launches(TESSERA_DTYPE_BF16, 100000), 4);
}

TEST(ChooseStandardTest, KeepsSmallScoresInTheCache) {
  // Scores in fp32, weights in 16 bits and the fp32 values before they are scaled.
  const Shapes bf16(TESSERA_DTYPE_BF16, 1, 1, 64, {{128, 128}});
  EXPECT_EQ(ChooseStandard(bf16.problem, kH200).hbm_read_bytes, 3 * 128 * 64 * 2);
  EXPECT_EQ(ChooseStandard(bf16.problem, kH200).hbm_write_bytes, 128 * 64 * 2);
  const Shapes shapes(TESSERA_DTYPE_FP32, 1, 1, 64, {{128, 128}});
  const StandardChoice choice = ChooseStandard(shapes.problem, kH200);
  EXPECT_EQ(choice.hbm_read_bytes, 3 * 128 * 64 * 4);
  EXPECT_EQ(choice.hbm_write_bytes, 128 * 64 * 4);
}

TEST(ChooseStandardTest, NamesTheSoftmaxOfMostScores) {
  const auto kernel = [](int64_t kv) {
    const Shapes shapes(TESSERA_DTYPE_BF16, 1, 1, 64, {{2, 100}, {3, kv}});
    return std::string(ChooseStandard(shapes.problem, kH200).kernel);
  };
  EXPECT_EQ(kernel(8192), "tessera_standard_softmax_8k");
  EXPECT_EQ(kernel(8193), "tessera_standard_softmax_16k");
  EXPECT_EQ(kernel(16384), "tessera_standard_softmax_16k");
  EXPECT_EQ(kernel(16385), "tessera_standard_softmax_long");
}

TEST(ChooseStandardTest, CopiesValuesOnlyWhereKeysMayBeHidden) {
  // Every key is visible to the last query: one query hides none.
  Shapes decode(TESSERA_DTYPE_FP32, 8, 2, 64, {{1, 500}});
  decode.MakeCausal();
  EXPECT_EQ(ChooseStandard(decode.problem, kH200).launches, 3);
  Shapes two(TESSERA_DTYPE_FP32, 2, 2, 64, {{2, 500}});
  EXPECT_EQ(ChooseStandard(two.problem, kH200).launches, 3);
  two.MakeCausal();
  EXPECT_EQ(ChooseStandard(two.problem, kH200).launches, 5);
  two.sequences()[0].window_right = -1;
  two.sequences()[0].window_left = 498;
  EXPECT_EQ(ChooseStandard(two.problem, kH200).launches, 5);
  two.sequences()[0].window_left = 499;
  EXPECT_EQ(ChooseStandard(two.problem, kH200).launches, 3);
  two.problem.mask_kind = TESSERA_MASK_BOOLEAN;
  two.problem.mask_dtype = TESSERA_DTYPE_BOOL;
  EXPECT_EQ(ChooseStandard(two.problem, kH200).launches, 5);
}

TEST(ChooseStandardTest, RunsSequencesAlikeTogether) {
  // 16 MiB of scores each: four at a time.
  const Shapes alike(TESSERA_DTYPE_BF16, 4, 4, 64, std::vector<Shapes::Lengths>(8, {1024, 1024}));
  const StandardChoice choice = ChooseStandard(alike.problem, kH200);
  EXPECT_EQ(choice.launches, 2 * (4 + 1 + 4 + 1));
  constexpr int64_t kValues = int64_t{4} * 1024 * 4 * (64 + 1) * 4;
  EXPECT_GE(choice.workspace_bytes, 64 * kMiB + kCublasBytes + kValues);
  EXPECT_LE(choice.workspace_bytes, 64 * kMiB + kCublasBytes + kValues + 4096);
  // The largest of a ragged batch decides; sequences without queries cost nothing.
  const Shapes ragged(TESSERA_DTYPE_FP32, 1, 1, 64, {{100, 200}, {0, 5000}, {100, 300}, {50, 300}});
  const StandardChoice ragged_choice = ChooseStandard(ragged.problem, kH200);
  EXPECT_EQ(ragged_choice.launches, 3 * 3);
  EXPECT_GE(ragged_choice.workspace_bytes, 100 * 304 * 4 + kSmallCublasBytes);
  EXPECT_LE(ragged_choice.workspace_bytes, 100 * 304 * 4 + kSmallCublasBytes + 4096);
}

TEST(ChooseStandardTest, WritesADtypeThatCublasDoesNotThroughFp32) {
  Shapes shapes(TESSERA_DTYPE_FP32, 2, 2, 64, {{100, 100}});
  EXPECT_EQ(ChooseStandard(shapes.problem, kH200).launches, 3);
  const int64_t direct = ChooseStandard(shapes.problem, kH200).workspace_bytes;
  shapes.problem.o.dtype = TESSERA_DTYPE_FP16;
  const StandardChoice choice = ChooseStandard(shapes.problem, kH200);
  EXPECT_EQ(choice.launches, 4);
  EXPECT_EQ(choice.workspace_bytes, direct + 100 * 2 * 64 * 4);
}

TEST(ChooseStandardTest, CopiesOperandsThatCublasCannotTake) {
  Shapes shapes(TESSERA_DTYPE_FP32, 2, 2, 64, {{100, 100}});
  shapes.problem.k.token_stride = 0;  // one key for all positions
  EXPECT_EQ(ChooseStandard(shapes.problem, kH200).launches, 4);
  shapes.problem.q.token_stride = int64_t{1} << 32;
  EXPECT_EQ(ChooseStandard(shapes.problem, kH200).launches, 5);
  shapes.problem.v.token_stride = 63;  // rows that overlap
  EXPECT_EQ(ChooseStandard(shapes.problem, kH200).launches, 6);
  shapes.problem.o.token_stride = int64_t{1} << 32;
  EXPECT_EQ(ChooseStandard(shapes.problem, kH200).launches, 7);
}

TEST(ChooseStandardTest, CopiesFp8ToBf16) {
  constexpr int64_t kScores = int64_t{16384} * 16384 * 4, kRows = int64_t{16384} * 4, kOperand = kRows * 128;
  Shapes shapes(TESSERA_DTYPE_BF16, 4, 4, 128, {{16384, 16384}});
  const StandardChoice bf16 = ChooseStandard(shapes.problem, kH200);
  for (tessera_tensor* tensor : {&shapes.problem.q, &shapes.problem.k, &shapes.problem.v}) {
    tensor->dtype = TESSERA_DTYPE_FP8_E4M3;
  }
  const StandardChoice fp8 = ChooseStandard(shapes.problem, kH200);
  EXPECT_EQ(fp8.refusal, "");
  EXPECT_STREQ(fp8.kernel, bf16.kernel);
  EXPECT_EQ(fp8.launches, bf16.launches + 3);
  EXPECT_EQ(fp8.workspace_bytes, bf16.workspace_bytes + 3 * kOperand * 2);
  constexpr int64_t kValues = kOperand * 4 + kRows * 4;
  EXPECT_EQ(fp8.hbm_read_bytes, kScores * (4 + 2) + 3 * kOperand * (1 + 2) + kValues);
  EXPECT_EQ(fp8.hbm_write_bytes, kScores * (4 + 2) + (3 + 1) * kOperand * 2 + kValues);
  // Values are copied anyway where keys may be hidden: those that are not finite are then taken out of them.
  shapes.MakeCausal();
  EXPECT_EQ(ChooseStandard(shapes.problem, kH200).launches, fp8.launches + 1);
}

TEST(StandardWaveTest, ReadsFp8AsBf16) {
  Shapes shapes(TESSERA_DTYPE_FP8_E4M3, 4, 2, 64, {{100, 200}});
  const StandardWave wave(shapes.problem, 0);
  const WaveProduct scores = wave.ScoreProduct({}), values = wave.ValueProduct({}, 0);
  for (const WaveTensor& operand : {scores.a, scores.b, values.a, values.b}) {
    EXPECT_EQ(operand.dtype, TESSERA_DTYPE_BF16);
  }
  EXPECT_EQ(wave.Query().dtype, TESSERA_DTYPE_FP8_E4M3);
  EXPECT_EQ(wave.num_chunks(), 1);
  EXPECT_TRUE(wave.stores_values());
  EXPECT_EQ(values.a.row_stride, wave.score_stride() * 2);
}

TEST(StandardWaveTest, TakesItsSequencesScales) {
  Shapes shapes(TESSERA_DTYPE_FP8_E4M3, 4, 2, 64, {{10, 20}, {0, 5}, {10, 30}, {10, 30}, {7, 30}});
  const std::vector<float> q_scales(5 * 6), v_scales(2);
  shapes.problem.q_scales = {.data = q_scales.data(), .sequence_stride = 6, .head_stride = 1};
  shapes.problem.v_scales = {.data = v_scales.data(), .sequence_stride = 0, .head_stride = 1};
  std::vector<int64_t> first;
  ForEachWave(shapes.problem, [&](const StandardWave& wave) {
    const tessera_attention_problem problem = wave.Problem();
    first.push_back((problem.q_scales.data - q_scales.data()) / 6);
    EXPECT_EQ(problem.k_scales.data, nullptr);
    EXPECT_EQ(problem.v_scales.data, v_scales.data());
    return true;
  });
  EXPECT_EQ(first, (std::vector<int64_t>{0, 2, 4}));
}

TEST(ChooseStandardTest, TakesProblemsOfNothing) {
  const Shapes none(TESSERA_DTYPE_FP32, 2, 2, 64, {});
  EXPECT_EQ(ChooseStandard(none.problem, kH200).refusal, "");
  EXPECT_NE(ChooseStandard(none.problem, kH200).kernel, nullptr);
  EXPECT_EQ(ChooseStandard(none.problem, kH200).workspace_bytes, 0);
  const Shapes no_keys(TESSERA_DTYPE_FP32, 2, 2, 64, {{64, 0}});
  EXPECT_EQ(ChooseStandard(no_keys.problem, kH200).launches, 2);
  EXPECT_EQ(ChooseStandard(no_keys.problem, kH200).workspace_bytes, 0);
}

TEST(ChooseStandardTest, SaturatesOnShapesThatNoMemoryHolds) {
  const Shapes huge(TESSERA_DTYPE_FP32, 2, 2, 64, {{(1 << 30) - 1, (1 << 29) - 1}});
  const StandardChoice choice = ChooseStandard(huge.problem, kH200);
  EXPECT_EQ(choice.refusal, "");
  EXPECT_GT(choice.workspace_bytes, kGiB * kGiB);
}

TEST(ChooseStandardTest, RefusesWhatItCannotIndex) {
  const Shapes keys(TESSERA_DTYPE_FP32, 1, 1, 64, {{1, 1 << 29}});
  EXPECT_THAT(ChooseStandard(keys.problem, kH200).refusal,
              HasSubstr("536870912 keys of sequence 0, expected fewer than 536870912"));
  const Shapes queries(TESSERA_DTYPE_FP32, 1, 1, 64, {{1 << 30, 1}});
  EXPECT_NE(ChooseStandard(queries.problem, kH200).refusal, "");
  EXPECT_EQ(ChooseStandard(queries.problem, kH200).kernel, nullptr);
}

}  // namespace
}  // namespace tessera::kernels::cuda
