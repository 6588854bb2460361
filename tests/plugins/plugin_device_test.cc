// A plugin with a device of its own, through Device and Backend: the fenced device, whose memory faults when
// the host touches it and whose streams run behind the caller's back.
#include "backend/core/plugin_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <numeric>

#include "tests/plugins/plugin_test_support.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

#define ASSERT_OK(expr)                                     \
  do {                                                      \
    const absl::Status assert_ok_status = (expr);           \
    ASSERT_TRUE(assert_ok_status.ok()) << assert_ok_status; \
  } while (false)

class FencedDeviceTest : public ::testing::Test {
 protected:
  explicit FencedDeviceTest(const std::string& file = "tessera_plugin_fenced.so") : plugin_(file) {}

  void SetUp() override {
    ASSERT_OK(plugin_.status);
    auto stream = Stream::Create(device());
    ASSERT_OK(stream.status());
    stream_ = *std::move(stream);
    auto event = Event::Create(device());
    ASSERT_OK(event.status());
    done_ = *std::move(event);
  }

  Backend& backend() { return *plugin_.backend(); }
  Device& device() { return backend().device(); }

  template <typename T>
  absl::StatusOr<DeviceBuffer> Upload(const std::vector<T>& values) {
    TESSERA_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(device(), TESSERA_MEMORY_DEVICE,
                                                                       values.size() * sizeof(T)));
    TESSERA_RETURN_IF_ERROR(device().CopyAsync(buffer.data(), values.data(), buffer.size(),
                                               TESSERA_COPY_HOST_TO_DEVICE, stream_.get()));
    return buffer;
  }

  template <typename T>
  absl::Status Download(const DeviceBuffer& buffer, std::vector<T>& values) {
    return device().CopyAsync(values.data(), buffer.data(), buffer.size(), TESSERA_COPY_DEVICE_TO_HOST,
                              stream_.get());
  }

  absl::Status Synchronize() {
    TESSERA_RETURN_IF_ERROR(device().RecordEvent(done_.get(), stream_.get()));
    return device().SynchronizeEvent(done_.get());
  }

  LoadedPlugin plugin_;
  Stream stream_;
  Event done_;
};

TEST_F(FencedDeviceTest, IsRegisteredBesideTheHost) {
  EXPECT_EQ(device().id(), "fenced:0");
  EXPECT_FALSE(device().host_accessible());
  EXPECT_EQ(plugin_.registry.devices(), std::vector<Device*>{&device()});
  const auto info = device().Info();
  ASSERT_OK(info.status());
  EXPECT_EQ(info->name, "fenced test device");
  EXPECT_EQ(info->total_memory_bytes, int64_t{1} << 30);
}

TEST_F(FencedDeviceTest, CopiesThroughDeviceMemory) {
  std::vector<int> sent(1000), received(1000);
  std::iota(sent.begin(), sent.end(), 0);
  const auto first = Upload(sent);
  ASSERT_OK(first.status());
  const auto second = DeviceBuffer::Create(device(), TESSERA_MEMORY_DEVICE, first->size());
  ASSERT_OK(second.status());
  ASSERT_OK(device().CopyAsync(second->data(), first->data(), first->size(), TESSERA_COPY_DEVICE_TO_DEVICE,
                               stream_.get()));
  ASSERT_OK(Download(*second, received));
  ASSERT_OK(Synchronize());
  EXPECT_EQ(received, sent);
}

TEST_F(FencedDeviceTest, ReportsUseAndExhaustionOfMemory) {
  const auto block = DeviceBuffer::Create(device(), TESSERA_MEMORY_DEVICE, 1 << 20);
  ASSERT_OK(block.status());
  const auto info = device().Info();
  ASSERT_OK(info.status());
  EXPECT_EQ(info->free_memory_bytes, info->total_memory_bytes - (1 << 20));
  const auto too_much = DeviceBuffer::Create(device(), TESSERA_MEMORY_DEVICE, size_t{2} << 30);
  EXPECT_EQ(too_much.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(too_much.status().message()),
              HasSubstr("fenced:0: allocate: asked for 2147483648 bytes, 1072693248 are free"));
}

