#include "server/request_codec.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/request_builder.h"

namespace tessera {
namespace {

using testing::BytesOf;
using testing::ExpectError;
using testing::MakePackedRequest;
using testing::MakeRequest;
using testing::PayloadOf;
using testing::SetTensor;

absl::StatusOr<DecodedRequest> Decode(const v1::AttendRequest& request,
                                      DataRequirement data = DataRequirement::kRequired) {
  return DecodeRequest(request, PayloadOf(request), data);
}

// ---- What becomes of good requests ----

TEST(RequestCodecTest, LeavesThePayloadWhereItIsUntilTheInputsAreBound) {
  const v1::AttendRequest request = MakePackedRequest();
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->problem.q.data, nullptr);
  EXPECT_EQ(decoded->input_bytes, (5 * 4 * 8 + 9 * 2 * 8 + 9 * 2 * 6) * 4);
  EXPECT_EQ(TensorBytes(*decoded), decoded->input_bytes);
  EXPECT_EQ(decoded->output_bytes, 5 * 4 * 6 * 4);
  const auto inputs = BindInputs(*decoded);
  int raw = 0;
  for (const TensorView* view : {&decoded->problem.q, &decoded->problem.k, &decoded->problem.v}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 64, 0u);
    EXPECT_EQ(std::memcmp(view->data, request.raw(raw).data(), request.raw(raw).size()), 0);
    ++raw;
  }
}

TEST(RequestCodecTest, LaysOutPackedSequences) {
  const auto decoded = Decode(MakePackedRequest());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->sequences.size(), 2u);
  const Sequence& second = decoded->sequences[1];
  EXPECT_EQ(second.q_begin, 3);
  EXPECT_EQ(second.q_len, 2);
  EXPECT_EQ(second.kv_begin, 4);
  EXPECT_EQ(second.kv_len, 5);
  EXPECT_EQ(second.diagonal_offset, 3) << "bottom-right is the default";
  EXPECT_LT(second.window_left, 0);
  EXPECT_LT(second.window_right, 0);
  EXPECT_FLOAT_EQ(decoded->problem.scale, 1 / std::sqrt(8.0f));
}

TEST(RequestCodecTest, TakesNoLengthsAsOneSequence) {
  const auto decoded = Decode(MakeRequest(v1::LAYOUT_PACKED, {5, 4, 8}, {9, 2, 8}, {9, 2, 6}));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->sequences.size(), 1u);
  EXPECT_EQ(decoded->sequences[0].q_len, 5);
  EXPECT_EQ(decoded->sequences[0].kv_len, 9);
}

TEST(RequestCodecTest, TakesMissingKvLensAsQLens) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_PACKED, {5, 4, 8}, {5, 2, 8}, {5, 2, 6});
  request.add_q_lens(1);
  request.add_q_lens(4);
  const auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->sequences[1].kv_begin, 1);
  EXPECT_EQ(decoded->sequences[1].kv_len, 4);
}

TEST(RequestCodecTest, AcceptsEmptyBatches) {
  for (const auto& request : {MakeRequest(v1::LAYOUT_PACKED, {0, 4, 8}, {0, 2, 8}, {0, 2, 6}),
                              MakeRequest(v1::LAYOUT_BSHD, {0, 3, 4, 8}, {0, 5, 2, 8}, {0, 5, 2, 6}),
                              MakeRequest(v1::LAYOUT_BHSD, {2, 4, 0, 8}, {2, 2, 5, 8}, {2, 2, 5, 6})}) {
    auto decoded = Decode(request);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->output_bytes, 0);
    const auto inputs = BindInputs(*decoded);
    const auto outputs = BindOutputs(*decoded);
    EXPECT_TRUE(Validate(decoded->problem).ok()) << Validate(decoded->problem);
  }
}

// Element (b, h, t, d) of a padded tensor, by the strides that the problem got.
const float* At(const TensorView& view, int64_t begin, int64_t token, int64_t head) {
  return static_cast<const float*>(view.data) + (begin + token) * view.token_stride + head * view.head_stride;
}

