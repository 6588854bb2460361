// Queue, placement, executor and scheduler, over a fake device and a backend that tests can hold and
// question.
#include "server/scheduler.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/admission.h"
#include "server/batch_placement.h"
#include "tests/backend/fake_device.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/scheduler_fixture.h"

namespace tessera {
namespace {

using testing::ExpectError;
using testing::FakeDevice;
using testing::MakePackedRequest;
using testing::MakeRequest;
using testing::ReferenceBackend;
using testing::SchedulerFixture;
using testing::SetTensor;

class SchedulerTest : public SchedulerFixture, public ::testing::TestWithParam<bool> {
 protected:
  SchedulerTest() {
    FakeDevice::Options options;
    options.host_accessible = GetParam();
    auto device = std::make_unique<FakeDevice>(options);
    device_ = device.get();
    registry_.AddDevice(std::move(device));
    for (const char* name : {"reference", "other"}) {
      auto backend = std::make_unique<ReferenceBackend>(name, 1, *device_, control_);
      (std::string(name) == "reference" ? backend_ : other_) = backend.get();
      EXPECT_TRUE(registry_.Add(std::move(backend)).ok());
    }
    StartScheduler();
  }
  ~SchedulerTest() override { control_.OpenGate(); }

  std::unique_ptr<Job> MakeJob(const std::string& key, const v1::AttendRequest& request,
                               Backend* backend = nullptr) {
    return SchedulerFixture::MakeJob(key, request, backend == nullptr ? backend_ : backend);
  }

  void Submit(const std::string& key, const v1::AttendRequest& request, Backend* backend = nullptr) {
    scheduler_->Submit(MakeJob(key, request, backend));
  }

  // Occupies the device until the gate opens, so that what is submitted meanwhile queues up.
  void SubmitBlocker() {
    control_.CloseGate();
    Submit("blocker", MakeRequest(v1::LAYOUT_PACKED, {1, 1, 2}, {1, 1, 2}, {1, 1, 2}));
    control_.AwaitLaunchAtGate();
  }

