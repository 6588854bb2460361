// The owning handles of device.h.
#include "backend/core/device.h"

#include <utility>

#include "gtest/gtest.h"
#include "tests/backend/fake_device.h"

namespace tessera {
namespace {

using testing::FakeDevice;

TEST(DeviceBufferTest, FreesOnceThroughMoves) {
  FakeDevice device;
  {
    DeviceBuffer a = *DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, 100);
    DeviceBuffer b = *DeviceBuffer::Create(device, TESSERA_MEMORY_PINNED, 50);
    EXPECT_EQ(device.counts().live_bytes, 150);
    std::byte* const a_data = a.data();
    b = std::move(a);  // frees the 50
    EXPECT_EQ(device.counts().live_bytes, 100);
    EXPECT_EQ(b.data(), a_data);
    EXPECT_EQ(b.size(), 100u);
    EXPECT_EQ(a.data(), nullptr);  // NOLINT(bugprone-use-after-move): the state is specified
    EXPECT_EQ(a.size(), 0u);
    DeviceBuffer& self = b;
    b = std::move(self);
    EXPECT_EQ(b.size(), 100u);
  }
  EXPECT_EQ(device.counts().live_allocations, 0);
}

TEST(DeviceBufferTest, EmptyTakesNoMemory) {
  FakeDevice device;
  const auto buffer = DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, 0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
  EXPECT_EQ(device.counts().allocations, 0);
}

TEST(DeviceBufferTest, ReportsTheDevicesError) {
  FakeDevice device({.memory_bytes = 64});
  EXPECT_EQ(DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, 65).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DeviceBuffer::Create(device, TESSERA_MEMORY_DEVICE, SIZE_MAX).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device.counts().live_allocations, 0);
}

TEST(StreamTest, DestroysOnceThroughMoves) {
  FakeDevice device;
  {
    Stream a = *Stream::Create(device);
    Stream b = *Stream::Create(device);
    EXPECT_EQ(device.counts().live_streams, 2);
    a = std::move(b);
    EXPECT_EQ(device.counts().live_streams, 1);
    EXPECT_NE(a.get(), nullptr);
    EXPECT_EQ(b.get(), nullptr);  // NOLINT(bugprone-use-after-move): the state is specified
    Stream c(std::move(a));
    c.Reset();
    EXPECT_EQ(device.counts().live_streams, 0);
  }
  device.Fail(FakeDevice::Call::kCreateStream, absl::UnavailableError("lost"));
  EXPECT_EQ(Stream::Create(device).status().code(), absl::StatusCode::kUnavailable);
}

TEST(EventTest, DestroysOnceThroughMoves) {
  FakeDevice device;
  {
    Event begin = *Event::Create(device);
    Event end = *Event::Create(device);
    ASSERT_TRUE(device.RecordEvent(begin.get(), nullptr).ok());
    ASSERT_TRUE(device.RecordEvent(end.get(), nullptr).ok());
    EXPECT_GE(*device.ElapsedMicroseconds(begin.get(), end.get()), 0);
    begin = std::move(end);
    EXPECT_EQ(device.counts().live_events, 1);
  }
  EXPECT_EQ(device.counts().live_events, 0);
}

}  // namespace
}  // namespace tessera
