// CheckCapabilities(): which missing capability a refusal names, and how.
#include "backend/core/backend.h"

#include <functional>
#include <string>

#include "gtest/gtest.h"
#include "tests/backend/fake_backend.h"
#include "tests/backend/fake_device.h"
#include "tests/backend/status_expectations.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::AbleInfo;
using testing::ErrorMetadata;
using testing::ExpectError;
using testing::FakeBackend;
using testing::FakeDevice;
using testing::Shape;
using testing::TestProblem;

struct Case {
  const char* name;
  std::function<void(Capabilities&, AttentionProblem&)> change;
  const char* reason;  // nullptr: supported
  const char* message;
  const char* actual;
};

constexpr auto kDim = "HEAD_DIM_UNSUPPORTED";
constexpr auto kDType = "DTYPE_UNSUPPORTED";
constexpr auto kFeature = "FEATURE_UNSUPPORTED";
using C = Capabilities;
using P = AttentionProblem;

const Case kCases[] = {
    {"Able", [](C&, P&) {}, nullptr, "", ""},
    {"LargestHeadDim", [](C&, P& p) { p.head_dim_qk = 256; }, nullptr, "", ""},
    {"HeadDimTooLarge", [](C&, P& p) { p.head_dim_qk = 576; }, kDim,
     "fake: head_dim 576 (head_dim_qk) is not supported; supported: 1..256", "576"},
    {"HeadDimVTooLarge", [](C&, P& p) { p.head_dim_v = 257; }, kDim,
     "fake: head_dim 257 (head_dim_v) is not supported; supported: 1..256", "257"},
    {"HeadDimNoMultiple", [](C& c, P& p) { c.head_dim_multiple = 8, p.head_dim_v = 12; }, kDim,
     "fake: head_dim 12 (head_dim_v) is not supported; supported: multiples of 8 up to 256", "12"},
    {"InputDType", [](C&, P& p) { p.q.dtype = TESSERA_DTYPE_FP8_E4M3; }, kDType,
     "fake: input dtype fp8_e4m3 is not supported; supported: fp32, bf16", "fp8_e4m3"},
    {"OutputDType", [](C&, P& p) { p.o.dtype = TESSERA_DTYPE_FP16; }, kDType,
     "fake: output dtype fp16 is not supported; supported: fp32, bf16", "fp16"},
    {"OneFeature",
     [](C& c, P& p) {
       c.features = TESSERA_FEATURE_GQA | TESSERA_FEATURE_LSE | TESSERA_FEATURE_UNEQUAL_HEAD_DIM;
       p.softcap = 20;
     },
     kFeature, "fake: feature softcap is not supported; supported: gqa, unequal_head_dim, lse", "softcap"},
    {"SeveralFeatures", [](C& c, P&) { c.features = TESSERA_FEATURE_LSE | TESSERA_FEATURE_CAUSAL; }, kFeature,
     "fake: features gqa, unequal_head_dim are not supported; supported: causal, lse",
     "gqa, unequal_head_dim"},
    {"NoFeatures", [](C& c, P&) { c.features = 0; }, kFeature,
     "fake: features gqa, unequal_head_dim, lse are not supported; supported: none",
     "gqa, unequal_head_dim, lse"},
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class CapabilitiesTest : public ::testing::TestWithParam<Case> {};

TEST_P(CapabilitiesTest, RefusesByName) {
  BackendInfo info = AbleInfo("fake", 0);
  TestProblem problem;
  GetParam().change(info.capabilities, problem.problem);
  FakeDevice device;
  const absl::Status status = FakeBackend(info, device).Supports(problem.problem);
  if (GetParam().reason == nullptr) {
    EXPECT_EQ(status, absl::OkStatus());
    return;
  }
  ExpectError(status, absl::StatusCode::kUnimplemented, GetParam().reason);
  EXPECT_EQ(std::string(status.message()), GetParam().message);
  EXPECT_EQ(ErrorMetadata(status, "actual"), GetParam().actual);
  EXPECT_EQ(ErrorMetadata(status, "backend"), "fake");
}

INSTANTIATE_TEST_SUITE_P(All, CapabilitiesTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tessera