  FakeDevice* device_ = nullptr;
  Backend* backend_ = nullptr;
  Backend* other_ = nullptr;
};

v1::AttendRequest WithLse(v1::AttendRequest request) {
  request.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
  request.add_outputs()->set_kind(v1::OUTPUT_KIND_OUTPUT);
  return request;
}

v1::AttendRequest PaddedRequest(v1::Layout layout, uint32_t seed) {
  v1::AttendRequest request = layout == v1::LAYOUT_BSHD
                                  ? MakeRequest(layout, {2, 3, 4, 8}, {2, 5, 2, 8}, {2, 5, 2, 6}, seed)
                                  : MakeRequest(layout, {2, 4, 3, 8}, {2, 2, 5, 8}, {2, 2, 5, 6}, seed);
  request.add_q_lens(2);
  request.add_q_lens(3);
  return WithLse(std::move(request));
}

TEST_P(SchedulerTest, RunsOneRequest) {
  const auto request = WithLse(MakePackedRequest());
  Submit("one", request);
  ExpectCorrect("one", request);
  const Ledger ledger = Await("one").ledger;
  EXPECT_EQ(ledger.choice.batch_requests, 1);
  EXPECT_EQ(ledger.choice.batch_sequences, 2);
  EXPECT_EQ(ledger.choice.backend, "reference");
  EXPECT_EQ(ledger.choice.kernel, "reference_row");
  EXPECT_EQ(ledger.memory.workspace_peak, 256);
  EXPECT_EQ(ledger.traffic.hbm_read, 9);
  EXPECT_EQ(ledger.traffic.hbm_write, 256);
}

TEST_P(SchedulerTest, MovesTensorsOnlyToADeviceThatCannotSeeTheHosts) {
  Submit("one", MakePackedRequest());
  const MemoryLedger memory = Await("one").ledger.memory;
  const int64_t inputs = (5 * 4 * 8 + 9 * 2 * 8 + 9 * 2 * 6) * 4;
  const int64_t outputs = 5 * 4 * 6 * 4;
  EXPECT_EQ(memory.host_copies_in, 1);
  EXPECT_EQ(memory.host_copies_in_bytes, inputs);
  EXPECT_EQ(memory.host_copies_out, 0);
  if (GetParam()) {
    EXPECT_EQ(memory.transfers_to_device, 0);
    EXPECT_EQ(memory.staging_peak, 0);
    EXPECT_EQ(device_->counts().copies[TESSERA_COPY_HOST_TO_DEVICE], 0);
  } else {
    EXPECT_EQ(memory.transfers_to_device_bytes, inputs);
    EXPECT_EQ(memory.transfers_from_device_bytes, outputs);
    EXPECT_EQ(memory.transfers_to_device, device_->counts().copies[TESSERA_COPY_HOST_TO_DEVICE]);
    EXPECT_EQ(memory.transfers_from_device, device_->counts().copies[TESSERA_COPY_DEVICE_TO_HOST]);
    EXPECT_EQ(device_->counts().copied_bytes[TESSERA_COPY_HOST_TO_DEVICE], inputs);
    EXPECT_GE(memory.staging_peak, inputs + outputs);
    EXPECT_GE(memory.device_peak, inputs + outputs + 256);
  }
}

TEST_P(SchedulerTest, MergesWaitingRequestsWithEqualKeys) {
  SubmitBlocker();
  std::map<std::string, v1::AttendRequest> requests;
  for (uint32_t i = 0; i < 5; ++i) {
    const std::string key = "r" + std::to_string(i);
    requests[key] = WithLse(MakePackedRequest(10 * i));
    Submit(key, requests[key]);
  }
  control_.OpenGate();
  for (const auto& [key, request] : requests) ExpectCorrect(key, request);
  EXPECT_EQ(control_.launches(), (std::vector<int64_t>{1, 10}));
  const Ledger ledger = Await("r3").ledger;
  EXPECT_EQ(ledger.choice.batch_requests, 5);
  EXPECT_EQ(ledger.choice.batch_sequences, 10);
  EXPECT_EQ(ledger.traffic.hbm_read, 9) << "its own";
  EXPECT_EQ(ledger.memory.host_copies_in, 1) << "packing is the one copy";
  EXPECT_EQ(ledger.memory.host_copies_out, 0) << "the replies share the launch's outputs";
  EXPECT_EQ(ledger.memory.host_copies_out_bytes, 0);
  EXPECT_GT(ledger.time.queue, 0);
}

TEST_P(SchedulerTest, MergesPaddedAndMaskedRequests) {
  for (const v1::Layout layout : {v1::LAYOUT_BSHD, v1::LAYOUT_BHSD}) {
    results_.clear();
    SubmitBlocker();
    std::map<std::string, v1::AttendRequest> requests;
    for (uint32_t i = 0; i < 3; ++i) {
      auto& request = requests["r" + std::to_string(i)];
      request = PaddedRequest(layout, 7 * i);
      std::string mask;
      for (int bit = 0; bit < 2 * 15; ++bit) mask += static_cast<char>((bit + i) % 3 != 0);
      SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {2, 1, 3, 5}, mask);
    }
    const size_t before = control_.launches().size();
    for (const auto& [key, request] : requests) Submit(key, request);
    control_.OpenGate();
    for (const auto& [key, request] : requests) ExpectCorrect(key, request);
    EXPECT_EQ(control_.launches().size(), before + 2) << "the blocker and one merged launch";
  }
}

// Each sequence keeps its own scales: one request has them of heads, one of sequences and heads, one has
// none.
TEST_P(SchedulerTest, MergesFp8RequestsWithDifferentScales) {
  const auto fp8 = [](char code) {
    auto request = MakePackedRequest();
    for (auto* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()})
      tensor->set_dtype(v1::DATA_TYPE_FP8_E4M3);
    for (auto& raw : *request.mutable_raw()) {
      raw.resize(raw.size() / sizeof(float));
      for (char& element : raw) element = static_cast<char>(code++ & 0x3f);
    }
    request.add_outputs()->set_dtype(v1::DATA_TYPE_FP32);
    return request;
  };
  auto of_heads = fp8(1), of_sequences = fp8(20);
  const auto plain = fp8(7);
  for (float scale : {1.0f, 2.0f, 3.0f, 0.5f}) of_heads.add_q_scales(scale);
  of_heads.add_v_scales(8);
  for (float scale : {1.0f, 0.25f, 3.0f, 0.5f}) {
    of_sequences.add_k_scales(scale);
    of_sequences.add_v_scales(10 * scale);
  }
  SubmitBlocker();
  Submit("of_heads", of_heads);
  Submit("plain", plain);
  Submit("of_sequences", of_sequences);
  control_.OpenGate();
  ExpectCorrect("of_heads", of_heads);
  ExpectCorrect("plain", plain);
  ExpectCorrect("of_sequences", of_sequences);
  EXPECT_EQ(Await("of_heads").ledger.choice.batch_requests, 3);
}