TEST_F(FencedDeviceTest, PinnedMemoryIsTheHostsToo) {
  const auto pinned = DeviceBuffer::Create(device(), TESSERA_MEMORY_PINNED, 64);
  ASSERT_OK(pinned.status());
  std::memset(pinned->data(), 1, pinned->size());
}

TEST_F(FencedDeviceTest, RefusesACopyToMemoryOfTheHost) {
  std::vector<float> host(4);
  const absl::Status status =
      device().CopyAsync(host.data(), host.data(), 16, TESSERA_COPY_HOST_TO_DEVICE, stream_.get());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the destination of a copy is not in device memory"));
}

TEST_F(FencedDeviceTest, AStreamWaitsForAnEventOfAnother) {
  const auto other = Stream::Create(device());
  ASSERT_OK(other.status());
  std::vector<int> sent(1 << 20), received(1 << 20);
  std::iota(sent.begin(), sent.end(), 0);
  const auto block = Upload(sent);
  ASSERT_OK(block.status());
  ASSERT_OK(device().RecordEvent(done_.get(), stream_.get()));
  ASSERT_OK(device().WaitEvent(other->get(), done_.get()));
  ASSERT_OK(device().CopyAsync(received.data(), block->data(), block->size(), TESSERA_COPY_DEVICE_TO_HOST,
                               other->get()));
  ASSERT_OK(device().RecordEvent(done_.get(), other->get()));
  ASSERT_OK(device().SynchronizeEvent(done_.get()));
  EXPECT_EQ(received, sent);
}

TEST_F(FencedDeviceTest, TimesTheWorkBetweenTwoEvents) {
  auto begin = Event::Create(device());
  ASSERT_OK(begin.status());
  ASSERT_OK(device().RecordEvent(begin->get(), stream_.get()));
  ASSERT_OK(Synchronize());
  const auto elapsed = device().ElapsedMicroseconds(begin->get(), done_.get());
  ASSERT_OK(elapsed.status());
  EXPECT_GE(*elapsed, 0);
  // The other way round is no time at all.
  const auto negative = device().ElapsedMicroseconds(done_.get(), begin->get());
  if (*elapsed > 0) {
    EXPECT_EQ(ReasonOf(negative.status()), "PLUGIN_INVALID_RESULT") << negative.status();
  }
}

// A problem whose tensors lie in device memory.
class FencedAttentionTest : public FencedDeviceTest {
 protected:
  using FencedDeviceTest::FencedDeviceTest;

  absl::Status Place() {
    TESSERA_ASSIGN_OR_RETURN(q_, Upload(small_.q));
    TESSERA_ASSIGN_OR_RETURN(k_, Upload(small_.k));
    TESSERA_ASSIGN_OR_RETURN(v_, Upload(small_.v));
    TESSERA_ASSIGN_OR_RETURN(o_, Upload(small_.o));
    TESSERA_ASSIGN_OR_RETURN(lse_, Upload(small_.lse));
    small_.problem.q.data = q_.data();
    small_.problem.k.data = k_.data();
    small_.problem.v.data = v_.data();
    small_.problem.o.data = o_.data();
    small_.problem.lse.data = reinterpret_cast<float*>(lse_.data());
    return absl::OkStatus();
  }

  // Plans, and enqueues with a copy of the host arrays that is gone when Enqueue has returned.
  absl::Status Launch() {
    TESSERA_RETURN_IF_ERROR(backend().Supports(small_.problem));
    TESSERA_ASSIGN_OR_RETURN(const Plan plan, backend().MakePlan(small_.problem));
    TESSERA_ASSIGN_OR_RETURN(workspace_, DeviceBuffer::Create(device(), TESSERA_MEMORY_DEVICE,
                                                              static_cast<size_t>(plan.workspace_bytes)));
    std::vector<Sequence> sequences = small_.sequences;
    AttentionProblem problem = small_.problem;
    problem.sequences = sequences.data();
    return backend().Enqueue(plan, problem, workspace_.data(), stream_.get());
  }

  SmallProblem small_;
  DeviceBuffer q_, k_, v_, o_, lse_, workspace_;
};

TEST_F(FencedAttentionTest, ComputesInDeviceMemory) {
  ASSERT_OK(Place());
  ASSERT_OK(Launch());
  ASSERT_OK(Download(o_, small_.o));
  ASSERT_OK(Download(lse_, small_.lse));
  ASSERT_OK(Synchronize());
  EXPECT_LT(small_.WorstError(), 1e-6);
}

