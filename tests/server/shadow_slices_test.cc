// Blocks of query rows, replayed, give the rows of the whole.
#include "server/shadow_slices.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/reference_backend.h"
#include "tests/server/request_builder.h"

namespace tessera {
namespace {

using testing::MakePackedRequest;
using testing::MakeRequest;
using testing::RandomFloats;
using testing::SetTensor;

constexpr int64_t kAll = INT64_MAX;

// Every row once, in slices of at most `rows`, bit for bit as in the whole.
void ExpectSameRows(const v1::AttendRequest& wire, int64_t rows) {
  auto whole = DecodeRequest(wire, testing::PayloadOf(wire), DataRequirement::kRequired);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto inputs = BindInputs(*whole);
  const auto outputs = BindOutputs(*whole);
  const AttentionProblem& p = whole->problem;
  testing::ReferenceAttention(p);
  int64_t seen = 0;
  const int64_t per_row =
      2 * 5 * p.num_q_heads * (p.head_dim_qk + p.head_dim_v);  // of 5 keys, the most there are
  for (const ShadowSlice& slice :
       ChooseSlices(p, {.slice_flops = rows * per_row, .request_flops = kAll}, 1)) {
    DecodedRequest part = RequestOf(*whole, slice, TESSERA_DTYPE_FP32);
    HostBuffer output(part.output_bytes);
    part.problem.o.data = output.data();
    const auto part_inputs = BindInputs(part);
    ASSERT_TRUE(Validate(part.problem).ok()) << Validate(part.problem);
    testing::ReferenceAttention(part.problem);
    seen += slice.num_rows;
    const int64_t first = p.sequences[slice.sequence].q_begin + slice.first_row;
    for (int64_t i = 0; i < slice.num_rows; ++i) {
      for (int64_t h = 0; h < p.num_q_heads; ++h) {
        const float* row =
            static_cast<const float*>(p.o.data) + (first + i) * p.o.token_stride + h * p.o.head_stride;
        const float* again =
            reinterpret_cast<const float*>(output.data()) + (i * p.num_q_heads + h) * p.head_dim_v;
        EXPECT_TRUE(std::equal(row, row + p.head_dim_v, again))
            << "sequence " << slice.sequence << " row " << slice.first_row + i << " head " << h;
      }
    }
  }
  EXPECT_EQ(seen, SizeOf(p).q_tokens);
}

v1::AttendRequest Shaped(v1::AttendRequest request) {
  v1::AttentionOptions& options = *request.mutable_options();
  options.set_causal(true);
  options.set_window_left(1);
  options.set_softcap(3);
  options.add_diagonal_offsets(2);
  options.add_diagonal_offsets(1);
  for (int h = 0; h < 4; ++h) options.add_alibi_slopes(0.1f * static_cast<float>(h + 1));
  for (int h = 0; h < 4; ++h) options.add_sinks(static_cast<float>(h));
  return request;
}

TEST(ShadowSlicesTest, GiveTheRowsOfPackedRequests) {
  for (const int64_t rows : {1, 2, 100}) {
    ExpectSameRows(MakePackedRequest(), rows);
    ExpectSameRows(Shaped(MakePackedRequest()), rows);
  }
}

TEST(ShadowSlicesTest, GiveTheRowsOfPaddedAndMaskedRequests) {
  for (const v1::Layout layout : {v1::LAYOUT_BSHD, v1::LAYOUT_BHSD}) {
    const bool heads_first = layout == v1::LAYOUT_BHSD;
    const auto shape = [&](int64_t tokens, int64_t heads, int64_t dim) {
      return heads_first ? std::vector<int64_t>{2, heads, tokens, dim}
                         : std::vector<int64_t>{2, tokens, heads, dim};
    };
    v1::AttendRequest request = MakeRequest(layout, shape(3, 4, 8), shape(5, 2, 8), shape(5, 2, 6));
    for (const int64_t length : {3, 2}) request.add_q_lens(length);
    for (const int64_t length : {4, 5}) request.add_kv_lens(length);
    std::string mask;
    for (int bit = 0; bit < 2 * 15; ++bit) mask += static_cast<char>(bit % 3 != 0);
    SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {2, 1, 3, 5}, mask);
    for (const int64_t rows : {1, 2}) ExpectSameRows(request, rows);
  }
}

TEST(ShadowSlicesTest, GiveTheRowsOfRequestsWithAMaskForEachSequence) {
  v1::AttendRequest request = MakePackedRequest();
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_FP32, {4, 3, 4},
            testing::BytesOf(RandomFloats(48, 5)));
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_FP32, {2, 5}, testing::BytesOf(RandomFloats(10, 6)));
  for (const int64_t rows : {1, 2}) ExpectSameRows(request, rows);
}

TEST(ShadowSlicesTest, GiveTheRowsOfFp8RequestsWithScales) {
  v1::AttendRequest request = MakePackedRequest();
  char code = 1;
  for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_dtype(v1::DATA_TYPE_FP8_E4M3);
  }
  for (auto& raw : *request.mutable_raw()) {
    raw.resize(raw.size() / sizeof(float));
    for (char& element : raw) element = static_cast<char>(code++ & 0x3f);
  }
  request.add_outputs()->set_dtype(v1::DATA_TYPE_FP32);
  request.add_q_scales(0.5f);
  for (float scale : {1.0f, 0.25f, 3.0f, 0.5f}) {
    request.add_k_scales(scale);
    request.add_v_scales(10 * scale);
  }
  for (const int64_t rows : {1, 2}) ExpectSameRows(request, rows);
}

// A row without keys is all zeros, whatever its mask.
TEST(ShadowSlicesTest, GiveTheRowsOfMaskedRequestsWithoutKeys) {
  v1::AttendRequest request = MakeRequest(v1::LAYOUT_BSHD, {2, 3, 4, 8}, {2, 0, 2, 8}, {2, 0, 2, 6});
  SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {2, 1, 3, 0}, "");
  for (const int64_t rows : {1, 2}) ExpectSameRows(request, rows);
}

TEST(ShadowSlicesTest, KeepToTheBudget) {
  const v1::AttendRequest wire = MakeRequest(v1::LAYOUT_PACKED, {100, 1, 2}, {10, 1, 2}, {10, 1, 2});
  const auto request = DecodeRequest(wire, testing::PayloadOf(wire), DataRequirement::kRequired);
  const AttentionProblem& p = request->problem;
  const int64_t per_row = 10 * 2 * 4;
  const ShadowBudget budget{.slice_flops = 5 * per_row, .request_flops = 32 * per_row};
  const std::vector<ShadowSlice> some = ChooseSlices(p, budget, 1), others = ChooseSlices(p, budget, 2);
  EXPECT_EQ(some.size(), 6u);
  EXPECT_NE(some.front().first_row * 100 + some.back().first_row,
            others.front().first_row * 100 + others.back().first_row)
      << "drawn at random";
  EXPECT_TRUE(ChooseSlices(p, {.slice_flops = 1, .request_flops = per_row - 1}, 1).empty());
}

}  // namespace
}  // namespace tessera