TEST(RequestCodecTest, ReadsPaddedLayoutsAsTheyAre) {
  for (const v1::Layout layout : {v1::LAYOUT_BSHD, v1::LAYOUT_BHSD}) {
    const bool bshd = layout == v1::LAYOUT_BSHD;
    const v1::AttendRequest request = bshd ? MakeRequest(layout, {2, 3, 4, 8}, {2, 5, 2, 8}, {2, 5, 2, 6})
                                           : MakeRequest(layout, {2, 4, 3, 8}, {2, 2, 5, 8}, {2, 2, 5, 6});
    auto decoded = Decode(request);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    const auto inputs = BindInputs(*decoded);
    const auto* q = static_cast<const float*>(decoded->problem.q.data);
    // Batch row 1, head 3, token 2.
    const int64_t at = bshd ? ((1 * 3 + 2) * 4 + 3) * 8 : ((1 * 4 + 3) * 3 + 2) * 8;
    EXPECT_EQ(At(decoded->problem.q, decoded->sequences[1].q_begin, 2, 3), q + at);
    EXPECT_EQ(std::memcmp(q, request.raw(0).data(), request.raw(0).size()), 0);
    const auto outputs = BindOutputs(*decoded);
    EXPECT_TRUE(Validate(decoded->problem).ok()) << Validate(decoded->problem);
  }
}

TEST(RequestCodecTest, ReadsASliceOfAFusedProjectionAsItIs) {
  // q, k and v as they come out of one (batch, tokens, 3, heads, dim) matrix product; here only q's stride is
  // used.
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BSHD, {2, 3, 4, 8}, {2, 3, 4, 8}, {2, 3, 4, 8});
  const std::vector<int64_t> strides = {3 * 3 * 32, 3 * 32, 8, 1};
  request.mutable_q()->mutable_strides()->Assign(strides.begin(), strides.end());
  const int64_t span = 1 * 3 * 3 * 32 + 2 * 3 * 32 + 3 * 8 + 8;
  *request.mutable_raw(0) = BytesOf(testing::RandomFloats(span, 5));
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->problem.q.token_stride, 96);
  const auto inputs = BindInputs(*decoded);
  const auto outputs = BindOutputs(*decoded);
  EXPECT_TRUE(Validate(decoded->problem).ok()) << Validate(decoded->problem);
}

TEST(RequestCodecTest, GathersATransposedPaddedTensor) {
  // BHSD whose memory is BSHD, as a transpose in numpy or PyTorch leaves it.
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BHSD, {2, 4, 3, 8}, {2, 2, 5, 8}, {2, 2, 5, 6});
  const std::vector<int64_t> strides = {3 * 4 * 8, 8, 4 * 8, 1};
  request.mutable_q()->mutable_strides()->Assign(strides.begin(), strides.end());
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(TensorBytes(*decoded), (2 * 4 * 3 * 8 + 2 * 2 * 5 * (8 + 6)) * 4);
  const auto inputs = BindInputs(*decoded);
  const auto* q = reinterpret_cast<const float*>(request.raw(0).data());
  const float* row = At(decoded->problem.q, decoded->sequences[1].q_begin, 2, 3);
  for (int d = 0; d < 8; ++d) EXPECT_EQ(row[d], q[1 * 96 + 3 * 8 + 2 * 32 + d]);
}

TEST(RequestCodecTest, PutsPaddingValuesIntoOutputs) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BSHD, {2, 3, 1, 8}, {2, 5, 1, 8}, {2, 5, 1, 6});
  request.add_q_lens(1);
  request.add_q_lens(3);
  request.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
  request.add_outputs()->set_kind(v1::OUTPUT_KIND_OUTPUT);
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const auto outputs = BindOutputs(*decoded);
  ASSERT_EQ(outputs.size(), 2u);
  const auto* lse = reinterpret_cast<const float*>(outputs[0].data());
  const auto* o = reinterpret_cast<const float*>(outputs[1].data());
  for (int i = 0; i < 6; ++i) EXPECT_EQ(lse[i], -std::numeric_limits<float>::infinity());
  for (int i = 0; i < 36; ++i) EXPECT_EQ(o[i], 0.0f);
}

