// Validate(): what is accepted, and for every refusal its code, reason, field, expected and actual.
#include "backend/core/attention_problem.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "absl/hash/hash_testing.h"
#include "gtest/gtest.h"
#include "tests/backend/status_expectations.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::ErrorMetadata;
using testing::ExpectError;
using testing::TestProblem;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

// Heads 4 and 2, head dims 8 and 4, lengths (3, 5) and (2, 7), fp32, LSE wanted; see TestProblem.
struct Refusal {
  const char* name;
  std::function<void(AttentionProblem&, std::vector<Sequence>&)> spoil;
  const char* reason;
  const char* field;
  const char* expected;
  const char* actual;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

using P = AttentionProblem;
using S = std::vector<Sequence>;
constexpr char kExtent[] = "0..1099511627776";
constexpr char kAtMost[] = "at most 1099511627776";
constexpr auto kOutOfRange = absl::StatusCode::kOutOfRange;

float per_head[4] = {0, 0, 0, 0};
float* PerHead(int index, float value) {
  std::fill(std::begin(per_head), std::end(per_head), 0.5f);
  per_head[index] = value;
  return per_head;
}
void MakeFp8(P& p) { p.q.dtype = p.k.dtype = p.v.dtype = TESSERA_DTYPE_FP8_E4M3; }
// fp8 inputs with scales of heads, one of which is `value`.
std::function<void(P&, S&)> Fp8With(tessera_scales P::*scales, int head, float value) {
  return [=](P& p, S&) {
    MakeFp8(p);
    p.*scales = {PerHead(head, value), 0, 1};
  };
}
template <typename T>
void Misalign(T*& data) {
  data = reinterpret_cast<T*>(uintptr_t{0x1001});
}

const Refusal kRefusals[] = {
    {"StructSizeZero", [](P& p, S&) { p.struct_size = 0; }, "STRUCT_SIZE_INVALID", "struct_size",
     "at least 336", "0"},
    {"ZeroQHeads", [](P& p, S&) { p.num_q_heads = 0; }, "HEAD_COUNT_INVALID", "num_q_heads", "at least 1",
     "0"},
    {"NegativeKvHeads", [](P& p, S&) { p.num_kv_heads = -2; }, "HEAD_COUNT_INVALID", "num_kv_heads",
     "at least 1", "-2"},
    {"HeadsNotDivisible", [](P& p, S&) { p.num_kv_heads = 3; }, "HEAD_COUNT_NOT_DIVISIBLE", "num_q_heads",
     "a multiple of num_kv_heads = 3", "4"},
    {"FewerQHeadsThanKvHeads", [](P& p, S&) { p.num_kv_heads = 8; }, "HEAD_COUNT_NOT_DIVISIBLE",
     "num_q_heads", "a multiple of num_kv_heads = 8", "4"},
    {"ZeroHeadDim", [](P& p, S&) { p.head_dim_qk = 0; }, "HEAD_DIM_INVALID", "head_dim_qk", "at least 1",
     "0"},
    {"NegativeHeadDimV", [](P& p, S&) { p.head_dim_v = -4; }, "HEAD_DIM_INVALID", "head_dim_v", "at least 1",
     "-4"},
    {"HugeHeads", [](P& p, S&) { p.num_q_heads = p.num_kv_heads = p.head_dim_v = 2147483647; },
     "EXTENT_TOO_LARGE", "num_q_heads * head_dim_v", kAtMost, "4611686014132420609"},

    {"NanScale", [](P& p, S&) { p.scale = kNaN; }, "SCALE_INVALID", "scale", "a finite number", "nan"},
    {"InfiniteScale", [](P& p, S&) { p.scale = -kInf; }, "SCALE_INVALID", "scale", "a finite number", "-inf"},
    {"NegativeSoftcap", [](P& p, S&) { p.softcap = -30; }, "SOFTCAP_INVALID", "softcap",
     "0 (off) or a positive finite number", "-30"},
    {"NanSoftcap", [](P& p, S&) { p.softcap = kNaN; }, "SOFTCAP_INVALID", "softcap",
     "0 (off) or a positive finite number", "nan"},
    {"InfiniteSoftcap", [](P& p, S&) { p.softcap = kInf; }, "SOFTCAP_INVALID", "softcap",
     "0 (off) or a positive finite number", "inf"},
    {"NanSlope", [](P& p, S&) { p.alibi_slopes = PerHead(2, kNaN); }, "ALIBI_SLOPE_INVALID",
     "alibi_slopes[2]", "a finite number", "nan"},
    {"InfiniteSlope", [](P& p, S&) { p.alibi_slopes = PerHead(0, -kInf); }, "ALIBI_SLOPE_INVALID",
     "alibi_slopes[0]", "a finite number", "-inf"},
    {"NanSink", [](P& p, S&) { p.sinks = PerHead(3, kNaN); }, "SINK_INVALID", "sinks[3]",
     "a finite number or -inf", "nan"},
    {"InfiniteSink", [](P& p, S&) { p.sinks = PerHead(1, kInf); }, "SINK_INVALID", "sinks[1]",
     "a finite number or -inf", "inf"},
    {"MisalignedSinks", [](P& p, S&) { Misalign(p.sinks); }, "DATA_MISALIGNED", "sinks",
     "an address that is a multiple of 4", "0x1001"},

    {"UnknownDType", [](P& p, S&) { p.q.dtype = static_cast<DType>(77); }, "DTYPE_INVALID", "q.dtype",
     "one of fp32, fp16, bf16, fp8_e4m3", "invalid(77)"},
    {"NegativeDType", [](P& p, S&) { p.q.dtype = static_cast<DType>(-1); }, "DTYPE_INVALID", "q.dtype",
     "one of fp32, fp16, bf16, fp8_e4m3", "invalid(-1)"},
    {"BoolInput", [](P& p, S&) { p.q.dtype = p.k.dtype = p.v.dtype = TESSERA_DTYPE_BOOL; }, "DTYPE_INVALID",
     "q.dtype", "one of fp32, fp16, bf16, fp8_e4m3", "bool"},
    {"MixedInputs", [](P& p, S&) { p.v.dtype = TESSERA_DTYPE_FP16; }, "DTYPE_MISMATCH", "v.dtype",
     "fp32 as q", "fp16"},
    {"Fp8Output", [](P& p, S&) { p.o.dtype = TESSERA_DTYPE_FP8_E4M3; }, "OUTPUT_DTYPE_INVALID", "o.dtype",
     "one of fp32, fp16, bf16", "fp8_e4m3"},
    {"NoOutputDType", [](P& p, S&) { p.o.dtype = TESSERA_DTYPE_INVALID; }, "OUTPUT_DTYPE_INVALID", "o.dtype",
     "one of fp32, fp16, bf16", "invalid(0)"},

    {"ScalesOfFp32",
     [](P& p, S&) {
       p.k_scales = {PerHead(0, 1), 0, 1};
     },
     "SCALES_UNEXPECTED", "k_scales", "none, as the inputs are fp32 and not fp8_e4m3", "scales"},
    {"ScalesOfBf16",
     [](P& p, S&) {
       p.q.dtype = p.k.dtype = p.v.dtype = TESSERA_DTYPE_BF16;
       p.v_scales = {PerHead(0, 1), 0, 0};
     },
     "SCALES_UNEXPECTED", "v_scales", "none, as the inputs are bf16 and not fp8_e4m3", "scales"},
    {"ZeroScale", Fp8With(&P::q_scales, 3, 0), "TENSOR_SCALE_INVALID", "q_scales[0][3]",
     "a finite number above 0", "0"},
    {"NegativeScale", Fp8With(&P::k_scales, 1, -1), "TENSOR_SCALE_INVALID", "k_scales[0][1]",
     "a finite number above 0", "-1"},
    {"NanTensorScale", Fp8With(&P::v_scales, 0, kNaN), "TENSOR_SCALE_INVALID", "v_scales[0][0]",
     "a finite number above 0", "nan"},
    {"InfiniteTensorScale", Fp8With(&P::v_scales, 1, kInf), "TENSOR_SCALE_INVALID", "v_scales[0][1]",
     "a finite number above 0", "inf"},
    {"ZeroScaleOfSecondSequence",
     [](P& p, S&) {
       MakeFp8(p);
       p.k_scales = {PerHead(2, 0), 2, 1};
     },
     "TENSOR_SCALE_INVALID", "k_scales[1][0]", "a finite number above 0", "0"},
    {"MisalignedScales",
     [](P& p, S&) {
       MakeFp8(p);
       Misalign(p.k_scales.data);
     },
     "DATA_MISALIGNED", "k_scales.data", "an address that is a multiple of 4", "0x1001"},
    {"NegativeScaleStride",
     [](P& p, S&) {
       MakeFp8(p);
       p.k_scales = {PerHead(0, 1), -1, 1};
     },
     "STRIDE_INVALID", "k_scales.sequence_stride", kExtent, "-1"},
    {"HugeScaleStride",
     [](P& p, S&) {
       MakeFp8(p);
       p.q_scales = {PerHead(0, 1), 0, kMax};
     },
     "EXTENT_TOO_LARGE", "q_scales.head_stride", kExtent, "9223372036854775807"},
    {"FarScales",
     [](P& p, S&) {
       MakeFp8(p);
       p.q_scales = {PerHead(0, 1), int64_t{1} << 40, 1};
     },
     "EXTENT_TOO_LARGE", "q_scales.sequence_stride", "scales that reach at most 1099511627776 elements",
     "2199023255556"},

    {"UnknownMaskKind", [](P& p, S&) { p.mask_kind = static_cast<tessera_mask_kind>(9); },
     "MASK_KIND_INVALID", "mask_kind", "0 (none), 1 (boolean) or 2 (additive)", "9"},
    {"MaskDTypeWithoutMask", [](P& p, S&) { p.mask_dtype = TESSERA_DTYPE_BOOL; }, "MASK_DTYPE_INVALID",
     "mask_dtype", "invalid(0) for no mask", "bool"},
    {"FloatBooleanMask",
     [](P& p, S&) {
       p.mask_kind = TESSERA_MASK_BOOLEAN;
       p.mask_dtype = TESSERA_DTYPE_FP32;
     },
     "MASK_DTYPE_INVALID", "mask_dtype", "bool for a boolean mask", "fp32"},
    {"BoolAdditiveMask",
     [](P& p, S&) {
       p.mask_kind = TESSERA_MASK_ADDITIVE;
       p.mask_dtype = TESSERA_DTYPE_BOOL;
     },
     "MASK_DTYPE_INVALID", "mask_dtype", "one of fp32, fp16, bf16 for an additive mask", "bool"},
    {"MaskMissing",
     [](P& p, S&) {
       p.mask_kind = TESSERA_MASK_BOOLEAN;
       p.mask_dtype = TESSERA_DTYPE_BOOL;
     },
     "MASK_MISSING", "sequences[0].mask", "a mask, as mask_kind is not none", "null"},
    {"MaskUnexpected", [](P&, S& s) { s[1].mask = &s; }, "MASK_UNEXPECTED", "sequences[1].mask",
     "null, as mask_kind is none", "a pointer"},
    {"MaskMisaligned",
     [](P& p, S& s) {
       p.mask_kind = TESSERA_MASK_ADDITIVE;
       p.mask_dtype = TESSERA_DTYPE_BF16;
       Misalign(s[0].mask);
     },
     "DATA_MISALIGNED", "sequences[0].mask", "an address that is a multiple of 2", "0x1001"},
    {"MaskStrideNegative",
     [](P& p, S& s) {
       p.mask_kind = TESSERA_MASK_BOOLEAN;
       p.mask_dtype = TESSERA_DTYPE_BOOL;
       s[0].mask = &s;
       s[0].mask_q_stride = -1;
     },
     "STRIDE_INVALID", "sequences[0].mask_q_stride", kExtent, "-1"},
    {"MaskSpanHuge",
     [](P& p, S& s) {
       p.mask_kind = TESSERA_MASK_BOOLEAN;
       p.mask_dtype = TESSERA_DTYPE_BOOL;
       s[0].mask = &s;
       s[0].mask_head_stride = kMaxExtent;
     },
     "EXTENT_TOO_LARGE", "sequences[0].mask", "lengths and strides that span at most 1099511627776 elements",
     "4398046511104"},

    {"NegativeElements", [](P& p, S&) { p.q.num_elements = -1; }, "TENSOR_SIZE_INVALID", "q.num_elements",
     kExtent, "-1"},
    {"HugeElements", [](P& p, S&) { p.k.num_elements = kMax; }, "EXTENT_TOO_LARGE", "k.num_elements", kExtent,
     "9223372036854775807"},
    {"NegativeTokenStride", [](P& p, S&) { p.v.token_stride = kMin; }, "STRIDE_INVALID", "v.token_stride",
     kExtent, "-9223372036854775808"},
    {"HugeTokenStride", [](P& p, S&) { p.o.token_stride = kMax; }, "EXTENT_TOO_LARGE", "o.token_stride",
     kExtent, "9223372036854775807"},
    {"NegativeLseStride", [](P& p, S&) { p.lse.head_stride = -1; }, "STRIDE_INVALID", "lse.head_stride",
     kExtent, "-1"},
    {"HugeHeadSpan", [](P& p, S&) { p.q.head_stride = kMaxExtent; }, "EXTENT_TOO_LARGE",
     "heads * q.head_stride", kAtMost, "4398046511104"},
    {"NullQ", [](P& p, S&) { p.q.data = nullptr; }, "DATA_MISSING", "q.data", "memory for 160 elements",
     "null"},
    {"NullO", [](P& p, S&) { p.o.data = nullptr; }, "DATA_MISSING", "o.data", "memory for 80 elements",
     "null"},
    {"NullLseWithExtent", [](P& p, S&) { p.lse.data = nullptr; }, "DATA_MISSING", "lse.data",
     "memory for 20 elements", "null"},
    {"MisalignedK", [](P& p, S&) { Misalign(p.k.data); }, "DATA_MISALIGNED", "k.data",
     "an address that is a multiple of 4", "0x1001"},
    {"MisalignedLse", [](P& p, S&) { Misalign(p.lse.data); }, "DATA_MISALIGNED", "lse.data",
     "an address that is a multiple of 4", "0x1001"},

    {"NegativeSequenceCount", [](P& p, S&) { p.num_sequences = -1; }, "SEQUENCE_COUNT_INVALID",
     "num_sequences", kExtent, "-1"},
    {"NullSequences", [](P& p, S&) { p.sequences = nullptr; }, "SEQUENCES_MISSING", "sequences",
     "2 sequences", "null"},
    {"NegativeQLen", [](P&, S& s) { s[1].q_len = -1; }, "LENGTH_INVALID", "sequences[1].q_len", kExtent,
     "-1"},
    {"HugeKvLen", [](P&, S& s) { s[0].kv_len = kMax; }, "EXTENT_TOO_LARGE", "sequences[0].kv_len", kExtent,
     "9223372036854775807"},
    {"NegativeBegin", [](P&, S& s) { s[0].kv_begin = -3; }, "BEGIN_INVALID", "sequences[0].kv_begin", kExtent,
     "-3"},
    {"HugeBegin", [](P&, S& s) { s[0].q_begin = kMax; }, "EXTENT_TOO_LARGE", "sequences[0].q_begin", kExtent,
     "9223372036854775807"},
    {"HugeDiagonal", [](P&, S& s) { s[0].diagonal_offset = kMin; }, "EXTENT_TOO_LARGE",
     "sequences[0].diagonal_offset", "-1099511627776..1099511627776", "-9223372036854775808"},
    {"HugeWindow", [](P&, S& s) { s[1].window_left = kMax; }, "EXTENT_TOO_LARGE", "sequences[1].window_left",
     "at most 1099511627776 (negative: no limit)", "9223372036854775807"},

    {"QueriesPastTheEnd", [](P&, S& s) { s[1].q_len = 3; }, "SEQUENCE_OUT_OF_RANGE", "sequences[1].q_begin",
     "tokens within the 160 elements of q", "3 tokens from 3 on, the last element at 191", kOutOfRange},
    {"KeysPastTheEnd", [](P&, S& s) { s[1].kv_begin = 6; }, "SEQUENCE_OUT_OF_RANGE", "sequences[1].kv_begin",
     "tokens within the 192 elements of k", "7 tokens from 6 on, the last element at 207", kOutOfRange},
    {"ValuesShorterThanKeys", [](P& p, S&) { p.v.num_elements -= 1; }, "SEQUENCE_OUT_OF_RANGE",
     "sequences[1].kv_begin", "tokens within the 95 elements of v",
     "7 tokens from 5 on, the last element at 95", kOutOfRange},
    {"OutputTooShort", [](P& p, S&) { p.o.num_elements = 79; }, "SEQUENCE_OUT_OF_RANGE",
     "sequences[1].q_begin", "tokens within the 79 elements of o",
     "2 tokens from 3 on, the last element at 79", kOutOfRange},
    {"LseTooShort", [](P& p, S&) { p.lse.num_elements = 19; }, "SEQUENCE_OUT_OF_RANGE",
     "sequences[1].q_begin", "tokens within the 19 elements of lse",
     "2 tokens from 3 on, the last element at 19", kOutOfRange},
    {"StrideReachesPastTheEnd", [](P& p, S&) { p.k.token_stride = kMaxExtent; }, "SEQUENCE_OUT_OF_RANGE",
     "sequences[0].kv_begin", "tokens within the 192 elements of k",
     "5 tokens from 0 on, the last element at 4398046511119", kOutOfRange},
    {"LengthTimesStrideBeyondInt64",
     [](P& p, S& s) {
       p.k.token_stride = kMaxExtent;
       s[0].kv_len = kMaxExtent;
     },
     "SEQUENCE_OUT_OF_RANGE", "sequences[0].kv_begin", "tokens within the 192 elements of k",
     "1099511627776 tokens from 0 on, the last element at 9223372036854775807", kOutOfRange},
    {"EmptySequenceFarAway",
     [](P&, S& s) {
       s[1].q_len = 0;
       s[1].q_begin = kMaxExtent;
     },
     "EXTENT_TOO_LARGE", "sequences[1].q_begin * q.token_stride", kAtMost, "35184372088832"},
    {"TotalKeysHuge",
     [](P& p, S& s) {
       p.k.token_stride = p.v.token_stride = 0;
       s[0].kv_len = s[1].kv_len = kMaxExtent;
     },
     "EXTENT_TOO_LARGE", "sum of kv_len", kAtMost, "2199023255552"},

    {"SharedOutputRows", [](P&, S& s) { s[1].q_begin = 2; }, "OUTPUT_ROWS_OVERLAP", "sequences[1]",
     "rows of o that no other sequence writes", "rows shared with sequences[0]"},
    {"BroadcastOutputTokens", [](P& p, S&) { p.o.token_stride = 0; }, "OUTPUT_ROWS_OVERLAP", "o strides",
     "strides that keep the rows of 4 heads and 3 tokens apart, 4 elements each",
     "token_stride 0, head_stride 4"},
    {"BroadcastLseHeads", [](P& p, S&) { p.lse.head_stride = 0; }, "OUTPUT_ROWS_OVERLAP", "lse strides",
     "strides that keep the rows of 4 heads and 3 tokens apart, 1 elements each",
     "token_stride 4, head_stride 0"},
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.reason << " at " << refusal.field; }

class RefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, SaysWhatAndWhy) {
  const Refusal& refusal = GetParam();
  TestProblem problem;
  refusal.spoil(problem.problem, problem.sequences);
  const absl::Status status = Validate(problem.problem);
  ExpectError(status, refusal.code, refusal.reason);
  EXPECT_EQ(ErrorMetadata(status, "field"), refusal.field);
  EXPECT_EQ(ErrorMetadata(status, "expected"), refusal.expected);
  EXPECT_EQ(ErrorMetadata(status, "actual"), refusal.actual);
  EXPECT_EQ(std::string(status.message()),
            absl::StrCat(refusal.field, ": expected ", refusal.expected, ", got ", refusal.actual));
}

