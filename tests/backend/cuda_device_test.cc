// The CUDA device on a real GPU; skipped where there is none.
#include "backend/cuda/cuda_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/fused_attention.h"
#include "tests/backend/status_expectations.h"

namespace tessera {
namespace {

using testing::ExpectError;
using ::testing::HasSubstr;

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
    auto device = CudaDevice::Create(0);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    auto stream = Stream::Create(*device_);
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = *std::move(stream);
  }

  // Waits for the stream.
  absl::Status Finish() {
    const auto done = Event::Create(*device_);
    if (!done.ok()) return done.status();
    if (const auto status = device_->RecordEvent(done->get(), stream_.get()); !status.ok()) return status;
    return device_->SynchronizeEvent(done->get());
  }

  DeviceBuffer Allocate(MemoryKind kind, size_t bytes) {
    auto buffer = DeviceBuffer::Create(*device_, kind, bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }

  std::unique_ptr<CudaDevice> device_;
  Stream stream_;
};

TEST_F(CudaDeviceTest, DescribesTheGpu) {
  EXPECT_EQ(device_->id(), "cuda:0");
  EXPECT_FALSE(device_->host_accessible());
  const auto info = device_->Info();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_FALSE(info->name.empty());
  EXPECT_GT(info->compute_units, 0);
  EXPECT_GT(info->free_memory_bytes, 0);
  EXPECT_LE(info->free_memory_bytes, info->total_memory_bytes);
  EXPECT_GE(info->fast_memory_bytes, 48 << 10);
  EXPECT_GT(info->l2_bytes, 0);
  EXPECT_EQ(device_->traits().multiprocessors, info->compute_units);
  EXPECT_GE(device_->traits().shared_memory_per_multiprocessor, device_->traits().shared_memory_per_block);
  EXPECT_TRUE(device_->Health().ok());
}

TEST_F(CudaDeviceTest, CopiesThereAndBack) {
  constexpr size_t kBytes = 3'000'001;
  const DeviceBuffer there = Allocate(TESSERA_MEMORY_DEVICE, kBytes);
  const DeviceBuffer across = Allocate(TESSERA_MEMORY_DEVICE, kBytes);
  const DeviceBuffer host = Allocate(TESSERA_MEMORY_PINNED, kBytes),
                     back = Allocate(TESSERA_MEMORY_PINNED, kBytes);
  for (size_t i = 0; i < kBytes; ++i) host.data()[i] = static_cast<std::byte>(i * 31 % 251);
  const auto copy = [&](const DeviceBuffer& to, const DeviceBuffer& from, CopyKind kind) {
    const absl::Status status = device_->CopyAsync(to.data(), from.data(), kBytes, kind, stream_.get());
    EXPECT_TRUE(status.ok()) << status;
  };
  copy(there, host, TESSERA_COPY_HOST_TO_DEVICE);
  copy(across, there, TESSERA_COPY_DEVICE_TO_DEVICE);
  copy(back, across, TESSERA_COPY_DEVICE_TO_HOST);
  ASSERT_TRUE(Finish().ok());
  EXPECT_TRUE(std::equal(host.data(), host.data() + kBytes, back.data()));
  EXPECT_TRUE(device_->CopyAsync(nullptr, nullptr, 0, TESSERA_COPY_HOST_TO_DEVICE, stream_.get()).ok());
}

TEST_F(CudaDeviceTest, AlignsMemoryOfAnySize) {
  for (const MemoryKind kind : {TESSERA_MEMORY_DEVICE, TESSERA_MEMORY_PINNED}) {
    for (const size_t bytes : {0, 1, 63, 64, 65, 100000}) {
      const auto memory = device_->Allocate(kind, bytes);
      ASSERT_TRUE(memory.ok()) << memory.status();
      EXPECT_EQ(reinterpret_cast<uintptr_t>(*memory) % 64, 0u);
      device_->Free(kind, *memory);
    }
  }
}

TEST_F(CudaDeviceTest, EventsMeasureTheWorkBetweenThem) {
  constexpr size_t kBytes = size_t{256} << 20;
  const DeviceBuffer from = Allocate(TESSERA_MEMORY_DEVICE, kBytes),
                     to = Allocate(TESSERA_MEMORY_DEVICE, kBytes);
  const Event begin = *Event::Create(*device_), end = *Event::Create(*device_);
  ASSERT_TRUE(device_->RecordEvent(begin.get(), stream_.get()).ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(
        device_->CopyAsync(to.data(), from.data(), kBytes, TESSERA_COPY_DEVICE_TO_DEVICE, stream_.get())
            .ok());
  }
  ASSERT_TRUE(device_->RecordEvent(end.get(), stream_.get()).ok());
  ASSERT_TRUE(device_->SynchronizeEvent(end.get()).ok());  // 10 GiB of traffic: past polling, into sleeping
  const auto elapsed = device_->ElapsedMicroseconds(begin.get(), end.get());
  ASSERT_TRUE(elapsed.ok()) << elapsed.status();
  EXPECT_GT(*elapsed, 500);
  EXPECT_LT(*elapsed, 10e6);
}

TEST_F(CudaDeviceTest, AStreamWaitsForAnEventOfAnother) {
  constexpr size_t kBytes = size_t{64} << 20;
  const DeviceBuffer host = Allocate(TESSERA_MEMORY_PINNED, kBytes),
                     back = Allocate(TESSERA_MEMORY_PINNED, kBytes);
  const DeviceBuffer there = Allocate(TESSERA_MEMORY_DEVICE, kBytes);
  std::fill(host.data(), host.data() + kBytes, std::byte{7});
  const Stream other = *Stream::Create(*device_);
  const Event copied = *Event::Create(*device_), done = *Event::Create(*device_);
  ASSERT_TRUE(
      device_->CopyAsync(there.data(), host.data(), kBytes, TESSERA_COPY_HOST_TO_DEVICE, stream_.get()).ok());
  ASSERT_TRUE(device_->RecordEvent(copied.get(), stream_.get()).ok());
  ASSERT_TRUE(device_->WaitEvent(other.get(), copied.get()).ok());
  ASSERT_TRUE(
      device_->CopyAsync(back.data(), there.data(), kBytes, TESSERA_COPY_DEVICE_TO_HOST, other.get()).ok());
  ASSERT_TRUE(device_->RecordEvent(done.get(), other.get()).ok());
  ASSERT_TRUE(device_->SynchronizeEvent(done.get()).ok());
  EXPECT_TRUE(std::equal(host.data(), host.data() + kBytes, back.data()));
}

TEST_F(CudaDeviceTest, RefusesMoreMemoryThanThereIs) {
  const DeviceInfo info = *device_->Info();
  const auto total = static_cast<size_t>(info.total_memory_bytes);
  for (const size_t bytes : {size_t{1} << 50, SIZE_MAX}) {
    for (const MemoryKind kind : {TESSERA_MEMORY_DEVICE, TESSERA_MEMORY_PINNED}) {
      const absl::Status status = device_->Allocate(kind, bytes).status();
      ExpectError(status, absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY");
      EXPECT_FALSE(GetErrorDetail(status)->retry_after.has_value()) << "it can never fit";
    }
  }
  // As large as the GPU: CUDA refuses, since it holds some of it. Others might make room.
  const absl::Status full = device_->Allocate(TESSERA_MEMORY_DEVICE, total).status();
  ExpectError(full, absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY");
  EXPECT_THAT(std::string(full.message()), HasSubstr("cannot allocate " + std::to_string(total)));
  EXPECT_TRUE(GetErrorDetail(full)->retry_after.has_value());
  // None of that hurts the device.
  EXPECT_TRUE(device_->Health().ok());
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  Allocate(TESSERA_MEMORY_DEVICE, 1 << 20);
}

TEST_F(CudaDeviceTest, UsesFreedMemoryAgain) {
  void* const first = *device_->Allocate(TESSERA_MEMORY_DEVICE, 5 << 20);
  device_->Free(TESSERA_MEMORY_DEVICE, first);
  void* const second = *device_->Allocate(TESSERA_MEMORY_DEVICE, 5 << 20);
  EXPECT_EQ(first, second);
  EXPECT_EQ(device_->memory_stats(TESSERA_MEMORY_DEVICE).in_use_bytes, 6 << 20);
  device_->Free(TESSERA_MEMORY_DEVICE, second);
  EXPECT_EQ(device_->memory_stats(TESSERA_MEMORY_DEVICE).kept_bytes, 6 << 20);
}

// What the ledger calls device memory is what the driver gives out, to its granularity.
TEST_F(CudaDeviceTest, LargeBlocksCostWhatTheyHold) {
  constexpr int64_t kBytes = (int64_t{1} << 30) + 12345;
  const int64_t before = device_->Info()->free_memory_bytes;
  const DeviceBuffer block = Allocate(TESSERA_MEMORY_DEVICE, kBytes);
  const int64_t taken = before - device_->Info()->free_memory_bytes;
  EXPECT_GE(taken, kBytes);
  EXPECT_LE(taken, kBytes + (int64_t{2} << 20));
}

TEST_F(CudaDeviceTest, ThreadsShareIt) {
  const auto work = [this](std::byte mark) {
    for (int i = 0; i < 50; ++i) {
      constexpr size_t kBytes = 100'000;
      const Stream stream = *Stream::Create(*device_);
      const Event done = *Event::Create(*device_);
      const DeviceBuffer host = Allocate(TESSERA_MEMORY_PINNED, kBytes);
      const DeviceBuffer there = Allocate(TESSERA_MEMORY_DEVICE, kBytes);
      std::fill(host.data(), host.data() + kBytes, mark);
      EXPECT_TRUE(
          device_->CopyAsync(there.data(), host.data(), kBytes, TESSERA_COPY_HOST_TO_DEVICE, stream.get())
              .ok());
      EXPECT_TRUE(device_->RecordEvent(done.get(), stream.get()).ok());
      EXPECT_TRUE(device_->SynchronizeEvent(done.get()).ok());
      std::fill(host.data(), host.data() + kBytes, std::byte{0});
      EXPECT_TRUE(
          device_->CopyAsync(host.data(), there.data(), kBytes, TESSERA_COPY_DEVICE_TO_HOST, stream.get())
              .ok());
      EXPECT_TRUE(device_->RecordEvent(done.get(), stream.get()).ok());
      EXPECT_TRUE(device_->SynchronizeEvent(done.get()).ok());
      EXPECT_TRUE(std::all_of(host.data(), host.data() + kBytes, [mark](std::byte b) { return b == mark; }));
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i <= 4; ++i) threads.emplace_back(work, static_cast<std::byte>(i));
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(device_->memory_stats(TESSERA_MEMORY_DEVICE).in_use_bytes, 0);
}

TEST_F(CudaDeviceTest, RunsTheFusedKernels) {
  ASSERT_TRUE(device_->MakeCurrent().ok());
  EXPECT_EQ(kernels::cuda::CheckFusedKernels(), cudaSuccess);
}

TEST_F(CudaDeviceTest, AWaitLeavesNoErrorBehind) {
  void* const memory = *device_->Allocate(TESSERA_MEMORY_DEVICE, size_t{1} << 30);
  for (int i = 0; i < 8; ++i) {  // milliseconds: the wait polls in vain
    ASSERT_EQ(cudaMemsetAsync(memory, i, size_t{1} << 30, CudaDevice::Unwrap(stream_.get())), cudaSuccess);
  }
  ASSERT_TRUE(Finish().ok());
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  device_->Free(TESSERA_MEMORY_DEVICE, memory);
}

TEST_F(CudaDeviceTest, AMistakeIsReportedAndForgotten) {
  const Event never_recorded = *Event::Create(*device_), other = *Event::Create(*device_);
  const absl::Status status = device_->ElapsedMicroseconds(never_recorded.get(), other.get()).status();
  ExpectError(status, absl::StatusCode::kInternal, "CUDA_ERROR");
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  EXPECT_TRUE(device_->Health().ok());
}

}  // namespace
}  // namespace tessera