TEST(RequestCodecTest, PassesOptionsOn) {
  v1::AttendRequest request = MakePackedRequest();
  v1::AttentionOptions& options = *request.mutable_options();
  options.set_scale(0.5f);
  options.set_causal(true);
  options.set_window_left(7);
  options.set_softcap(30);
  for (int h = 0; h < 4; ++h) options.add_alibi_slopes(static_cast<float>(h));
  for (int h = 0; h < 4; ++h) options.add_sinks(static_cast<float>(-h));
  options.add_diagonal_offsets(11);
  options.add_diagonal_offsets(-12);
  const auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->problem.scale, 0.5f);
  EXPECT_EQ(decoded->problem.softcap, 30);
  EXPECT_EQ(decoded->problem.alibi_slopes[3], 3);
  EXPECT_EQ(decoded->problem.sinks[2], -2);
  EXPECT_EQ(decoded->sequences[1].window_left, 7);
  EXPECT_EQ(decoded->sequences[1].window_right, 0);
  EXPECT_EQ(decoded->sequences[1].diagonal_offset, -12);
}

// As MakePackedRequest, with fp8 tensors of all ones.
v1::AttendRequest MakeFp8Request() {
  v1::AttendRequest request = MakePackedRequest();
  for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()})
    tensor->set_dtype(v1::DATA_TYPE_FP8_E4M3);
  for (auto& raw : *request.mutable_raw()) raw.assign(raw.size() / sizeof(float), '\x38');
  return request;
}

TEST(RequestCodecTest, TakesFp8WithoutScalesAsOnesAndAnswersInBf16) {
  auto decoded = Decode(MakeFp8Request());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->problem.q.dtype, TESSERA_DTYPE_FP8_E4M3);
  EXPECT_EQ(decoded->problem.o.dtype, TESSERA_DTYPE_BF16);
  EXPECT_EQ(decoded->problem.q_scales.data, nullptr);
  EXPECT_EQ(decoded->input_bytes, 5 * 4 * 8 + 9 * 2 * 8 + 9 * 2 * 6) << "a byte for each element";
  EXPECT_EQ(decoded->output_bytes, 5 * 4 * 6 * 2);
  BindOutputs(*decoded);
}

TEST(RequestCodecTest, BroadcastsScalesByTheirNumber) {
  v1::AttendRequest request = MakeFp8Request();
  request.add_q_scales(0.5f);                                                // one
  for (float scale : {1.0f, 2.0f}) request.add_k_scales(scale);              // of kv heads
  for (float scale : {1.0f, 2.0f, 3.0f, 4.0f}) request.add_v_scales(scale);  // of sequences and kv heads
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  BindOutputs(*decoded);
  const AttentionProblem& p = decoded->problem;
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t h = 0; h < 4; ++h) EXPECT_EQ(ScaleOf(p.q_scales, n, h), 0.5f);
    for (int64_t h = 0; h < 2; ++h) {
      EXPECT_EQ(ScaleOf(p.k_scales, n, h), static_cast<float>(h + 1));
      EXPECT_EQ(ScaleOf(p.v_scales, n, h), static_cast<float>(2 * n + h + 1));
    }
  }
  EXPECT_EQ(decoded->input_bytes, 5 * 4 * 8 + 9 * 2 * 8 + 9 * 2 * 6 + 7 * 4);
}

TEST(RequestCodecTest, RefusesOtherNumbersOfScales) {
  for (int count : {2, 3, 5, 7, 9, 16}) {  // 4 q heads, 2 sequences
    v1::AttendRequest request = MakeFp8Request();
    for (int i = 0; i < count; ++i) request.add_q_scales(1);
    ExpectError(Decode(request).status(), absl::StatusCode::kInvalidArgument, "SCALE_COUNT");
  }
}

TEST(RequestCodecTest, AlignsTopLeft) {
  v1::AttendRequest request = MakePackedRequest();
  request.mutable_options()->set_alignment(v1::ALIGNMENT_TOP_LEFT);
  const auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->sequences[1].diagonal_offset, 0);
}