TEST_F(FencedAttentionTest, ALateErrorComesWithTheEventAndThenIsOver) {
  ASSERT_OK(Place());
  small_.problem.v.data = small_.v.data();  // host memory: the "kernel" finds out
  ASSERT_OK(Launch());
  const absl::Status late = Synchronize();
  EXPECT_EQ(late.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(late.message()), HasSubstr("event_synchronize: v is not in device memory"));

  small_.problem.v.data = v_.data();
  ASSERT_OK(Launch());
  ASSERT_OK(Synchronize());
}

TEST_F(FencedAttentionTest, AnEmptyBatchOfKeysIsZeros) {
  for (Sequence& sequence : small_.sequences) sequence.kv_len = 0;
  ASSERT_OK(Place());
  ASSERT_OK(Launch());
  ASSERT_OK(Download(o_, small_.o));
  ASSERT_OK(Synchronize());
  EXPECT_THAT(small_.o, Each(0.0f));
}

// Its device is lost with the third launch.
class LostDeviceTest : public FencedAttentionTest {
 protected:
  LostDeviceTest() : FencedAttentionTest("tessera_plugin_lost.so") {}
};

TEST_F(LostDeviceTest, ACallThatSaysUnavailableMarksTheDeviceLost) {
  ASSERT_OK(Place());
  for (int i = 0; i < 2; ++i) {
    ASSERT_OK(Launch());
    ASSERT_OK(Synchronize());
  }
  ASSERT_OK(device().Health());
  ASSERT_OK(Launch());
  for (const absl::Status& status : {Synchronize(), device().Health(), Event::Create(device()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(ReasonOf(status), "DEVICE_LOST") << status;
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(HasSubstr("fenced:0: the device is lost: fenced:0: event_"), HasSubstr("fell off the bus")));
  }
  // Memory, streams and events go all the same, at the end of the test.
}

TEST(PluginDeviceTest, UnavailableIsLostOnlyWhereWorkIsQueuedOrWaitedFor) {
  tessera_device_table table{};
  table.struct_size = sizeof(table);
  table.name = "busy:0";
  table.info = [](void*, tessera_device_info*, tessera_message*) -> tessera_code {
    return TESSERA_UNAVAILABLE;
  };
  table.allocate = [](void*, tessera_memory_kind, size_t, void**, tessera_message*) -> tessera_code {
    return TESSERA_UNAVAILABLE;
  };
  table.event_record = [](void*, tessera_event*, tessera_stream*, tessera_message*) -> tessera_code {
    return TESSERA_UNAVAILABLE;
  };
  PluginDevice device(nullptr, table);
  for (const absl::Status& status :
       {device.Info().status(), device.Allocate(TESSERA_MEMORY_DEVICE, 64).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_NE(ReasonOf(status), "DEVICE_LOST") << status;
  }
  ASSERT_OK(device.Health());
  EXPECT_EQ(ReasonOf(device.RecordEvent(nullptr, nullptr)), "DEVICE_LOST");
  EXPECT_EQ(ReasonOf(device.Health()), "DEVICE_LOST");
  EXPECT_EQ(ReasonOf(device.Allocate(TESSERA_MEMORY_DEVICE, 64).status()), "DEVICE_LOST");
}

TEST(FencedDeviceDeathTest, TheHostCannotTouchDeviceMemory) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  LoadedPlugin plugin("tessera_plugin_fenced.so");
  ASSERT_OK(plugin.status);
  const auto block = DeviceBuffer::Create(plugin.backend()->device(), TESSERA_MEMORY_DEVICE, 64);
  ASSERT_OK(block.status());
  volatile auto* const byte = reinterpret_cast<volatile char*>(block->data());
  EXPECT_DEATH(*byte = 1, "");
}

TEST(PluginLifetimeTest, TheDeviceOutlivesTheBackendInTheRegistry) {
  // The registry destroys the backend first; the plugin must not be destroyed before its device is done with.
  auto plugin = std::make_unique<LoadedPlugin>("tessera_plugin_fenced.so");
  ASSERT_OK(plugin->status);
  plugin.reset();
}

}  // namespace
}  // namespace tessera
