// Launches on a device with memory of its own, whose copies and work run behind the server's back: what
// overlaps, what a large launch is cut into, and what happens when a part fails.
#include "server/device_executor.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/core/error.h"
#include "gtest/gtest.h"
#include "tests/server/scheduler_fixture.h"
#include "tests/server/threaded_device.h"

namespace tessera {
namespace {

using testing::MakePackedRequest;
using testing::MakeRequest;
using testing::SchedulerFixture;
using testing::SetTensor;
using testing::ThreadedBackend;
using testing::ThreadedDevice;

// Where threads of the device report, and wait while it is closed.
class Gate {
 public:
  explicit Gate(bool open = true) : open_(open) {}
  void Pass() {
    std::unique_lock lock(mutex_);
    ++arrivals_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void Set(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  int arrivals() {
    const std::lock_guard lock(mutex_);
    return arrivals_;
  }
  // False when that takes too long.
  bool AwaitArrivals(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return arrivals_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_;
  int arrivals_ = 0;
};

class DeviceExecutorTest : public SchedulerFixture, public ::testing::Test {
 protected:
  DeviceExecutorTest() {
    script_.on_work = [this](const AttentionProblem&) { work_.Pass(); };
    script_.on_model = [this](const Plan& plan, const AttentionProblem& problem) {
      models_.Pass();
      return ModelledTraffic{.read_bytes = SizeOf(problem).kv_tokens, .write_bytes = plan.workspace_bytes};
    };
  }
  ~DeviceExecutorTest() override {
    for (Gate* gate : {&uploads_, &work_, &downloads_, &models_}) gate->Set(true);
    scheduler_.reset();
  }

  void Start(int64_t memory_bytes = int64_t{1} << 30) {
    auto device = std::make_unique<ThreadedDevice>(memory_bytes);
    device_ = device.get();
    registry_.AddDevice(std::move(device));
    auto backend = std::make_unique<ThreadedBackend>(*device_, script_);
    backend_ = backend.get();
    ASSERT_TRUE(registry_.Add(std::move(backend)).ok());
    device_->SetOnCopy([this](CopyKind kind, size_t bytes) {
      const bool in = kind == TESSERA_COPY_HOST_TO_DEVICE;
      (in ? uploaded_bytes_ : downloaded_bytes_) += static_cast<int64_t>(bytes);
      (in ? uploads_ : downloads_).Pass();
    });
    StartScheduler();
  }

  void Submit(const std::string& key, const v1::AttendRequest& request) {
    scheduler_->Submit(MakeJob(key, request, backend_));
  }

  // Eight sequences of 4 MiB: four chunks.
  static v1::AttendRequest ManySequences(uint32_t seed = 1) {
    auto request = MakeRequest(v1::LAYOUT_PACKED, {16, 1, 64}, {65536, 1, 64}, {65536, 1, 64}, seed);
    for (int i = 0; i < 8; ++i) {
      request.add_q_lens(2);
      request.add_kv_lens(8192);
    }
    return request;
  }

  // One sequence of 32 MiB in eight kv heads, which lie apart, with everything that is given per head: four
  // chunks.
  static v1::AttendRequest ManyHeads() {
    auto request = MakeRequest(v1::LAYOUT_BHSD, {1, 16, 2, 64}, {1, 8, 8192, 64}, {1, 8, 8192, 64});
    for (int h = 0; h < 16; ++h) {
      request.mutable_options()->add_alibi_slopes(0.001f * static_cast<float>(h));
      request.mutable_options()->add_sinks(0.1f * static_cast<float>(h));
    }
    std::string mask(16 * 2 * 8192, '\1');
    for (size_t i = 0; i < mask.size(); i += 3 + i % 7) mask[i] = '\0';
    SetTensor(request, *request.add_masks(), v1::DATA_TYPE_BOOL, {1, 16, 2, 8192}, std::move(mask));
    request.add_outputs()->set_kind(v1::OUTPUT_KIND_LSE);
    request.add_outputs()->set_kind(v1::OUTPUT_KIND_OUTPUT);
    return request;
  }
  static constexpr int kChunks = 4;

  // Like MakePackedRequest's, but for a length that FailOnBad does not bear.
  static v1::AttendRequest BadRequest() {
    auto bad = MakeRequest(v1::LAYOUT_PACKED, {5, 4, 8}, {9, 2, 8}, {9, 2, 6});
    for (const int64_t length : {3, 2}) bad.add_q_lens(length);
    for (const int64_t length : {2, 7}) bad.add_kv_lens(length);
    return bad;
  }
  static void FailOnBad(const AttentionProblem& problem) {
    for (int64_t s = 0; s < problem.num_sequences; ++s) {
      if (problem.sequences[s].kv_len == 7) throw std::runtime_error("illegal address");
    }
  }

  Gate uploads_, work_, downloads_, models_;
  std::atomic<int64_t> uploaded_bytes_ = 0, downloaded_bytes_ = 0;
  ThreadedBackend::Script script_;
  ThreadedDevice* device_ = nullptr;
  Backend* backend_ = nullptr;
};

// ---- Across launches ----

TEST_F(DeviceExecutorTest, UploadsOneLaunchWhileAnotherComputes) {
  Start();
  work_.Set(false);
  const auto first = MakePackedRequest(1), second = MakePackedRequest(2);
  Submit("first", first);
  ASSERT_TRUE(work_.AwaitArrivals(1));
  Submit("second", second);
  EXPECT_TRUE(uploads_.AwaitArrivals(6)) << "Q, K and V of the second";
  EXPECT_EQ(work_.arrivals(), 1);
  work_.Set(true);
  ExpectCorrect("first", first);
  ExpectCorrect("second", second);
}

TEST_F(DeviceExecutorTest, ComputesOneLaunchWhileAnotherDownloads) {
  Start();
  downloads_.Set(false);
  const auto first = MakePackedRequest(1), second = MakePackedRequest(2);
  Submit("first", first);
  ASSERT_TRUE(downloads_.AwaitArrivals(1));
  Submit("second", second);
  EXPECT_TRUE(work_.AwaitArrivals(2));
  EXPECT_FALSE(IsDone("first"));
  downloads_.Set(true);
  ExpectCorrect("first", first);
  ExpectCorrect("second", second);
}

TEST_F(DeviceExecutorTest, LetsRequestsJoinUntilThereIsRoom) {
  Start();
  work_.Set(false);
  for (int i = 0; i < 3; ++i) {
    Submit("flying" + std::to_string(i), MakePackedRequest());
    ASSERT_TRUE(uploads_.AwaitArrivals(3 * (i + 1)));
  }
  Submit("waiting", MakePackedRequest(1));
  Submit("waiting_too", MakePackedRequest(2));
  auto job = MakeJob("cancelled", MakePackedRequest(3), backend_);
  const auto cancelled = job->context.cancelled;
  scheduler_->Submit(std::move(job));
  scheduler_->Cancel(cancelled);
  EXPECT_TRUE(IsDone("cancelled"));
  work_.Set(true);
  EXPECT_EQ(Await("waiting").ledger.choice.batch_requests, 2);
  ExpectCorrect("waiting_too", MakePackedRequest(2));
}

TEST_F(DeviceExecutorTest, SettlesForLessOverlapWhereMemoryIsShort) {
  Start(int64_t{80} << 20);  // one request takes 32 MiB of the device and as much of the host
  std::vector<v1::AttendRequest> requests;
  for (uint32_t i = 0; i < 4; ++i) requests.push_back(ManySequences(i));
  for (uint32_t i = 0; i < 4; ++i) Submit("r" + std::to_string(i), requests[i]);
  for (uint32_t i = 0; i < 4; ++i) ExpectCorrect("r" + std::to_string(i), requests[i]);
}

TEST_F(DeviceExecutorTest, DoesNotStopThePipelineForWhatCannotFit) {
  Start(int64_t{20} << 20);
  work_.Set(false);
  Submit("running", MakePackedRequest());
  ASSERT_TRUE(work_.AwaitArrivals(1));
  Submit("too_large", ManySequences());  // 32 MiB
  Submit("next", MakePackedRequest());
  EXPECT_TRUE(uploads_.AwaitArrivals(6)) << "while the first one computes";
  work_.Set(true);
  const absl::Status status = Await("too_large").status;
  EXPECT_EQ(GetErrorDetail(status).value_or(ErrorDetail{}).reason, "DEVICE_MEMORY") << status;
  ExpectCorrect("running", MakePackedRequest());
  ExpectCorrect("next", MakePackedRequest());
}

TEST_F(DeviceExecutorTest, DoesNotStopThePipelineForALimit) {
  limits_.max_workspace_bytes = 1 << 20;
  script_.on_plan = [](const AttentionProblem& problem, Plan& plan) {
    if (problem.num_sequences == 2) plan.workspace_bytes = 2 << 20;
  };
  Start();
  work_.Set(false);
  const auto small = MakeRequest(v1::LAYOUT_PACKED, {1, 1, 8}, {5, 1, 8}, {5, 1, 8});
  Submit("running", small);
  ASSERT_TRUE(work_.AwaitArrivals(1));
  const int64_t used = device_->used_bytes();
  Submit("over_the_limit", MakePackedRequest());
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  work_.Set(true);
  const absl::Status status = Await("over_the_limit").status;
  EXPECT_EQ(GetErrorDetail(status).value_or(ErrorDetail{}).reason, "WORKSPACE_LIMIT") << status;
  ExpectCorrect("running", small);
  EXPECT_GT(device_->used_bytes(), used) << "what the slots hold stays";
}

TEST_F(DeviceExecutorTest, GrowsTheWorkspaceOnlyOnceNobodyUsesIt) {
  script_.on_plan = [](const AttentionProblem& problem, Plan& plan) {
    plan.workspace_bytes = problem.num_q_heads == 4 ? 256 : 1 << 20;
  };
  Start();
  work_.Set(false);
  const auto larger = MakeRequest(v1::LAYOUT_PACKED, {1, 1, 8}, {5, 1, 8}, {5, 1, 8});
  Submit("smaller", MakePackedRequest());
  ASSERT_TRUE(work_.AwaitArrivals(1));
  Submit("larger", larger);
  EXPECT_EQ(work_.arrivals(), 1);
  work_.Set(true);
  ExpectCorrect("smaller", MakePackedRequest());
  ExpectCorrect("larger", larger);
  EXPECT_EQ(Await("larger").ledger.memory.workspace_peak, 1 << 20);
}

// ---- Within a launch ----

TEST_F(DeviceExecutorTest, OverlapsTheChunksOfALargeRequest) {
  Start();
  const auto request = ManySequences();
  work_.Set(false);
  downloads_.Set(false);
  Submit("large", request);
  ASSERT_TRUE(work_.AwaitArrivals(1));
  EXPECT_TRUE(uploads_.AwaitArrivals(3 * kChunks)) << "while the first chunk computes";
  EXPECT_EQ(work_.arrivals(), 1);
  work_.Set(true);
  ASSERT_TRUE(downloads_.AwaitArrivals(1));
  EXPECT_TRUE(work_.AwaitArrivals(kChunks)) << "while the first chunk downloads";
  EXPECT_EQ(downloads_.arrivals(), 1);
  downloads_.Set(true);
  ExpectCorrect("large", request);
}

TEST_F(DeviceExecutorTest, ComputesWhileLaterChunksUpload) {
  Start();
  uploads_.Set(false);
  Submit("large", ManySequences());
  ASSERT_TRUE(uploads_.AwaitArrivals(1));
  EXPECT_EQ(work_.arrivals(), 0);
  device_->SetOnCopy([this](CopyKind kind, size_t) {
    if (kind != TESSERA_COPY_HOST_TO_DEVICE) return;
    uploads_.Pass();
    // The last chunk's K waits for the work of the first chunk.
    const bool is_near_the_end = uploads_.arrivals() == 3 * kChunks - 1;
    EXPECT_TRUE(!is_near_the_end || work_.AwaitArrivals(1));
  });
  uploads_.Set(true);
  EXPECT_TRUE(Await("large").status.ok());
}

TEST_F(DeviceExecutorTest, CutsByHeadsWhereOneSequenceIsLarge) {
  std::vector<int32_t> heads;
  script_.on_work = [&heads](const AttentionProblem& problem) { heads.push_back(problem.num_q_heads); };
  Start();
  const auto request = ManyHeads();
  Submit("large", request);
  ExpectCorrect("large", request);
  EXPECT_EQ(heads, (std::vector<int32_t>{4, 4, 4, 4}));
}

TEST_F(DeviceExecutorTest, AccountsForEveryChunk) {
  script_.on_work = [](const AttentionProblem&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  Start();
  const auto request = ManySequences();
  Submit("large", request);
  const Ledger ledger = Await("large").ledger;
  EXPECT_EQ(ledger.choice.launches, kChunks);
  EXPECT_EQ(ledger.choice.kernel, "threaded_row");
  EXPECT_EQ(ledger.choice.batch_sequences, 8);
  EXPECT_EQ(ledger.choice.batch_requests, 1);
  EXPECT_GE(ledger.time.compute, kChunks * 5000.0);

  const int64_t outputs = 16 * 64 * 4;
  const int64_t inputs = outputs + 2 * 65536 * 64 * 4;
  const MemoryLedger& memory = ledger.memory;
  EXPECT_EQ(memory.host_copies_in, 1);
  EXPECT_EQ(memory.host_copies_in_bytes, inputs);
  EXPECT_EQ(memory.host_copies_out, 0);
  EXPECT_EQ(memory.host_copies_out_bytes, 0);
  EXPECT_EQ(memory.transfers_to_device, uploads_.arrivals());
  EXPECT_EQ(memory.transfers_to_device_bytes, inputs);
  EXPECT_EQ(uploaded_bytes_, inputs) << "nothing twice, nothing left out";
  EXPECT_EQ(memory.transfers_from_device, kChunks);
  EXPECT_EQ(memory.transfers_from_device_bytes, outputs);
  EXPECT_EQ(downloaded_bytes_, outputs);
  EXPECT_EQ(memory.workspace_peak, 256);
  EXPECT_EQ(memory.staging_peak, inputs + outputs);
  EXPECT_EQ(memory.device_peak, inputs + outputs + 256);
}

TEST_F(DeviceExecutorTest, ModelsTrafficOnceWhileTheDeviceWorks) {
  Start();
  work_.Set(false);
  Submit("large", ManySequences());
  EXPECT_TRUE(models_.AwaitArrivals(1)) << "while the first chunk computes";
  work_.Set(true);
  const TrafficLedger traffic = Await("large").ledger.traffic;
  EXPECT_EQ(traffic.hbm_read, 65536) << "of the whole request";
  EXPECT_EQ(traffic.hbm_write, 256);
  EXPECT_EQ(models_.arrivals(), 1);
}

TEST_F(DeviceExecutorTest, NoWorkWaitsForTheModel) {
  Start();
  models_.Set(false);
  Submit("large", ManySequences());
  ASSERT_TRUE(models_.AwaitArrivals(1));
  EXPECT_TRUE(downloads_.AwaitArrivals(kChunks));
  Submit("next", MakePackedRequest());
  EXPECT_TRUE(work_.AwaitArrivals(kChunks + 1));
  EXPECT_FALSE(IsDone("large"));
  models_.Set(true);
  ExpectCorrect("large", ManySequences());
  ExpectCorrect("next", MakePackedRequest());
}

TEST_F(DeviceExecutorTest, TakesLessTimeThanItsParts) {
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(40)); };
  script_.on_work = [pause](const AttentionProblem&) { pause(); };
  Start();
  device_->SetOnCopy([pause](CopyKind, size_t) { pause(); });
  Submit("large", ManySequences());
  const TimeLedger time = Await("large").ledger.time;
  // 4 x 3 uploads, 4 x work, 4 downloads, 40 ms each: 800 ms, of which 480 + 80 cannot overlap.
  EXPECT_GE(time.transfer_in, 12 * 40e3);
  EXPECT_GE(time.compute, 4 * 40e3);
  EXPECT_GE(time.transfer_out, 4 * 40e3);
  EXPECT_LT(time.total, time.transfer_in + time.compute + time.transfer_out - 100e3);
}

TEST_F(DeviceExecutorTest, CountsTheWaitForOthersAsQueueing) {
  // The one waits, placed, for the work of the launch before; the other, for memory.
  script_.on_plan = [](const AttentionProblem& problem, Plan& plan) {
    plan.workspace_bytes = problem.num_q_heads == 4 ? 256 : 1 << 20;
  };
  const auto larger = MakeRequest(v1::LAYOUT_PACKED, {1, 1, 8}, {5, 1, 8}, {5, 1, 8});
  Start();
  for (const v1::AttendRequest& request : {MakePackedRequest(), larger}) {
    const std::string key = request.q().shape(1) == 4 ? "placed" : "unplaced";
    work_.Set(false);
    const int before = work_.arrivals();
    Submit("running" + key, MakePackedRequest());
    ASSERT_TRUE(work_.AwaitArrivals(before + 1));
    Submit(key, request);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    work_.Set(true);
    const TimeLedger time = Await(key).ledger.time;
    EXPECT_GE(time.queue, 60e3) << key;
    EXPECT_LE(time.queue, time.total) << key;
    EXPECT_LT(time.transfer_in + time.compute + time.transfer_out, 60e3) << key;
  }
}

TEST_F(DeviceExecutorTest, LeavesEachChunkEnoughToDo) {
  Start();
  const auto request = ManySequences();
  // 16 query tiles are 4 waves of 4 compute units, and so 2 chunks of 2; 8 are not enough for two.
  for (const auto& [tile_q, launches] : {std::pair(1, 2), std::pair(2, 1)}) {
    script_.on_plan = [tile = tile_q](const AttentionProblem&, Plan& plan) { plan.tile_q = tile; };
    const std::string key = "tile" + std::to_string(tile_q);
    Submit(key, request);
    ExpectCorrect(key, request);
    EXPECT_EQ(Await(key).ledger.choice.launches, launches) << tile_q;
  }
}

TEST_F(DeviceExecutorTest, DoesNotCutWhatThePlanWouldComputeOtherwise) {
  const auto change = [](auto edit) {
    return [edit](const AttentionProblem& problem, Plan& plan) {
      if (problem.num_sequences < 8) edit(plan);
    };
  };
  const std::vector<std::function<void(const AttentionProblem&, Plan&)>> plans = {
      change([](Plan& plan) { plan.num_splits = 2; }),
      change([](Plan& plan) { plan.tile_kv = 7; }),
      change([](Plan& plan) { std::strcpy(plan.kernel, "another"); }),
      [](const AttentionProblem&, Plan& plan) { plan.num_splits = 2; },
      [](const AttentionProblem&, Plan& plan) { plan.materialises_scores = 1; },
  };
  Start();
  const auto request = ManySequences();
  for (size_t i = 0; i < plans.size(); ++i) {
    script_.on_plan = plans[i];
    const std::string key = "r" + std::to_string(i);
    Submit(key, request);
    ExpectCorrect(key, request);
    EXPECT_EQ(Await(key).ledger.choice.launches, 1) << i;
  }
}

// ---- Failures ----

TEST_F(DeviceExecutorTest, FailsAsAWholeWhenAChunkDoes) {
  std::atomic<int> launches = 0;
  script_.on_enqueue = [&launches](const AttentionProblem&) {
    return ++launches == 3 ? absl::InternalError("no third chunk") : absl::OkStatus();
  };
  Start();
  Submit("large", ManySequences());
  EXPECT_EQ(Await("large").status, absl::InternalError("no third chunk"));
  EXPECT_EQ(launches, 3);
  Submit("small", MakePackedRequest());
  ExpectCorrect("small", MakePackedRequest());
}

TEST_F(DeviceExecutorTest, FailsAsAWholeWhenAChunkDoesLate) {
  std::atomic<int> works = 0;
  script_.on_work = [&works](const AttentionProblem&) {
    if (++works == 2) throw std::runtime_error("illegal address");
  };
  Start();
  Submit("large", ManySequences());
  EXPECT_EQ(Await("large").status, absl::InternalError("illegal address"));
  Submit("small", MakePackedRequest());
  ExpectCorrect("small", MakePackedRequest());
}

TEST_F(DeviceExecutorTest, FailsWhoseModelDoes) {
  script_.on_model = [](const Plan&, const AttentionProblem& problem) -> absl::StatusOr<ModelledTraffic> {
    if (problem.num_sequences == 8) throw std::runtime_error("too long a walk");
    return ModelledTraffic{};
  };
  Start();
  work_.Set(false);
  Submit("large", ManySequences());
  ASSERT_TRUE(work_.AwaitArrivals(1));
  Submit("small", MakePackedRequest());
  work_.Set(true);
  EXPECT_EQ(Await("large").status.message(), "threaded threw: too long a walk");
  ExpectCorrect("small", MakePackedRequest());
  EXPECT_EQ(work_.arrivals(), kChunks + 1) << "nothing runs again";
}

TEST_F(DeviceExecutorTest, ReportsAFailedTransfer) {
  Start();
  for (const CopyKind failing : {TESSERA_COPY_HOST_TO_DEVICE, TESSERA_COPY_DEVICE_TO_HOST}) {
    device_->SetOnCopy([failing](CopyKind kind, size_t) {
      if (kind == failing) throw std::runtime_error("bus error");
    });
    const std::string key = "fails" + std::to_string(failing);
    Submit(key, MakePackedRequest());
    EXPECT_EQ(Await(key).status, absl::InternalError("bus error"));
  }
  device_->SetOnCopy(nullptr);
  Submit("works", MakePackedRequest());
  ExpectCorrect("works", MakePackedRequest());
}

TEST_F(DeviceExecutorTest, NobodyFailsForTheLaunchBefore) {
  std::atomic<int> works = 0;
  script_.on_work = [&](const AttentionProblem&) {
    const bool fails = ++works == 1;
    work_.Pass();
    if (fails) throw std::runtime_error("illegal address");
  };
  Start();
  work_.Set(false);
  Submit("bad", MakePackedRequest(1));
  ASSERT_TRUE(work_.AwaitArrivals(1));
  Submit("good", MakePackedRequest(2));
  Submit("good_too", MakePackedRequest(3));
  ASSERT_TRUE(uploads_.AwaitArrivals(6));
  work_.Set(true);
  EXPECT_EQ(Await("bad").status, absl::InternalError("illegal address"));
  ExpectCorrect("good", MakePackedRequest(2));
  ExpectCorrect("good_too", MakePackedRequest(3));
}

TEST_F(DeviceExecutorTest, FailsOnlyWhatFailsAlone) {
  script_.on_work = [&](const AttentionProblem& problem) {
    work_.Pass();
    FailOnBad(problem);
  };
  Start();
  work_.Set(false);
  for (int i = 0; i < 3; ++i) {
    Submit("flying" + std::to_string(i), MakePackedRequest());
    ASSERT_TRUE(uploads_.AwaitArrivals(3 * (i + 1)));
  }
  Submit("good", MakePackedRequest(1));
  Submit("bad", BadRequest());
  Submit("good_too", MakePackedRequest(2));
  work_.Set(true);
  EXPECT_EQ(Await("bad").status, absl::InternalError("illegal address"));
  ExpectCorrect("good", MakePackedRequest(1));
  ExpectCorrect("good_too", MakePackedRequest(2));
}

TEST_F(DeviceExecutorTest, KeepsItsWordUnderLoad) {
  script_.on_work = FailOnBad;
  Start();
  constexpr int kThreads = 4, kRequests = 60;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kRequests; ++i) {
        const bool bad = i % 7 == 3;
        const std::string key = (bad ? "bad" : "good") + std::to_string(t * kRequests + i);
        auto job = MakeJob(key, bad ? BadRequest() : MakePackedRequest(static_cast<uint32_t>(i)), backend_);
        const auto cancelled = job->context.cancelled;
        scheduler_->Submit(std::move(job));
        if (i % 11 == 5) scheduler_->Cancel(cancelled);
        if (i % 13 == 0) Await(key);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int n = 0; n < kThreads * kRequests; ++n) {
    const int i = n % kRequests;
    const bool bad = i % 7 == 3;
    const std::string key = (bad ? "bad" : "good") + std::to_string(n);
    const absl::Status status = Await(key).status;
    if (i % 11 == 5 && absl::IsCancelled(status)) continue;
    if (bad) {
      EXPECT_EQ(status, absl::InternalError("illegal address")) << key;
    } else {
      ExpectCorrect(key, MakePackedRequest(static_cast<uint32_t>(i)));
    }
  }
}

TEST_F(DeviceExecutorTest, GivesTheDeviceUpWhereItCannotBeWaitedFor) {
  const absl::Status no_events = absl::InternalError("no more events");
  std::atomic<bool> fails = false;
  script_.on_enqueue = [&fails](const AttentionProblem&) {
    fails = true;
    return absl::OkStatus();
  };
  Start();
  device_->SetOnRecord([&] { return fails ? no_events : absl::OkStatus(); });
  work_.Set(false);
  Submit("bad", MakePackedRequest(1));
  const absl::Status bad = Await("bad").status;
  ASSERT_TRUE(work_.AwaitArrivals(1)) << "it still runs";
  fails = false;
  Submit("good", MakePackedRequest(2));
  for (const absl::Status& status : {bad, Await("good").status}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(GetErrorDetail(status).value_or(ErrorDetail{}).reason, "DEVICE_LOST") << status;
  }
  EXPECT_EQ(work_.arrivals(), 1);
  ASSERT_EQ(losses_.size(), 1u);
  EXPECT_EQ(finished_at_loss_, 0u) << "before any job is completed";
}

TEST_F(DeviceExecutorTest, TouchesNoMemoryOnceTheDeviceIsGivenUp) {
  std::atomic<int> enqueued = 0;
  std::atomic<bool> fails = false;
  script_.on_enqueue = [&](const AttentionProblem&) {
    if (++enqueued == 4) fails = true;
    return absl::OkStatus();
  };
  Start();
  device_->SetOnRecord([&] { return fails ? absl::InternalError("no more events") : absl::OkStatus(); });
  work_.Set(false);
  // Three launches fill the pipeline; the fourth takes the slot of the first.
  for (int i = 0; i < 3; ++i) {
    Submit("flying" + std::to_string(i), MakePackedRequest());
    ASSERT_TRUE(uploads_.AwaitArrivals(3 * (i + 1)));
  }
  Submit("bad", MakePackedRequest(1));
  work_.Set(true);
  const absl::Status status = Await("bad").status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  for (int i = 0; i < 3; ++i) ExpectCorrect("flying" + std::to_string(i), MakePackedRequest());
}

// ---- Cancellation ----

TEST_F(DeviceExecutorTest, QueuesNoMoreChunksOfADeadRequest) {
  std::atomic<int> launches = 0;
  auto large = std::shared_ptr<std::atomic<bool>>();
  script_.on_enqueue = [&](const AttentionProblem&) {
    if (++launches == 2) large->store(true);
    return absl::OkStatus();
  };
  Start();
  auto job = MakeJob("large", ManySequences(), backend_);
  large = job->context.cancelled;
  scheduler_->Submit(std::move(job));
  EXPECT_EQ(Await("large").status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(launches, 2);

  job = MakeJob("late", ManySequences(), backend_);
  script_.on_enqueue = [&](const AttentionProblem&) {
    ++launches;
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    return absl::OkStatus();
  };
  job->context.deadline = Clock::now() + std::chrono::milliseconds(50);
  scheduler_->Submit(std::move(job));
  EXPECT_EQ(Await("late").status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LE(launches, 3);
}

TEST_F(DeviceExecutorTest, QueuesNothingOfARequestThatDiedWaitingForMemory) {
  script_.on_plan = [](const AttentionProblem& problem, Plan& plan) {
    plan.workspace_bytes = problem.num_q_heads == 4 ? 256 : 1 << 20;
  };
  Start();
  work_.Set(false);
  Submit("running", MakePackedRequest());
  ASSERT_TRUE(work_.AwaitArrivals(1));
  auto job = MakeJob("dead", MakeRequest(v1::LAYOUT_PACKED, {1, 1, 8}, {5, 1, 8}, {5, 1, 8}), backend_);
  job->context.deadline = Clock::now() + std::chrono::milliseconds(50);
  scheduler_->Submit(std::move(job));  // its workspace is larger: it waits for the launch that runs
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_FALSE(IsDone("dead"));
  work_.Set(true);
  EXPECT_EQ(Await("dead").status.code(), absl::StatusCode::kDeadlineExceeded);
  ExpectCorrect("running", MakePackedRequest());
  EXPECT_EQ(work_.arrivals(), 1);
  EXPECT_EQ(uploads_.arrivals(), 3);
}

}  // namespace
}  // namespace tessera