TEST(RequestCodecTest, BroadcastsMasksPerSequence) {
  v1::AttendRequest request = MakePackedRequest();
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {4, 1, 4}, std::string(16, 1));
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {2, 5}, std::string(10, 1));
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const auto inputs = BindInputs(*decoded);
  EXPECT_EQ(decoded->problem.mask_kind, TESSERA_MASK_BOOLEAN);
  const Sequence& first = decoded->sequences[0];
  EXPECT_EQ(first.mask, inputs[3].data());
  EXPECT_EQ(first.mask_head_stride, 4);
  EXPECT_EQ(first.mask_q_stride, 0);
  EXPECT_EQ(first.mask_kv_stride, 1);
  const Sequence& second = decoded->sequences[1];
  EXPECT_EQ(second.mask, inputs[4].data());
  EXPECT_EQ(second.mask_head_stride, 0);
  EXPECT_EQ(second.mask_q_stride, 5);
}

TEST(RequestCodecTest, StepsThroughTheBatchOfAPaddedMask) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BSHD, {2, 3, 4, 8}, {2, 5, 2, 8}, {2, 5, 2, 6});
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_FP32, {2, 1, 3, 5}, std::string(2 * 15 * 4, 0));
  auto decoded = Decode(request);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const auto inputs = BindInputs(*decoded);
  EXPECT_EQ(decoded->problem.mask_kind, TESSERA_MASK_ADDITIVE);
  EXPECT_EQ(decoded->sequences[1].mask, inputs[3].data() + 15 * 4);
  EXPECT_EQ(decoded->sequences[1].mask_head_stride, 0);
}

TEST(RequestCodecTest, NeedsNoDataForADryRun) {
  v1::AttendRequest request = MakePackedRequest();
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {1, 1}, std::string(1, 1));
  request.clear_raw();
  for (v1::Tensor* t : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) t->clear_raw_index();
  const auto decoded = Decode(request, DataRequirement::kShapesOnly);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_TRUE(Validate(decoded->problem, DataRequirement::kShapesOnly).ok());
  EXPECT_EQ(decoded->problem.q.data, nullptr);
}

// ---- What is refused ----

struct BadRequest {
  const char* name;
  std::function<void(v1::AttendRequest&)> spoil;  // a good packed request
  absl::StatusCode code;
  const char* reason;
};

