// Shadow verification in a server: what it finds, what it leaves alone, and that nobody waits for it.
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tessera/backend.hpp"
#include "tests/backend/status_expectations.h"
#include "tests/server/scrape.h"
#include "tests/server/server_fixture.h"

namespace tessera {
namespace {

using testing::BackendControl;
using testing::FakeDevice;
using testing::MakePackedRequest;
using testing::ReferenceBackend;
using testing::Scrape;
using testing::Series;
using testing::ServerTest;
using testing::Total;

// Right, times a factor.
class ScalingBackend : public ReferenceBackend {
 public:
  ScalingBackend(float factor, Device& device, BackendControl& control)
      : ReferenceBackend("scaling", 2, device, control), factor_(factor) {}
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override {
    const absl::Status status = ReferenceBackend::Enqueue(plan, problem, workspace, stream);
    auto* values = static_cast<float*>(problem.o.data);
    for (int64_t i = 0; i < problem.o.num_elements; ++i) values[i] *= factor_;
    return status;
  }

 private:
  const float factor_;
};

// Right, rounded to the output's dtype.
class RoundingBackend : public ReferenceBackend {
 public:
  RoundingBackend(Device& device, BackendControl& control)
      : ReferenceBackend("rounding", 2, device, control), info_(ReferenceBackend::info()) {
    for (const DType dtype : {TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
      info_.capabilities.output_dtypes |= DTypeBit(dtype);
    }
  }
  const BackendInfo& info() const override { return info_; }
  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override {
    std::vector<float> exact(static_cast<size_t>(problem.o.num_elements));
    AttentionProblem in_fp32 = problem;
    in_fp32.o.data = exact.data();
    in_fp32.o.dtype = TESSERA_DTYPE_FP32;
    const absl::Status status = ReferenceBackend::Enqueue(plan, in_fp32, workspace, stream);
    plugin::Store(exact.data(), problem.o.num_elements, problem.o.data, problem.o.dtype, 0);
    return status;
  }

 private:
  BackendInfo info_;
};

class ShadowVerifierTest : public ServerTest {
 protected:
  ShadowVerifierTest() {
    options_.metrics_listen = "127.0.0.1:0";
    options_.shadow.rate = 1;
  }
  ~ShadowVerifierTest() override { verifier_control_.OpenGate(); }

  // A server whose default backend returns `factor` times what is right, and the standard backend that knows.
  void StartScaling(float factor, bool verifier_has_own_memory = false) {
    auto registry = MakeRegistry();
    Device& device = *registry->devices().front();
    StartWith(std::move(registry), std::make_unique<ScalingBackend>(factor, device, control_),
              verifier_has_own_memory);
  }
  void StartRounding() {
    auto registry = MakeRegistry();
    Device& device = *registry->devices().front();
    StartWith(std::move(registry), std::make_unique<RoundingBackend>(device, control_));
  }
  void StartWith(std::unique_ptr<BackendRegistry> registry, std::unique_ptr<Backend> backend,
                 bool verifier_has_own_memory = false) {
    ASSERT_TRUE(registry->Add(std::move(backend)).ok());
    auto verifiers = std::make_unique<BackendRegistry>();
    Device& own = verifiers->AddDevice(std::make_unique<FakeDevice>(
        FakeDevice::Options{.id = "fake:0", .host_accessible = !verifier_has_own_memory}));
    ASSERT_TRUE(
        verifiers->Add(std::make_unique<ReferenceBackend>("fake_standard", 0, own, verifier_control_)).ok());
    auto server = Server::Start(options_, std::move(registry), std::move(verifiers));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    Connect(server_->addresses().front());
  }