TEST_P(SchedulerTest, MergesOneMaskPerSequence) {
  SubmitBlocker();
  std::map<std::string, v1::AttendRequest> requests;
  for (uint32_t i = 0; i < 3; ++i) {
    auto& request = requests["r" + std::to_string(i)];
    request = MakePackedRequest(3 * i);
    SetTensor(request, *request.add_masks(), v1::DATA_TYPE_FP32, {4, 3, 4},
              testing::BytesOf(testing::RandomFloats(48, i)));
    SetTensor(request, *request.add_masks(), v1::DATA_TYPE_FP32, {2, 5},
              testing::BytesOf(testing::RandomFloats(10, i + 100)));
  }
  for (const auto& [key, request] : requests) Submit(key, request);
  control_.OpenGate();
  for (const auto& [key, request] : requests) ExpectCorrect(key, request);
  EXPECT_EQ(control_.launches(), (std::vector<int64_t>{1, 6}));
}

TEST_P(SchedulerTest, KeepsUnlikeRequestsApart) {
  auto scaled = MakePackedRequest();
  scaled.mutable_options()->set_scale(2);
  auto slopes = MakePackedRequest();
  for (int h = 0; h < 4; ++h) slopes.mutable_options()->add_alibi_slopes(1);
  auto other_slopes = MakePackedRequest();
  for (int h = 0; h < 4; ++h) other_slopes.mutable_options()->add_alibi_slopes(2);
  // More than a shared launch is worth: 1 MiB of K alone.
  const auto large = MakeRequest(v1::LAYOUT_PACKED, {1, 4, 8}, {20000, 2, 8}, {20000, 2, 6});

  SubmitBlocker();
  Submit("plain", MakePackedRequest());
  Submit("scaled", scaled);
  Submit("slopes", slopes);
  Submit("other_slopes", other_slopes);
  Submit("large", large);
  Submit("large_too", large);
  Submit("other_backend", MakePackedRequest(), other_);
  control_.OpenGate();
  for (const char* key :
       {"plain", "scaled", "slopes", "other_slopes", "large", "large_too", "other_backend"}) {
    EXPECT_EQ(Await(key).ledger.choice.batch_requests, 1) << key;
  }
  ExpectCorrect("other_slopes", other_slopes);
  EXPECT_EQ(Await("other_backend").ledger.choice.backend, "other");
}