void SetShape(v1::Tensor* tensor, const std::vector<int64_t>& shape) {
  tensor->mutable_shape()->Assign(shape.begin(), shape.end());
}
void SetStrides(v1::Tensor* tensor, const std::vector<int64_t>& strides) {
  tensor->mutable_strides()->Assign(strides.begin(), strides.end());
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kRange = absl::StatusCode::kOutOfRange;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

const BadRequest kBadRequests[] = {
    {"id_too_long", [](auto& r) { r.set_id(std::string(129, 'x')); }, kInvalid, "ID_TOO_LONG"},
    {"layout_unknown", [](auto& r) { r.set_layout(static_cast<v1::Layout>(7)); }, kInvalid, "LAYOUT_UNKNOWN"},
    {"no_q", [](auto& r) { r.clear_q(); }, kInvalid, "TENSOR_MISSING"},
    {"no_k", [](auto& r) { r.clear_k(); }, kInvalid, "TENSOR_MISSING"},
    {"no_v", [](auto& r) { r.clear_v(); }, kInvalid, "TENSOR_MISSING"},
    {"dtype_missing", [](auto& r) { r.mutable_q()->clear_dtype(); }, kInvalid, "DTYPE_UNKNOWN"},
    {"dtype_unknown", [](auto& r) { r.mutable_k()->set_dtype(static_cast<v1::DataType>(99)); }, kInvalid,
     "DTYPE_UNKNOWN"},
    {"rank",
     [](auto& r) {
       SetShape(r.mutable_q(), {1, 5, 4, 8});
     },
     kInvalid, "WRONG_RANK"},
    {"huge_rank", [](auto& r) { SetShape(r.mutable_q(), std::vector<int64_t>(100000, 1)); }, kInvalid,
     "WRONG_RANK"},
    {"negative_extent",
     [](auto& r) {
       SetShape(r.mutable_q(), {-5, 4, 8});
     },
     kInvalid, "SHAPE_INVALID"},
    {"huge_extent",
     [](auto& r) {
       SetShape(r.mutable_q(), {int64_t{1} << 62, 4, 8});
     },
     kInvalid, "SHAPE_INVALID"},
    {"product_overflow",
     [](auto& r) {
       SetShape(r.mutable_q(), {1LL << 32, 1LL << 30, 8});
     },
     kInvalid, "SHAPE_OVERFLOW"},
    {"product_overflow_hidden_by_zero",
     [](auto& r) {
       SetShape(r.mutable_q(), {1LL << 40, 0, 1LL << 40});
     },
     kInvalid, "SHAPE_OVERFLOW"},
    {"too_many_heads",
     [](auto& r) {
       SetShape(r.mutable_q(), {0, 1LL << 32, 8});
       r.mutable_raw(0)->clear();
     },
     kInvalid, "SHAPE_INVALID"},
    {"strides_count",
     [](auto& r) {
       SetStrides(r.mutable_q(), {8, 1});
     },
     kInvalid, "STRIDES_INVALID"},
    {"stride_negative",
     [](auto& r) {
       SetStrides(r.mutable_q(), {-32, 8, 1});
     },
     kInvalid, "STRIDES_INVALID"},
    {"stride_last_not_one",
     [](auto& r) {
       SetStrides(r.mutable_q(), {32, 8, 2});
     },
     kInvalid, "STRIDES_INVALID"},
    {"stride_huge",
     [](auto& r) {
       SetStrides(r.mutable_q(), {1LL << 39, 8, 1});
     },
     kInvalid, "SHAPE_OVERFLOW"},
    {"strides_span_more",
     [](auto& r) {
       SetStrides(r.mutable_q(), {64, 8, 1});
     },
     kInvalid, "WRONG_BYTE_COUNT"},
    {"no_data", [](auto& r) { r.mutable_q()->clear_raw_index(); }, kInvalid, "DATA_MISSING"},
    {"raw_index_out_of_range", [](auto& r) { r.mutable_q()->set_raw_index(3); }, kInvalid,
     "RAW_INDEX_OUT_OF_RANGE"},
    {"raw_index_max", [](auto& r) { r.mutable_q()->set_raw_index(UINT32_MAX); }, kInvalid,
     "RAW_INDEX_OUT_OF_RANGE"},
    {"raw_index_reused", [](auto& r) { r.mutable_k()->set_raw_index(0); }, kInvalid, "RAW_INDEX_REUSED"},
    {"raw_unused", [](auto& r) { r.add_raw("left over"); }, kInvalid, "RAW_UNUSED"},
    {"raw_too_short", [](auto& r) { r.mutable_raw(0)->pop_back(); }, kInvalid, "WRONG_BYTE_COUNT"},
    {"raw_too_long", [](auto& r) { r.mutable_raw(2)->append(4, '\0'); }, kInvalid, "WRONG_BYTE_COUNT"},
    {"raw_empty", [](auto& r) { r.mutable_raw(1)->clear(); }, kInvalid, "WRONG_BYTE_COUNT"},
    {"region", [](auto& r) { r.mutable_q()->mutable_region()->set_name("r"); }, kUnimplemented,
     "REGIONS_UNSUPPORTED"},
    {"k_head_dim",
     [](auto& r) {
       SetShape(r.mutable_k(), {9, 2, 4});
       r.mutable_raw(1)->resize(9 * 2 * 4 * 4);
     },
     kInvalid, "SHAPE_MISMATCH"},
    {"v_tokens",
     [](auto& r) {
       SetShape(r.mutable_v(), {8, 2, 6});
       r.mutable_raw(2)->resize(8 * 2 * 6 * 4);
     },
     kInvalid, "SHAPE_MISMATCH"},
    {"v_heads",
     [](auto& r) {
       SetShape(r.mutable_v(), {9, 1, 6});
       r.mutable_raw(2)->resize(9 * 6 * 4);
     },
     kInvalid, "SHAPE_MISMATCH"},
    {"lens_negative",
     [](auto& r) {
       r.set_q_lens(0, -1);
       r.set_q_lens(1, 6);
     },
     kInvalid, "LENGTH_INVALID"},
    {"lens_sum_short", [](auto& r) { r.set_q_lens(1, 1); }, kInvalid, "LENGTH_SUM"},
    {"lens_sum_long", [](auto& r) { r.set_kv_lens(1, 6); }, kRange, "LENGTH_OUT_OF_RANGE"},
    {"lens_sum_overflow",
     [](auto& r) {
       r.set_q_lens(0, INT64_MAX);
       r.set_q_lens(1, INT64_MAX);
     },
     kRange, "LENGTH_OUT_OF_RANGE"},
    {"lens_count", [](auto& r) { r.add_kv_lens(0); }, kInvalid, "LENGTH_COUNT"},
    {"kv_lens_alone", [](auto& r) { r.clear_q_lens(); }, kInvalid, "LENGTH_COUNT"},
    {"too_many_sequences",
     [](auto& r) {
       for (int i = 0; i < (1 << 20); ++i) {
         r.add_q_lens(0);
         r.add_kv_lens(0);
       }
     },
     kInvalid, "TOO_MANY_SEQUENCES"},
    {"window_left_negative", [](auto& r) { r.mutable_options()->set_window_left(-1); }, kInvalid,
     "WINDOW_INVALID"},
    {"window_right_negative", [](auto& r) { r.mutable_options()->set_window_right(INT64_MIN); }, kInvalid,
     "WINDOW_INVALID"},
    {"causal_and_window_right",
     [](auto& r) {
       r.mutable_options()->set_causal(true);
       r.mutable_options()->set_window_right(2);
     },
     kInvalid, "WINDOW_CONFLICT"},
    {"alignment_unknown", [](auto& r) { r.mutable_options()->set_alignment(static_cast<v1::Alignment>(5)); },
     kInvalid, "ALIGNMENT_UNKNOWN"},
    {"diagonal_count", [](auto& r) { r.mutable_options()->add_diagonal_offsets(0); }, kInvalid,
     "DIAGONAL_COUNT"},
    {"alibi_count", [](auto& r) { r.mutable_options()->add_alibi_slopes(1); }, kInvalid, "PER_HEAD_COUNT"},
    {"sinks_count", [](auto& r) { r.mutable_options()->add_sinks(1); }, kInvalid, "PER_HEAD_COUNT"},
    {"output_kind_unknown", [](auto& r) { r.add_outputs()->set_kind(static_cast<v1::OutputKind>(9)); },
     kInvalid, "OUTPUT_KIND_UNKNOWN"},
    {"output_twice",
     [](auto& r) {
       r.add_outputs();
       r.add_outputs();
     },
     kInvalid, "OUTPUT_DUPLICATE"},
    {"output_missing", [](auto& r) { r.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE); }, kInvalid,
     "OUTPUT_MISSING"},
    {"output_dtype_unknown", [](auto& r) { r.add_outputs()->set_dtype(static_cast<v1::DataType>(42)); },
     kInvalid, "DTYPE_UNKNOWN"},
    {"lse_dtype",
     [](auto& r) {
       r.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
       r.mutable_outputs(0)->set_dtype(v1::DATA_TYPE_BF16);
     },
     kInvalid, "OUTPUT_DTYPE_INVALID"},
    {"output_region", [](auto& r) { r.add_outputs()->mutable_destination(); }, kUnimplemented,
     "REGIONS_UNSUPPORTED"},
    {"mask_count",
     [](auto& r) {
       for (int i = 0; i < 3; ++i) SetTensor(r, *r.add_masks(), v1::DATA_TYPE_BOOL, {1}, std::string(1, 1));
     },
     kInvalid, "MASK_COUNT"},
    {"mask_shape",
     [](auto& r) {
       SetTensor(r, *r.add_masks(), v1::DATA_TYPE_BOOL, {4, 3, 5}, std::string(60, 1));
     },
     kInvalid, "MASK_SHAPE"},
    {"one_mask_for_ragged_lengths",
     [](auto& r) {
       SetTensor(r, *r.add_masks(), v1::DATA_TYPE_BOOL, {3, 4}, std::string(12, 1));
     },
     kInvalid, "MASK_SHAPE"},
    {"mask_rank",
     [](auto& r) {
       SetTensor(r, *r.add_masks(), v1::DATA_TYPE_BOOL, {1, 1, 1, 1}, std::string(1, 1));
     },
     kInvalid, "WRONG_RANK"},
    {"mask_dtype",
     [](auto& r) { SetTensor(r, *r.add_masks(), v1::DATA_TYPE_FP8_E4M3, {1}, std::string(1, 1)); }, kInvalid,
     "MASK_DTYPE_INVALID"},
    {"mask_dtypes_differ",
     [](auto& r) {
       SetTensor(r, *r.add_masks(), v1::DATA_TYPE_BOOL, {1}, std::string(1, 1));
       SetTensor(r, *r.add_masks(), v1::DATA_TYPE_FP32, {1}, std::string(4, 0));
     },
     kInvalid, "MASK_DTYPE_MISMATCH"},
    {"mask_bytes", [](auto& r) { SetTensor(r, *r.add_masks(), v1::DATA_TYPE_FP32, {1}, std::string(1, 1)); },
     kInvalid, "WRONG_BYTE_COUNT"},
};

