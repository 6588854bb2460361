// The fused kernel of every usable instruction set, feature by feature.
#include "kernels/cpu/fused_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/fused_case.h"

namespace tessera::kernels::cpu {
namespace {

struct Param {
  Isa isa;
  tessera_dtype dtype;
};

std::vector<Param> Params() {
  std::vector<Param> params;
  for (Isa isa : UsableIsas()) {
    for (tessera_dtype dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
      params.push_back({isa, dtype});
    }
  }
  return params;
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  const char* dtype = info.param.dtype == TESSERA_DTYPE_FP32   ? "fp32"
                      : info.param.dtype == TESSERA_DTYPE_FP16 ? "fp16"
                                                               : "bf16";
  return std::string(IsaName(info.param.isa)) + "_" + dtype;
}

class FusedAttentionTest : public testing::TestWithParam<Param> {
 protected:
  Spec Base() const {
    Spec spec;
    spec.dtype = GetParam().dtype;
    return spec;
  }
  void Check(const Spec& spec, const std::string& what) const {
    SCOPED_TRACE(what);
    Case(spec, GetParam().isa).RunAndCheck();
  }
};

INSTANTIATE_TEST_SUITE_P(Isas, FusedAttentionTest, testing::ValuesIn(Params()), ParamName);

TEST_P(FusedAttentionTest, HeadDims) {
  for (const auto& [qk, v] : std::vector<std::pair<int32_t, int32_t>>{{1, 1},
                                                                      {3, 5},
                                                                      {16, 16},
                                                                      {31, 33},
                                                                      {64, 64},
                                                                      {65, 63},
                                                                      {80, 48},
                                                                      {96, 128},
                                                                      {128, 128},
                                                                      {192, 128},
                                                                      {256, 256}}) {
    Spec spec = Base();
    spec.dim_qk = qk;
    spec.dim_v = v;
    spec.sequences = {{37, 75}};
    Check(spec, "dims " + std::to_string(qk) + " " + std::to_string(v));
  }
}

TEST_P(FusedAttentionTest, LargestHeadDims) {
  for (const auto& [qk, v] : std::vector<std::pair<int32_t, int32_t>>{{576, 512}, {1024, 1024}, {1023, 1}}) {
    Spec spec = Base();
    spec.q_heads = 4;
    spec.kv_heads = 1;
    spec.dim_qk = qk;
    spec.dim_v = v;
    spec.sequences = {{9, 70}};
    Check(spec, "dims " + std::to_string(qk) + " " + std::to_string(v));
  }
}

TEST_P(FusedAttentionTest, LengthsAroundTiles) {
  for (const int64_t q_len : {1, 2, 4, 5, 15, 16, 17, 63, 64, 65, 130}) {
    for (const int64_t kv_len : {1, 31, 32, 33, 96, 97, 257}) {
      Spec spec = Base();
      spec.dim_qk = spec.dim_v = 16;
      spec.q_heads = spec.kv_heads = 1;
      spec.sequences = {{q_len, kv_len}};
      Check(spec, "lengths " + std::to_string(q_len) + " " + std::to_string(kv_len));
    }
  }
}

TEST_P(FusedAttentionTest, ManyTilesOfRowsAndKeys) {
  Spec spec = Base();
  spec.q_heads = 1;
  spec.kv_heads = 1;
  spec.dim_qk = spec.dim_v = 32;
  spec.sequences = {{330, 420}};
  spec.tile_q = 64;
  spec.tile_kv = 64;
  Check(spec, "full");
  spec.sequences[0].window_right = 0;
  spec.sequences[0].diagonal_offset = 90;
  Check(spec, "causal");
}

TEST_P(FusedAttentionTest, Windows) {
  for (const SequenceSpec& sequence : std::vector<SequenceSpec>{{100, 100, 0, -1, 0},
                                                                {60, 150, 90, -1, 0},
                                                                {150, 60, -90, -1, 0},
                                                                {150, 60, 0, -1, 0},
                                                                {130, 130, 0, 10, 0},
                                                                {130, 130, 0, 0, 0},
                                                                {130, 200, 5, 40, 3},
                                                                {130, 200, 0, 20, -1},
                                                                {50, 300, 1000, 10, 10},
                                                                {50, 300, -1000, 10, 10},
                                                                {3, 300, 297, 50, 0},
                                                                {70, 300, 0, INT64_MAX, INT64_MAX}}) {
    Spec spec = Base();
    spec.dim_qk = spec.dim_v = 32;
    spec.sequences = {sequence};
    spec.tile_kv = 32;
    Check(spec, "window " + std::to_string(sequence.diagonal_offset) + " " +
                    std::to_string(sequence.window_left) + " " + std::to_string(sequence.window_right));
  }
}

TEST_P(FusedAttentionTest, GroupedHeads) {
  for (const int32_t kv_heads : {1, 2, 6}) {
    for (const int64_t q_len : {1, 3, 40}) {
      Spec spec = Base();
      spec.q_heads = 12;
      spec.kv_heads = kv_heads;
      spec.sequences = {{q_len, 90, 90 - q_len, -1, 0}};
      Check(spec, "kv_heads " + std::to_string(kv_heads) + " q_len " + std::to_string(q_len));
    }
  }
}

TEST_P(FusedAttentionTest, RaggedBatchWithEmptySequences) {
  Spec spec = Base();
  spec.sequences = {{0, 5}, {7, 0}, {1, 300, 299, -1, 0}, {65, 65, 0, -1, 0}, {0, 0}, {20, 129}};
  spec.sinks = true;
  Check(spec, "with sinks");
  spec.sinks = false;
  spec.head_major = true;
  Check(spec, "head-major");
}

TEST_P(FusedAttentionTest, LogitFeatures) {
  for (int features = 1; features < 8; ++features) {
    for (const int64_t q_len : {2, 50}) {
      Spec spec = Base();
      spec.q_heads = 4;
      spec.kv_heads = 2;
      spec.sequences = {{q_len, 110, 110 - q_len, -1, 0}};
      spec.softcap = features & 1 ? 2.0f : 0.0f;
      spec.alibi = features & 2;
      spec.sinks = features & 4;
      Check(spec, "features " + std::to_string(features) + " q_len " + std::to_string(q_len));
    }
  }
}

TEST_P(FusedAttentionTest, DenseMasks) {
  for (const tessera_dtype mask_dtype :
       {TESSERA_DTYPE_BOOL, TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (int broadcast = 0; broadcast < 4; ++broadcast) {
      Spec spec = Base();
      spec.mask_kind = mask_dtype == TESSERA_DTYPE_BOOL ? TESSERA_MASK_BOOLEAN : TESSERA_MASK_ADDITIVE;
      spec.mask_dtype = mask_dtype;
      spec.mask_broadcast_heads = broadcast & 1;
      spec.mask_broadcast_rows = broadcast & 2;
      spec.mask_density = broadcast == 0 ? 0.02 : 0.7;  // sparse: some rows see nothing
      spec.dim_qk = spec.dim_v = 24;
      spec.sequences = {{33, 70, 37, -1, 0}, {2, 100}};
      Check(spec, "mask dtype " + std::to_string(mask_dtype) + " broadcast " + std::to_string(broadcast));
    }
  }
}

TEST_P(FusedAttentionTest, Scales) {
  for (const float scale : {-0.125f, 1e-4f, 0.5f}) {
    for (const int64_t q_len : {1, 30}) {
      Spec spec = Base();
      spec.scale = scale;
      spec.sequences = {{q_len, 80, 80 - q_len, -1, 0}};
      Check(spec, "scale " + std::to_string(scale));
    }
  }
}

TEST_P(FusedAttentionTest, HugeLogitsDoNotOverflow) {
  for (const int64_t q_len : {1, 30}) {
    Spec spec = Base();
    spec.magnitude = 60;
    spec.sequences = {{q_len, 200}};
    Check(spec, "q_len " + std::to_string(q_len));
  }
}

// Logits whose neighbouring floats lie hundreds apart: a maximum and an exponent rounded differently would
// not cancel.
TEST_P(FusedAttentionTest, LogitsBeyondIntegersDoNotOverflow) {
  for (const float scale : {1e5f, 1e8f, 1e15f}) {
    for (const int64_t q_len : {1, 30}) {
      for (const bool causal : {false, true}) {
        Spec spec = Base();
        spec.magnitude = 60;
        spec.scale = scale;
        spec.num_splits = causal ? 2 : 1;
        spec.tile_kv = 64;
        spec.sequences = {{q_len, 200, 200 - q_len, -1, causal ? 0 : -1}};
        Check(spec, "scale " + std::to_string(scale) + " q_len " + std::to_string(q_len));
      }
    }
  }
}

TEST_P(FusedAttentionTest, OutputDtypes) {
  for (const tessera_dtype out : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (const int32_t splits : {1, 3}) {
      Spec spec = Base();
      spec.out_dtype = out;
      spec.num_splits = splits;
      spec.tile_kv = 32;
      spec.lse = false;
      spec.dim_v = 41;
      spec.sequences = {{1, 150}, {35, 150}};
      Check(spec, "out " + std::to_string(out));
    }
  }
}

TEST_P(FusedAttentionTest, Splits) {
  for (const int32_t splits : {2, 3, 7, 100}) {
    Spec spec = Base();
    spec.q_heads = 4;
    spec.kv_heads = 2;
    spec.sequences = {{1, 400, 399, -1, 0}, {0, 10}, {9, 300, 20, 30, 0}, {5, 0}, {40, 33, 0, -1, 0}};
    spec.num_splits = splits;
    spec.tile_kv = 32;
    spec.sinks = splits != 3;
    Check(spec, "splits " + std::to_string(splits));
  }
}

TEST_P(FusedAttentionTest, AutomaticConfigSplitsLongKeys) {
  Spec spec = Base();
  spec.q_heads = 2;
  spec.kv_heads = 1;
  spec.sequences = {{1, 3000, 2999, -1, 0}};
  spec.num_splits = 0;
  spec.workers = 3;
  Check(spec, "auto");
}

// Keys that no row sees hold NaN and Inf; so do keys that some rows do not see.
TEST_P(FusedAttentionTest, HiddenNonFiniteKeysDoNotLeak) {
  for (const int64_t q_len : {2, 80}) {
    for (const int32_t splits : {1, 2}) {
      Spec spec = Base();
      spec.sequences = {{q_len, 100, 20 - q_len, -1, 0}, {q_len, 40}};
      spec.num_splits = splits;
      spec.tile_kv = 32;
      Case test(spec, GetParam().isa);
      for (int64_t token = 20; token < 100; ++token) {
        for (int32_t d = 0; d < 64; ++d) {
          test.SetK(token, 0, d, d % 2 ? kNan : INFINITY);
          test.SetV(token, 0, d, d % 3 ? kNan : -INFINITY);
        }
      }
      test.RunAndCheck();
    }
  }
}

TEST_P(FusedAttentionTest, VisibleNonFiniteValuesReachTheirRowsOnly) {
  for (const int64_t q_len : {2, 100}) {
    Spec spec = Base();
    spec.dim_v = 50;
    spec.sequences = {{q_len, 100, 100 - q_len, -1, 0}};
    Case test(spec, GetParam().isa);
    test.SetV(99, 0, 7, kNan);
    test.SetV(60, 1, 9, INFINITY);
    test.SetV(98, 1, 11, -INFINITY);
    test.SetK(97, 0, 3, kNan);
    test.RunAndCheck();
  }
}

// An infinite key gives each row +inf, which makes it NaN, or -inf, which weighs nothing.
TEST_P(FusedAttentionTest, InfiniteLogits) {
  for (const int64_t q_len : {2, 100}) {
    for (const int32_t splits : {1, 2}) {
      Spec spec = Base();
      spec.num_splits = splits;
      spec.tile_kv = 32;
      spec.sequences = {{q_len, 100}};
      Case test(spec, GetParam().isa);
      test.SetK(40, 0, 3, INFINITY);
      test.SetK(70, 1, 5, -INFINITY);
      test.RunAndCheck();
    }
  }
}

TEST_P(FusedAttentionTest, MaskHidesNonFiniteKeys) {
  for (const int64_t q_len : {2, 40}) {
    Spec spec = Base();
    spec.mask_kind = TESSERA_MASK_ADDITIVE;
    spec.mask_dtype = TESSERA_DTYPE_FP32;
    spec.sequences = {{q_len, 70}};
    Case test(spec, GetParam().isa);
    test.SetV(10, 0, 7, kNan);
    test.SetK(13, 1, 3, kNan);
    test.RunAndCheck();
  }
}

TEST_P(FusedAttentionTest, ResultsDoNotDependOnWorkersOrRowTiles) {
  Spec spec = Base();
  spec.sequences = {{150, 300, 150, -1, 0}};
  spec.tile_kv = 64;
  Case one(spec, GetParam().isa), other(spec, GetParam().isa);
  one.Run();
  spec.workers = 5;
  spec.tile_q = 16;
  Case many(spec, GetParam().isa);
  many.Run();
  EXPECT_EQ(one.output(), many.output());
  EXPECT_EQ(one.lse(), many.lse());
}

TEST(FusedTilesTest, AConfigThatHoldsThemRunsWithThem) {
  for (const Param& param : Params()) {
    for (const int64_t q_len : {1, 100, 300, 5000}) {
      for (const int32_t dim : {64, 1024}) {
        for (const int32_t num_splits : {0, 1, 3}) {
          tessera_sequence sequence{};
          sequence.q_len = q_len;
          sequence.kv_len = 5000;
          sequence.window_left = sequence.window_right = -1;
          tessera_attention_problem problem{};
          problem.num_q_heads = problem.num_kv_heads = 2;
          problem.head_dim_qk = problem.head_dim_v = dim;
          problem.q.dtype = problem.k.dtype = problem.v.dtype = problem.o.dtype = param.dtype;
          problem.sequences = &sequence;
          problem.num_sequences = 1;
          FusedConfig config{
              .isa = param.isa, .tile_q = 304, .tile_kv = 200, .num_splits = num_splits, .num_workers = 16};
          const FusedTiles tiles = TilesOf(problem, config);
          EXPECT_LE(tiles.tile_q, 304);
          EXPECT_LE(tiles.scratch_bytes, kMaxScratchPerWorker);
          config.tile_q = tiles.tile_q;
          config.tile_kv = tiles.tile_kv;
          config.num_splits = tiles.num_splits;
          const FusedTiles again = TilesOf(problem, config);
          EXPECT_EQ(tiles.tile_q, again.tile_q);
          EXPECT_EQ(tiles.tile_kv, again.tile_kv);
          EXPECT_EQ(tiles.num_splits, again.num_splits);
        }
      }
    }
  }
}

TEST(FusedWorkspaceTest, StaysWithinOneMiBPerWorker) {
  for (const Param& param : Params()) {
    for (const int32_t dim : {64, 128, 576, 1024}) {
      tessera_sequence sequence{};
      sequence.q_len = sequence.kv_len = 16384;
      sequence.window_left = sequence.window_right = -1;
      tessera_attention_problem problem{};
      problem.struct_size = sizeof problem;
      problem.num_q_heads = problem.num_kv_heads = 16;
      problem.head_dim_qk = problem.head_dim_v = dim;
      problem.q.dtype = problem.k.dtype = problem.v.dtype = problem.o.dtype = param.dtype;
      problem.sequences = &sequence;
      problem.num_sequences = 1;
      FusedConfig config;
      config.isa = param.isa;
      config.num_workers = 16;
      EXPECT_LE(FusedWorkspaceBytes(problem, config), 16 * kMaxScratchPerWorker + (int64_t{1} << 20)) << dim;
    }
  }
}

}  // namespace
}  // namespace tessera::kernels::cpu