TEST_P(SchedulerTest, JoinsFromBehindALargeRequest) {
  const auto large = MakeRequest(v1::LAYOUT_PACKED, {1, 4, 8}, {20000, 2, 8}, {20000, 2, 6});
  SubmitBlocker();
  Submit("small", MakePackedRequest(1));
  Submit("large", large);
  Submit("small_too", MakePackedRequest(2));
  control_.OpenGate();
  EXPECT_EQ(Await("small").ledger.choice.batch_requests, 2);
  EXPECT_EQ(Await("small_too").ledger.choice.batch_requests, 2);
  EXPECT_EQ(Await("large").ledger.choice.batch_requests, 1);
}

TEST_P(SchedulerTest, DropsACancelledRequestAtOnce) {
  SubmitBlocker();
  auto job = MakeJob("cancelled", MakePackedRequest());
  const auto cancelled = job->context.cancelled;
  scheduler_->Submit(std::move(job));
  scheduler_->Cancel(cancelled);
  EXPECT_TRUE(IsDone("cancelled")) << "while the device is still busy";
  EXPECT_EQ(Await("cancelled").status.code(), absl::StatusCode::kCancelled);
  control_.OpenGate();
  EXPECT_TRUE(Await("blocker").status.ok());
  EXPECT_EQ(control_.launches().size(), 1u);
}

TEST_P(SchedulerTest, DropsAnExpiredRequestBeforeItsLaunch) {
  SubmitBlocker();
  auto job = MakeJob("late", MakePackedRequest());
  job->context.deadline = Clock::now() + std::chrono::milliseconds(20);
  scheduler_->Submit(std::move(job));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  control_.OpenGate();
  EXPECT_EQ(Await("late").status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Await("blocker").status.ok());
  EXPECT_EQ(control_.launches().size(), 1u);
}

TEST_P(SchedulerTest, RefusesWhatCannotEndInTime) {
  device_->SetElapsed(std::chrono::hours(1));
  Submit("teaches", MakePackedRequest());
  Await("teaches");
  const auto job = MakeJob("late", MakePackedRequest());
  job->context.deadline = Clock::now() + std::chrono::minutes(10);
  EXPECT_TRUE(scheduler_->CheckReachable(*job).ok()) << "nobody waits";
  SubmitBlocker();
  ExpectError(scheduler_->CheckReachable(*job), absl::StatusCode::kResourceExhausted, "DEADLINE_UNREACHABLE");
  EXPECT_TRUE(scheduler_->CheckReachable(*MakeJob("patient", MakePackedRequest())).ok());
  control_.OpenGate();
  Await("blocker");
}

TEST_P(SchedulerTest, RefusesWhatWouldEndLateWhenItsTurnComes) {
  device_->SetElapsed(std::chrono::hours(1));
  Submit("teaches", MakePackedRequest());
  Await("teaches");
  SubmitBlocker();
  for (const char* key : {"late", "late_too"}) {
    auto job = MakeJob(key, MakePackedRequest());
    job->context.deadline = Clock::now() + std::chrono::minutes(10);
    scheduler_->Submit(std::move(job));
  }
  Submit("patient", MakePackedRequest());
  control_.OpenGate();
  ExpectError(Await("late").status, absl::StatusCode::kResourceExhausted, "DEADLINE_UNREACHABLE");
  ExpectError(Await("late_too").status, absl::StatusCode::kResourceExhausted, "DEADLINE_UNREACHABLE");
  EXPECT_TRUE(Await("patient").status.ok());
  EXPECT_EQ(control_.launches().size(), 3u);
}

TEST_P(SchedulerTest, RunsEachAloneWhenASharedLaunchFails) {
  control_.OnLaunch([](const AttentionProblem& problem) {
    return problem.num_sequences > 2 ? absl::InternalError("too much company") : absl::OkStatus();
  });
  SubmitBlocker();
  const auto first = MakePackedRequest(1), second = MakePackedRequest(2);
  Submit("first", first);
  Submit("second", second);
  control_.OpenGate();
  ExpectCorrect("first", first);
  ExpectCorrect("second", second);
}