  // Waits until `count` requests have ended as `result`.
  Series Await(const char* result, double count) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (true) {
      Series series = Scrape(server_->metrics_address());
      if (Of(series, result) >= count || std::chrono::steady_clock::now() > deadline) return series;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  static double Of(const Series& series, const char* result) {
    const std::string label = std::string("\"") + result + "\"";
    return Total(series, "tessera_shadow_requests_total", {label.c_str()});
  }

  BackendControl verifier_control_;
};

TEST_F(ShadowVerifierTest, FindsNoErrorInRightResults) {
  for (const bool own_memory : {false, true}) {
    StartScaling(1, own_memory);
    for (uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(Attend(MakePackedRequest(i)).ok());
    const Series series = Await("verified", 3);
    EXPECT_EQ(Of(series, "verified"), 3);
    EXPECT_EQ(
        series.at(R"(tessera_shadow_relative_error_max{backend="scaling",dtype="fp32",head_dim="8/6"})"), 0);
  }
}

TEST_F(ShadowVerifierTest, FindsTheErrorOfAWrongBackend) {
  StartScaling(1.25f);
  ASSERT_TRUE(Attend(MakePackedRequest()).ok());
  v1::AttendRequest right = MakePackedRequest();
  right.set_backend("reference");
  ASSERT_TRUE(Attend(right).ok());
  const Series series = Await("verified", 2);
  EXPECT_NEAR(Total(series, "tessera_shadow_relative_error_max", {"backend=\"scaling\""}), 0.25, 1e-6);
  EXPECT_NEAR(Total(series, "tessera_shadow_relative_error_last", {"backend=\"scaling\""}), 0.25, 1e-6);
  EXPECT_EQ(Total(series, "tessera_shadow_relative_error_max", {"backend=\"reference\""}), 0);
}

TEST_F(ShadowVerifierTest, SaysInfinityWhereOnlyOneSideIsFinite) {
  StartScaling(std::numeric_limits<float>::quiet_NaN());
  ASSERT_TRUE(Attend(MakePackedRequest()).ok());
  EXPECT_EQ(Total(Await("verified", 1), "tessera_shadow_relative_error_max"),
            std::numeric_limits<double>::infinity());
}

// Rounding is not an error, wherever it leads; and the label says how much of it there may be.
TEST_F(ShadowVerifierTest, JudgesByTheCoarserDTypeAndItsRange) {
  StartRounding();
  int count = 0;
  for (const auto& [dtype, name] :
       {std::pair(v1::DATA_TYPE_FP16, "fp16"), std::pair(v1::DATA_TYPE_BF16, "bf16")}) {
    for (const float factor : {1.0f, 1e5f}) {  // the latter past what fp16 holds
      v1::AttendRequest request = MakePackedRequest();
      std::vector<float> v = testing::FloatsOf(request.raw(2));
      for (float& value : v) value *= factor;
      request.set_raw(2, testing::BytesOf(v));
      request.add_outputs()->set_dtype(dtype);
      ASSERT_TRUE(Attend(request).ok());
      const Series series = Await("verified", ++count);
      EXPECT_EQ(Of(series, "verified"), count);
      const std::string label = absl::StrCat("dtype=\"", name, "\"");
      EXPECT_EQ(Total(series, "tessera_shadow_relative_error_max", {label.c_str()}), 0);
      EXPECT_EQ(Total(series, "tessera_shadow_relative_error_max", {"dtype=\"fp32\""}), 0);
    }
  }
}

TEST_F(ShadowVerifierTest, SamplesTheShareThatIsAskedFor) {
  options_.shadow.rate = 0.5;
  options_.shadow.max_requests = 1000;
  StartScaling(1);
  verifier_control_.CloseGate();  // all stay where they can be counted
  constexpr int kRequests = 200;
  for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(Attend(MakePackedRequest()).ok());
  verifier_control_.OpenGate();
  double sampled = 0;
  for (Series series;
       Total(series = Scrape(server_->metrics_address()), "tessera_shadow_pending_bytes") > 0 ||
       sampled == 0;) {
    sampled = Of(series, "verified");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  sampled = Of(Scrape(server_->metrics_address()), "verified");
  EXPECT_GT(sampled, 0.3 * kRequests);
  EXPECT_LT(sampled, 0.7 * kRequests);
}

TEST_F(ShadowVerifierTest, MakesNobodyWaitAndDropsWhatFindsNoRoom) {
  options_.shadow.max_requests = 2;
  StartScaling(1);
  verifier_control_.CloseGate();
  ASSERT_TRUE(Attend(MakePackedRequest()).ok());
  verifier_control_.AwaitLaunchAtGate();
  for (uint32_t i = 0; i < 5; ++i) ASSERT_TRUE(Attend(MakePackedRequest(i)).ok());
  EXPECT_EQ(Of(Await("dropped", 3), "dropped"), 3) << "one is replayed, two wait";
  verifier_control_.OpenGate();
  EXPECT_EQ(Of(Await("verified", 3), "verified"), 3);
}

TEST_F(ShadowVerifierTest, KeepsNoMoreBytesThanItMay) {
  // What the packed request takes: inputs, and outputs twice.
  constexpr int64_t kBytes = (5 * 4 * 8 + 9 * 2 * 8 + 9 * 2 * 6) * 4 + 2 * (5 * 4 * 6 * 4);
  options_.shadow.max_bytes = 2 * kBytes + kBytes / 2;
  StartScaling(1);
  verifier_control_.CloseGate();
  for (uint32_t i = 0; i < 4; ++i) ASSERT_TRUE(Attend(MakePackedRequest(i)).ok());
  const Series series = Await("dropped", 2);
  EXPECT_EQ(Of(series, "dropped"), 2);
  EXPECT_EQ(Total(series, "tessera_shadow_pending_bytes"), 2 * kBytes);
  verifier_control_.OpenGate();
  EXPECT_EQ(Of(Await("verified", 2), "verified"), 2);
}

TEST_F(ShadowVerifierTest, CountsReplaysThatFail) {
  verifier_control_.OnLaunch([](const AttentionProblem&) { return absl::InternalError("broken"); });
  StartScaling(1);
  ASSERT_TRUE(Attend(MakePackedRequest()).ok());
  EXPECT_EQ(Of(Await("failed", 1), "failed"), 1);
  verifier_control_.OnLaunch({});
  ASSERT_TRUE(Attend(MakePackedRequest()).ok());
  EXPECT_EQ(Of(Await("verified", 1), "verified"), 1);
}

TEST_F(ShadowVerifierTest, EndsWithTheDrain) {
  StartScaling(1);
  verifier_control_.CloseGate();
  for (uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(Attend(MakePackedRequest(i)).ok());
  verifier_control_.AwaitLaunchAtGate();
  EXPECT_TRUE(server_->Drain()) << "which does not wait for replays";
  EXPECT_EQ(Of(Await("dropped", 2), "dropped"), 2) << "those that waited";
  verifier_control_.OpenGate();
  EXPECT_EQ(Of(Await("dropped", 3), "dropped"), 3)
      << "the one that was replayed stops after its first sequence";
}

TEST_F(ShadowVerifierTest, RefusesRatesThatAreNone) {
  for (const double rate : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    options_.shadow.rate = rate;
    testing::ExpectError(Server::Start(options_, MakeRegistry()).status(), absl::StatusCode::kInvalidArgument,
                         "OPTION_INVALID");
  }
  options_.shadow.rate = 0.5;
  testing::ExpectError(Server::Start(options_, MakeRegistry()).status(), absl::StatusCode::kInvalidArgument,
                       "OPTION_INVALID");
}

}  // namespace
}  // namespace tessera
