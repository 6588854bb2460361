#include "backend/core/arena.h"

#include <cstring>
#include <limits>

#include "gtest/gtest.h"
#include "tests/backend/fake_device.h"
#include "tests/backend/status_expectations.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tessera {
namespace {

using testing::ErrorMetadata;
using testing::ExpectError;
using testing::FakeDevice;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

bool IsAligned(const void* block) { return reinterpret_cast<uintptr_t>(block) % 64 == 0; }

TEST(ArenaTest, SteadyStateAllocatesNothing) {
  FakeDevice device;
  Arena arena(device, TESSERA_MEMORY_DEVICE, 1 << 20);
  for (int64_t bytes : {1000, 4000, 10, 4000, 3999, 0}) ASSERT_TRUE(arena.Begin(bytes).ok());
  EXPECT_EQ(device.counts().allocations, 2);  // for 1000 and for 4000
  EXPECT_EQ(device.counts().live_allocations, 1);
  EXPECT_EQ(arena.capacity_bytes(), 4032);
}

TEST(ArenaTest, HandsOutAlignedDisjointBlocks) {
  FakeDevice device;
  Arena arena(device, TESSERA_MEMORY_DEVICE, 1 << 20);
  ASSERT_TRUE(arena.Begin(64 + 128 + 64).ok());
  auto* const a = static_cast<char*>(*arena.Allocate(1));
  auto* const b = static_cast<char*>(*arena.Allocate(65));
  auto* const c = static_cast<char*>(*arena.Allocate(64));
  EXPECT_TRUE(IsAligned(a) && IsAligned(b) && IsAligned(c));
  EXPECT_EQ(b - a, 64);
  EXPECT_EQ(c - b, 128);
  EXPECT_EQ(arena.high_water_bytes(), 256);
  std::memset(b, 1, 65);
  std::memset(c, 2, 64);
}

TEST(ArenaTest, MarkIsPerRequest) {
  FakeDevice device;
  Arena arena(device, TESSERA_MEMORY_PINNED, 1 << 20);
  ASSERT_TRUE(arena.Begin(640).ok());
  void* const first = *arena.Allocate(640);
  EXPECT_EQ(arena.high_water_bytes(), 640);
  ASSERT_TRUE(arena.Begin(100).ok());
  EXPECT_EQ(arena.high_water_bytes(), 0);
  EXPECT_EQ(*arena.Allocate(100), first);
  EXPECT_EQ(arena.high_water_bytes(), 128);
}

TEST(ArenaTest, RefusesMoreThanAnnounced) {
  FakeDevice device;
  Arena arena(device, TESSERA_MEMORY_DEVICE, 1 << 20);
  ExpectError(arena.Allocate(1).status(), absl::StatusCode::kResourceExhausted,
              "WORKSPACE_OVERRUN");  // no Begin yet
  ASSERT_TRUE(arena.Begin(1000).ok());
  ASSERT_TRUE(arena.Begin(100).ok());  // 128 after rounding, though 1024 are there
  ASSERT_TRUE(arena.Allocate(64).ok());
  const absl::Status status = arena.Allocate(65).status();
  ExpectError(status, absl::StatusCode::kResourceExhausted, "WORKSPACE_OVERRUN");
  EXPECT_EQ(ErrorMetadata(status, "expected"), "at most 64 bytes");
  EXPECT_EQ(ErrorMetadata(status, "actual"), "65 bytes");
  EXPECT_TRUE(arena.Allocate(64).ok());
  ExpectError(arena.Allocate(kMax).status(), absl::StatusCode::kResourceExhausted, "WORKSPACE_OVERRUN");
  ExpectError(arena.Allocate(-1).status(), absl::StatusCode::kResourceExhausted, "WORKSPACE_OVERRUN");
  EXPECT_TRUE(arena.Allocate(0).ok());
}

TEST(ArenaTest, HoldsItsLimit) {
  FakeDevice device;
  Arena arena(device, TESSERA_MEMORY_DEVICE, 1024);
  EXPECT_TRUE(arena.Begin(1024).ok());
  for (int64_t bytes : {int64_t{1025}, kMax}) {
    const absl::Status status = arena.Begin(bytes);
    ExpectError(status, absl::StatusCode::kResourceExhausted, "WORKSPACE_LIMIT");
    EXPECT_EQ(ErrorMetadata(status, "expected"), "at most 1024 bytes");
    EXPECT_EQ(ErrorMetadata(status, "actual"), std::to_string(bytes) + " bytes");
    EXPECT_FALSE(arena.Allocate(1).ok());
  }
  ExpectError(arena.Begin(-1), absl::StatusCode::kInvalidArgument, "WORKSPACE_INVALID");
  EXPECT_TRUE(arena.Begin(512).ok());
}

TEST(ArenaTest, SurvivesADeviceOutOfMemory) {
  FakeDevice device({.memory_bytes = 4096});
  Arena arena(device, TESSERA_MEMORY_DEVICE, kMax);
  ASSERT_TRUE(arena.Begin(1024).ok());
  const absl::Status status = arena.Begin(8192);
  ExpectError(status, absl::StatusCode::kResourceExhausted, "DEVICE_MEMORY");
  EXPECT_EQ(ErrorMetadata(status, "actual"), "8192 bytes needed");
  EXPECT_TRUE(GetErrorDetail(status)->retry_after.has_value());
  EXPECT_FALSE(arena.Allocate(1).ok());
  ExpectError(arena.Begin(kMax), absl::StatusCode::kResourceExhausted, "DEVICE_MEMORY");
  ASSERT_TRUE(arena.Begin(2048).ok());
  EXPECT_TRUE(arena.Allocate(2048).ok());
}

TEST(ArenaTest, OtherDeviceErrorsKeepTheirCode) {
  FakeDevice device;
  device.Fail(FakeDevice::Call::kAllocate, absl::UnavailableError("device lost"));
  Arena arena(device, TESSERA_MEMORY_DEVICE, 1 << 20);
  EXPECT_EQ(arena.Begin(64).code(), absl::StatusCode::kUnavailable);
}

TEST(ArenaTest, FreesItsMemory) {
  FakeDevice device;
  {
    Arena arena(device, TESSERA_MEMORY_DEVICE, 1 << 20);
    ASSERT_TRUE(arena.Begin(1000).ok());
    ASSERT_TRUE(arena.Allocate(10).ok());
  }
  EXPECT_EQ(device.counts().live_allocations, 0);
}

#if defined(__SANITIZE_ADDRESS__)
TEST(ArenaTest, OverrunsAreFoundByAddressSanitizer) {
  FakeDevice device;
  Arena arena(device, TESSERA_MEMORY_DEVICE, 1 << 20);
  ASSERT_TRUE(arena.Begin(256).ok());
  auto* const block = static_cast<char*>(*arena.Allocate(10));
  EXPECT_FALSE(__asan_address_is_poisoned(block + 9));
  EXPECT_TRUE(__asan_address_is_poisoned(block + 10));
  EXPECT_TRUE(__asan_address_is_poisoned(block + 64));
  ASSERT_TRUE(arena.Begin(256).ok());
  EXPECT_TRUE(__asan_address_is_poisoned(block));  // of the request before
}
#endif

}  // namespace
}  // namespace tessera