TEST_P(SchedulerTest, DropsARequestThatDiedInASharedLaunchThatFailed) {
  SubmitBlocker();
  Submit("first", MakePackedRequest(1));
  auto second = MakeJob("second", MakePackedRequest(2));
  const auto cancelled = second->context.cancelled;
  scheduler_->Submit(std::move(second));
  control_.OnLaunch([cancelled](const AttentionProblem& problem) {
    if (problem.num_sequences <= 2) return absl::OkStatus();
    cancelled->store(true);
    return absl::InternalError("too much company");
  });
  control_.OpenGate();
  EXPECT_TRUE(Await("first").status.ok());
  EXPECT_EQ(Await("second").status.code(), absl::StatusCode::kCancelled);
}

TEST_P(SchedulerTest, RunsEachAloneWhereTheBackendRefusesThemAsOneProblem) {
  control_.SetMaxSequences(2);
  SubmitBlocker();
  const auto first = MakePackedRequest(1), second = MakePackedRequest(2);
  Submit("first", first);
  Submit("second", second);
  control_.OpenGate();
  ExpectCorrect("first", first);
  ExpectCorrect("second", second);
  EXPECT_EQ(control_.launches(), (std::vector<int64_t>{1, 2, 2}));
}

TEST_P(SchedulerTest, ReportsABackendThatFailsOrThrowsAndGoesOn) {
  control_.OnLaunch([](const AttentionProblem&) { return absl::InternalError("kernel fault"); });
  Submit("fails", MakePackedRequest());
  EXPECT_EQ(Await("fails").status.code(), absl::StatusCode::kInternal);
  control_.OnLaunch([](const AttentionProblem&) -> absl::Status { throw std::runtime_error("surprise"); });
  Submit("throws", MakePackedRequest());
  ExpectError(Await("throws").status, absl::StatusCode::kInternal, "EXCEPTION");
  control_.OnLaunch([](const AttentionProblem&) -> absl::Status { throw std::bad_alloc(); });
  Submit("exhausts", MakePackedRequest());
  ExpectError(Await("exhausts").status, absl::StatusCode::kResourceExhausted, "HOST_MEMORY");
  control_.OnLaunch(nullptr);
  const auto request = MakePackedRequest();
  Submit("works", request);
  ExpectCorrect("works", request);
}

TEST_P(SchedulerTest, ReportsALateDeviceErrorAndGoesOn) {
  device_->Fail(FakeDevice::Call::kSynchronize, absl::InternalError("illegal address"));
  Submit("fails", MakePackedRequest());
  EXPECT_EQ(Await("fails").status.code(), absl::StatusCode::kInternal);
  const auto request = MakePackedRequest();
  Submit("works", request);
  ExpectCorrect("works", request);
}

TEST_P(SchedulerTest, AllocatesNothingOnTheDeviceInSteadyState) {
  for (int i = 0; i < 2; ++i) {
    Submit("warm" + std::to_string(i), MakePackedRequest());
    Await("warm" + std::to_string(i));
  }
  const int64_t before = device_->counts().allocations;
  for (int i = 0; i < 5; ++i) {
    Submit("r" + std::to_string(i), MakePackedRequest());
    Await("r" + std::to_string(i));
  }
  EXPECT_EQ(device_->counts().allocations, before);
}

TEST_P(SchedulerTest, TurnsWaitingWorkAwayWhenStopped) {
  SubmitBlocker();
  Submit("waiting", MakePackedRequest());
  scheduler_->Stop();
  ExpectError(Await("waiting").status, absl::StatusCode::kUnavailable, "DRAINING");
  Submit("new", MakePackedRequest());
  ExpectError(Await("new").status, absl::StatusCode::kUnavailable, "DRAINING");
  control_.OpenGate();
  EXPECT_TRUE(Await("blocker").status.ok()) << "what runs, finishes";
}

// ---- A lost device ----