class BadRequestTest : public ::testing::TestWithParam<BadRequest> {};

TEST_P(BadRequestTest, IsRefusedPrecisely) {
  v1::AttendRequest request = MakePackedRequest();
  GetParam().spoil(request);
  const auto decoded = Decode(request);
  ExpectError(decoded.status(), GetParam().code, GetParam().reason);
}

INSTANTIATE_TEST_SUITE_P(RequestCodec, BadRequestTest, ::testing::ValuesIn(kBadRequests),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(RequestCodecTest, RefusesBadPaddedRequests) {
  const auto padded = [] { return MakeRequest(v1::LAYOUT_BSHD, {2, 3, 4, 8}, {2, 5, 2, 8}, {2, 5, 2, 6}); };
  v1::AttendRequest request = padded();
  request.add_q_lens(3);
  ExpectError(Decode(request).status(), kInvalid, "LENGTH_COUNT");
  request.add_q_lens(4);
  ExpectError(Decode(request).status(), kRange, "LENGTH_OUT_OF_RANGE");
  request.set_q_lens(1, -4);
  ExpectError(Decode(request).status(), kInvalid, "LENGTH_INVALID");

  request = padded();
  for (int i = 0; i < 2; ++i)
    SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {1}, std::string(1, 1));
  ExpectError(Decode(request).status(), kInvalid, "MASK_COUNT");

  request = MakeRequest(v1::LAYOUT_BSHD, {2, 3, 4, 8}, {1, 5, 2, 8}, {1, 5, 2, 6});
  ExpectError(Decode(request).status(), kInvalid, "SHAPE_MISMATCH");

  // Batch rows that all lie on one another could be expanded only by allocating what was never sent.
  request = padded();
  SetStrides(request.mutable_q(), {0, 32, 8, 1});
  request.mutable_raw(0)->resize(3 * 32 * 4);
  ExpectError(Decode(request).status(), kInvalid, "STRIDES_UNSUPPORTED");
}

// No element, and yet strides of o that no int64 holds.
TEST(RequestCodecTest, RefusesAnEmptyOutputWhoseStridesWouldOverflow) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BHSD, {0, 1, 1, 1}, {0, 1, 1, 1}, {0, 1, 1, 1});
  request.mutable_q()->set_shape(2, 1LL << 40);
  request.mutable_v()->set_shape(3, INT32_MAX);
  ExpectError(Decode(request).status(), kInvalid, "SHAPE_OVERFLOW");
}

TEST(RequestCodecTest, RefusesABatchOfEmptyRowsThatWouldFillMemory) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BSHD, {1, 0, 4, 8}, {1, 0, 2, 8}, {1, 0, 2, 6});
  for (v1::Tensor* t : {request.mutable_q(), request.mutable_k(), request.mutable_v()})
    t->set_shape(0, 1LL << 40);
  ExpectError(Decode(request).status(), kInvalid, "TOO_MANY_SEQUENCES");
}

}  // namespace
}  // namespace tessera