INSTANTIATE_TEST_SUITE_P(Validate, RefusalTest, ::testing::ValuesIn(kRefusals),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ProblemTest, AcceptsTheExample) {
  TestProblem problem;
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
  problem.AddBooleanMask();
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

TEST(ProblemTest, AcceptsALargerStruct) {
  TestProblem problem;
  problem.problem.struct_size += 64;  // of a caller with a newer header
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

TEST(ProblemTest, ShapesOnlyNeedsNoMemory) {
  TestProblem problem;
  problem.AddBooleanMask();
  AttentionProblem& p = problem.problem;
  p.q.data = p.k.data = p.v.data = p.o.data = nullptr;
  p.lse.data = nullptr;
  for (Sequence& s : problem.sequences) s.mask = nullptr;
  EXPECT_EQ(Validate(p, DataRequirement::kShapesOnly), absl::OkStatus());
  ExpectError(Validate(p, DataRequirement::kRequired), absl::StatusCode::kInvalidArgument, "DATA_MISSING");
  p.q.num_elements -= 1;
  ExpectError(Validate(p, DataRequirement::kShapesOnly), absl::StatusCode::kOutOfRange,
              "SEQUENCE_OUT_OF_RANGE");
}

TEST(ProblemTest, AcceptsNothingToDo) {
  TestProblem none({.sequences = {}});
  EXPECT_EQ(Validate(none.problem), absl::OkStatus());
  TestProblem empty({.sequences = {{0, 0}, {3, 0}, {0, 4}, {0, 0}}});
  EXPECT_EQ(Validate(empty.problem), absl::OkStatus());
}

// The last sequence is empty and begins behind the last token of a tensor whose tokens lie apart.
TEST(ProblemTest, AcceptsEmptySequenceBehindAStridedTensor) {
  TestProblem problem({.sequences = {{2, 2}, {0, 0}}});
  TensorView& k = problem.problem.k;
  k.token_stride = k.num_elements / 2 + 100;
  k.num_elements += 100;
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

TEST(ProblemTest, AcceptsKeysSharedBySequences) {
  TestProblem problem;
  problem.sequences[1].kv_begin = 0;
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

TEST(ProblemTest, AcceptsBroadcastKeys) {
  TestProblem problem;
  problem.problem.k.token_stride = 0;
  problem.problem.v.head_stride = 0;
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

TEST(ProblemTest, AcceptsSinkOfMinusInfinityAndZeroScale) {
  TestProblem problem;
  problem.problem.sinks = PerHead(0, -kInf);
  problem.problem.scale = 0;
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

TEST(ProblemTest, AcceptsFp8WithAndWithoutScales) {
  TestProblem problem;
  AttentionProblem& p = problem.problem;
  MakeFp8(p);
  EXPECT_EQ(Validate(p), absl::OkStatus());
  // Of two sequences: (2, 4) for q, (2, 2) for k, one for all of v; what lies between is not looked at.
  const float q_scales[] = {1, 2, 3, 4, kNaN, 5, 6, 7, 1e-30f};
  const float k_scales[] = {1, 2, 3e38f, std::numeric_limits<float>::denorm_min()};
  const float v_scale = 0.5f;
  p.q_scales = {q_scales, 5, 1};
  p.k_scales = {k_scales, 2, 1};
  p.v_scales = {&v_scale, 0, 0};
  EXPECT_EQ(Validate(p), absl::OkStatus());
  EXPECT_EQ(ScaleOf(p.q_scales, 1, 2), 7);
  EXPECT_EQ(ScaleOf(p.k_scales, 1, 0), 3e38f);
  EXPECT_EQ(ScaleOf(p.v_scales, 1, 1), 0.5f);
  EXPECT_EQ(ScaleOf({}, 1, 1), 1);
}

TEST(ProblemTest, AcceptsScalesOfNoSequences) {
  TestProblem none({.sequences = {}});
  MakeFp8(none.problem);
  const float scale = kNaN;  // of no element
  none.problem.q_scales = {&scale, 0, 0};
  EXPECT_EQ(Validate(none.problem), absl::OkStatus());
}

TEST(ProblemTest, AcceptsUnlimitedWindows) {
  TestProblem problem;
  problem.sequences[0].window_left = kMin;
  problem.sequences[0].window_right = kMaxExtent;
  EXPECT_EQ(Validate(problem.problem), absl::OkStatus());
}

// Two rows (batch entries) of 5 tokens in (batch, head, token, dim): begins count in token strides.
TEST(ProblemTest, AcceptsPaddedHeadMajorLayout) {
  TestProblem problem({.sequences = {{5, 5}, {5, 5}}});
  AttentionProblem& p = problem.problem;
  const auto head_major = [](auto& t, int64_t dim) {
    t.token_stride = dim;
    t.head_stride = 5 * dim;
  };
  head_major(p.q, p.head_dim_qk);
  head_major(p.k, p.head_dim_qk);
  head_major(p.v, p.head_dim_v);
  head_major(p.o, p.head_dim_v);
  head_major(p.lse, 1);
  problem.sequences[1].q_begin = p.num_q_heads * 5;
  problem.sequences[1].kv_begin = p.num_kv_heads * 5;
  problem.sequences[0].q_len = 2;  // padding behind
  EXPECT_EQ(Validate(p), absl::OkStatus());

  // One token further, the last head would reach past the end; one back, into the first entry's last head.
  problem.sequences[1].q_begin += 1;
  ExpectError(Validate(p), absl::StatusCode::kOutOfRange, "SEQUENCE_OUT_OF_RANGE");
  problem.sequences[1].q_begin -= 2;
  EXPECT_EQ(Validate(p), absl::OkStatus());  // the first entry has only 2 tokens there
  problem.sequences[0].q_len = 5;
  ExpectError(Validate(p), absl::StatusCode::kInvalidArgument, "OUTPUT_ROWS_OVERLAP");
}

TEST(FeaturesTest, NamesWhatIsUsed) {
  TestProblem plain({.q_heads = 2, .kv_heads = 2, .head_dim_qk = 4, .head_dim_v = 4, .lse = false});
  EXPECT_EQ(FeatureNames(FeaturesOf(plain.problem)), "none");
  TestProblem problem;
  EXPECT_EQ(FeatureNames(FeaturesOf(problem.problem)), "gqa, unequal_head_dim, lse");
  AttentionProblem& p = problem.problem;
  p.softcap = 30;
  p.alibi_slopes = p.sinks = per_head;
  p.o.dtype = TESSERA_DTYPE_BF16;
  problem.sequences[1].window_right = 0;
  EXPECT_EQ(FeatureNames(FeaturesOf(p)),
            "gqa, unequal_head_dim, causal, softcap, alibi, sinks, lse, output_dtype");
  problem.sequences[0].window_left = 0;
  problem.AddBooleanMask();
  EXPECT_EQ(FeaturesOf(p), static_cast<uint32_t>(TESSERA_FEATURE_ALL & ~TESSERA_FEATURE_ADDITIVE_MASK));
  p.mask_kind = TESSERA_MASK_ADDITIVE;
  EXPECT_EQ(FeatureNames(TESSERA_FEATURE_ALL),
            "gqa, unequal_head_dim, causal, window, softcap, alibi, sinks, boolean_mask, additive_mask, lse, "
            "output_dtype");
}

TEST(FeaturesTest, WindowToTheRightIsNotCausal) {
  TestProblem problem({.kv_heads = 4, .head_dim_v = 8, .lse = false});
  problem.sequences[0].window_right = 3;
  EXPECT_EQ(FeatureNames(FeaturesOf(problem.problem)), "window");
}

TEST(FeaturesTest, LseIsWantedByExtentInADryRun) {
  TestProblem problem;
  problem.problem.lse.data = nullptr;
  EXPECT_TRUE(FeaturesOf(problem.problem) & TESSERA_FEATURE_LSE);
  problem.problem.lse.num_elements = 0;
  EXPECT_FALSE(FeaturesOf(problem.problem) & TESSERA_FEATURE_LSE);
}

TEST(LaunchKeyTest, IgnoresSequencesAndAddresses) {
  TestProblem a, b({.sequences = {{9, 9}}});
  EXPECT_EQ(LaunchKeyOf(a.problem), LaunchKeyOf(b.problem));
}

TEST(LaunchKeyTest, DiffersInWhatOneLaunchShares) {
  const float slopes[4] = {1, 2, 3, 4}, other_slopes[4] = {1, 2, 3, 5};
  std::vector<LaunchKey> keys;
  const auto add = [&keys](const std::function<void(AttentionProblem&)>& change) {
    TestProblem problem;
    change(problem.problem);
    keys.push_back(LaunchKeyOf(problem.problem));
  };
  add([](P&) {});
  add([](P& p) { p.scale = 0.25f; });
  add([](P& p) { p.softcap = 30; });
  add([](P& p) { p.num_kv_heads = 1; });
  add([](P& p) { p.head_dim_v = 8; });
  add([](P& p) { p.q.dtype = TESSERA_DTYPE_BF16; });
  add([](P& p) { p.o.dtype = TESSERA_DTYPE_BF16; });
  add([](P& p) { p.k.head_stride += 1; });
  add([&](P& p) { p.alibi_slopes = slopes; });
  add([&](P& p) { p.alibi_slopes = other_slopes; });
  add([&](P& p) { p.sinks = slopes; });
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(keys[i] == keys[j]) << i << " and " << j;
  }
  EXPECT_TRUE(absl::VerifyTypeImplementsAbslHashCorrectly(keys));
}

}  // namespace
}  // namespace tessera