TEST_P(SchedulerTest, CompletesEverythingOnceItsDeviceIsLost) {
  control_.OnLaunch([this](const AttentionProblem&) {
    device_->Lose();
    return absl::InternalError("illegal address");
  });
  SubmitBlocker();
  Submit("waiting", MakePackedRequest(1));
  Submit("waiting_too", MakePackedRequest(2));
  control_.OpenGate();
  for (const char* key : {"blocker", "waiting", "waiting_too"}) {
    ExpectError(Await(key).status, absl::StatusCode::kUnavailable, "DEVICE_LOST");
  }
  Submit("new", MakePackedRequest(3));
  ExpectError(Await("new").status, absl::StatusCode::kUnavailable, "DEVICE_LOST");
  EXPECT_EQ(control_.launches().size(), 1u);
  EXPECT_EQ(losses_.size(), 1u);
  EXPECT_EQ(finished_at_loss_, 0u) << "health turns before anyone hears of it";
  scheduler_->Stop();
  Submit("last", MakePackedRequest(4));
  ExpectError(Await("last").status, absl::StatusCode::kUnavailable, "DEVICE_LOST");
  scheduler_.reset();
  EXPECT_EQ(device_->counts().live_allocations, 0);
  EXPECT_EQ(device_->counts().live_events, 0);
}

TEST_P(SchedulerTest, NoticesALossAtTheNextFailure) {
  device_->Fail(FakeDevice::Call::kSynchronize, absl::InternalError("a passing trouble"));
  Submit("fails", MakePackedRequest());
  EXPECT_EQ(Await("fails").status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(losses_.empty());
  device_->Lose();
  Submit("lost", MakePackedRequest());
  ExpectError(Await("lost").status, absl::StatusCode::kUnavailable, "DEVICE_LOST");
}

INSTANTIATE_TEST_SUITE_P(Devices, SchedulerTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "host_memory" : "own_memory"; });

TEST(AdmissionTest, CountsRequestsAndGivesThemBack) {
  Admission admission({.max_concurrent_requests = 2});
  auto first = admission.EnterRequest();
  auto second = admission.EnterRequest();
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status refused = admission.EnterRequest().status();
  ExpectError(refused, absl::StatusCode::kResourceExhausted, "TOO_MANY_REQUESTS");
  EXPECT_TRUE(GetErrorDetail(refused)->retry_after.has_value());
  EXPECT_TRUE(admission.EnterStream().ok()) << "an idle stream is no request";
  *first = Admission::Ticket();
  EXPECT_TRUE(admission.EnterRequest().ok());
}

TEST(AdmissionTest, ChecksSizes) {
  const Admission admission({.max_message_bytes = 1000, .max_batch_tokens = 10});
  EXPECT_TRUE(admission.CheckSize({.q_tokens = 4, .kv_tokens = 6}, 1000).ok());
  ExpectError(admission.CheckSize({.q_tokens = 5, .kv_tokens = 6}, 0), absl::StatusCode::kResourceExhausted,
              "BATCH_TOKENS_LIMIT");
  ExpectError(admission.CheckSize({.q_tokens = INT64_MAX, .kv_tokens = INT64_MAX}, 0),
              absl::StatusCode::kResourceExhausted, "BATCH_TOKENS_LIMIT");
  ExpectError(admission.CheckSize({}, 1001), absl::StatusCode::kResourceExhausted, "OUTPUT_LIMIT");
}

TEST(AdmissionTest, WaitsForThoseInsideOnceTheDoorIsClosed) {
  Admission admission(Limits{});
  auto ticket = admission.EnterRequest();
  admission.CloseDoor();
  ExpectError(admission.EnterRequest().status(), absl::StatusCode::kUnavailable, "DRAINING");
  EXPECT_FALSE(admission.WaitUntilEmpty(Clock::now() + std::chrono::milliseconds(5)));
  *ticket = Admission::Ticket();
  EXPECT_TRUE(admission.WaitUntilEmpty(Clock::now()));
}

}  // namespace
}  // namespace tessera
