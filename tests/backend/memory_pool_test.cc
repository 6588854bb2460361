#include "backend/cuda/memory_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace tessera {
namespace {

constexpr size_t kKiB = size_t{1} << 10;
constexpr size_t kMiB = size_t{1} << 20;

// A device of `capacity` bytes. Blocks up to 1 MiB are real memory, larger ones an address only.
class FakeSource {
 public:
  explicit FakeSource(size_t capacity = SIZE_MAX) : capacity_(capacity) {}
  ~FakeSource() { EXPECT_TRUE(live_.empty()) << live_.size() << " blocks were not given back"; }

  MemoryPool::Source source() {
    return {.allocate = [this](size_t bytes) { return Allocate(bytes); },
            .free = [this](void* memory) { Free(memory); }};
  }

  int allocations() const { return allocations_; }
  size_t live_bytes() const { return live_bytes_; }
  void FailNext(absl::Status failure) { failure_ = std::move(failure); }

 private:
  absl::StatusOr<void*> Allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    ++allocations_;
    if (!failure_.ok()) return std::exchange(failure_, absl::OkStatus());
    if (bytes > capacity_ - live_bytes_) return absl::ResourceExhaustedError("full");
    void* const memory = std::malloc(std::min(bytes, kMiB));
    live_.emplace(memory, bytes);
    live_bytes_ += bytes;
    return memory;
  }

  void Free(void* memory) {
    const std::lock_guard lock(mutex_);
    const auto block = live_.find(memory);
    ASSERT_NE(block, live_.end()) << "freed twice, or not of this source";
    live_bytes_ -= block->second;
    live_.erase(block);
    std::free(memory);
  }

  const size_t capacity_;
  std::mutex mutex_;
  std::map<void*, size_t> live_;
  size_t live_bytes_ = 0;
  int allocations_ = 0;
  absl::Status failure_;
};

TEST(MemoryPoolTest, RoundsSmallBlocksToFourSizesADoubling) {
  EXPECT_EQ(MemoryPool::RoundedSize(0), 256u);
  EXPECT_EQ(MemoryPool::RoundedSize(1), 256u);
  EXPECT_EQ(MemoryPool::RoundedSize(256), 256u);
  EXPECT_EQ(MemoryPool::RoundedSize(257), 320u);
  EXPECT_EQ(MemoryPool::RoundedSize(512), 512u);
  EXPECT_EQ(MemoryPool::RoundedSize(513), 640u);
  EXPECT_EQ(MemoryPool::RoundedSize(kMiB), kMiB);
  for (size_t bytes = 257; bytes <= kMiB; bytes += 61) {
    const size_t rounded = MemoryPool::RoundedSize(bytes);
    EXPECT_GE(rounded, bytes);
    EXPECT_LT((rounded - bytes) * 5, rounded) << bytes;
    EXPECT_EQ(MemoryPool::RoundedSize(rounded), rounded) << bytes;
  }
}

TEST(MemoryPoolTest, RoundsLargeBlocksToTheGranularityOfTheDriver) {
  EXPECT_EQ(MemoryPool::RoundedSize(kMiB + 1), 2 * kMiB);
  EXPECT_EQ(MemoryPool::RoundedSize(2 * kMiB), 2 * kMiB);
  EXPECT_EQ(MemoryPool::RoundedSize((size_t{4} << 30) + 1), (size_t{4} << 30) + 2 * kMiB);
  EXPECT_EQ(MemoryPool::RoundedSize(SIZE_MAX), SIZE_MAX);
  EXPECT_GE(MemoryPool::RoundedSize(SIZE_MAX - kMiB), SIZE_MAX - kMiB);
}

TEST(MemoryPoolTest, UsesAFreedBlockAgain) {
  FakeSource source;
  MemoryPool pool(source.source(), 8 * kMiB);
  void* const first = *pool.Allocate(1000);
  pool.Free(first);
  EXPECT_EQ(*pool.Allocate(900), first);
  void* const second = *pool.Allocate(900);
  EXPECT_NE(second, first);
  EXPECT_EQ(source.allocations(), 2);
  EXPECT_EQ(pool.stats().in_use_bytes, 2 * 1024);
  EXPECT_EQ(pool.stats().kept_bytes, 0);
  pool.Free(first);
  EXPECT_EQ(pool.stats().in_use_bytes, 1024);
  EXPECT_EQ(pool.stats().in_use_peak_bytes, 2 * 1024);
  EXPECT_EQ(pool.stats().kept_bytes, 1024);
  pool.Free(second);
  pool.Free(nullptr);
}

TEST(MemoryPoolTest, TakesTheSmallestThatFitsWithLittleWaste) {
  FakeSource source;
  MemoryPool pool(source.source(), SIZE_MAX / 2);
  void* const large = *pool.Allocate(36 * kMiB);
  void* const medium = *pool.Allocate(34 * kMiB);
  void* const small = *pool.Allocate(30 * kMiB);
  for (void* block : {large, medium, small}) pool.Free(block);
  EXPECT_EQ(*pool.Allocate(32 * kMiB), medium);
  EXPECT_EQ(*pool.Allocate(32 * kMiB), large);
  void* const fresh = *pool.Allocate(16 * kMiB);  // 30 MiB would waste nearly half
  EXPECT_NE(fresh, small);
  EXPECT_EQ(source.allocations(), 4);
  for (void* block : {large, medium, fresh}) pool.Free(block);
}

TEST(MemoryPoolTest, GivesBackTheLongestUnusedBeyondItsLimit) {
  FakeSource source;
  MemoryPool pool(source.source(), 4 * kMiB);
  void* const oldest = *pool.Allocate(2 * kMiB);
  void* const middle = *pool.Allocate(2 * kMiB);
  void* const newest = *pool.Allocate(2 * kMiB);
  for (void* block : {oldest, middle, newest}) pool.Free(block);
  EXPECT_EQ(pool.stats().kept_bytes, static_cast<int64_t>(4 * kMiB));
  EXPECT_EQ(source.live_bytes(), 4 * kMiB);
  std::vector<void*> again = {*pool.Allocate(2 * kMiB), *pool.Allocate(2 * kMiB)};
  std::sort(again.begin(), again.end());
  std::vector<void*> expected = {middle, newest};
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(again, expected);
  for (void* block : again) pool.Free(block);
}

TEST(MemoryPoolTest, ABlockAboveTheLimitDrivesNothingElseOut) {
  FakeSource source;
  MemoryPool pool(source.source(), 4 * kMiB);
  void* const huge = *pool.Allocate(100 * kMiB);
  pool.Free(*pool.Allocate(kMiB));
  pool.Free(huge);
  EXPECT_EQ(source.live_bytes(), kMiB);
  EXPECT_EQ(pool.stats().kept_bytes, static_cast<int64_t>(kMiB));
}

TEST(MemoryPoolTest, GivesEverythingBackAndAsksAgainWhenTheSourceIsFull) {
  FakeSource source(/*capacity=*/10 * kMiB);
  MemoryPool pool(source.source(), SIZE_MAX / 2);
  void* const held = *pool.Allocate(2 * kMiB);
  pool.Free(*pool.Allocate(4 * kMiB));
  const auto large = pool.Allocate(8 * kMiB);
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_EQ(source.live_bytes(), 10 * kMiB);
  EXPECT_EQ(pool.stats().kept_bytes, 0);
  pool.Free(*large);
  pool.Free(held);
}

TEST(MemoryPoolTest, PassesOnTheErrorOfTheSource) {
  FakeSource source(/*capacity=*/4 * kMiB);
  MemoryPool pool(source.source(), SIZE_MAX / 2);
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Allocate(5 * kMiB).status()));
  EXPECT_EQ(source.allocations(), 2);
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Allocate(SIZE_MAX).status()));
  // Only want of room is worth another attempt.
  pool.Free(*pool.Allocate(kMiB));
  source.FailNext(absl::UnavailableError("lost"));
  EXPECT_TRUE(absl::IsUnavailable(pool.Allocate(2 * kMiB).status()));
  EXPECT_EQ(pool.stats().kept_bytes, static_cast<int64_t>(kMiB));
  EXPECT_EQ(pool.stats().in_use_bytes, 0);
}

TEST(MemoryPoolTest, TrimGivesBackWhatIsKept) {
  FakeSource source;
  MemoryPool pool(source.source(), SIZE_MAX / 2);
  void* const held = *pool.Allocate(3000);
  pool.Free(*pool.Allocate(70 * kKiB));
  pool.Trim();
  EXPECT_EQ(pool.stats().kept_bytes, 0);
  EXPECT_EQ(source.live_bytes(), MemoryPool::RoundedSize(3000));
  pool.Free(held);
}

// Each thread writes its mark all over its blocks and finds it there again: no block is handed out twice.
TEST(MemoryPoolTest, ThreadsShareIt) {
  FakeSource source(/*capacity=*/2 * kMiB);  // now and then full
  MemoryPool pool(source.source(), kMiB);
  const auto work = [&pool](unsigned mark) {
    std::mt19937 random(mark);
    struct Block {
      void* memory;
      size_t bytes;
    };
    std::vector<Block> blocks;
    const auto free_one = [&] {
      const Block block = blocks.back();
      blocks.pop_back();
      const auto* bytes = static_cast<const unsigned char*>(block.memory);
      EXPECT_TRUE(std::all_of(bytes, bytes + block.bytes, [&](unsigned char b) { return b == mark; }));
      pool.Free(block.memory);
    };
    for (int i = 0; i < 2000; ++i) {
      if (blocks.size() > 8 || (!blocks.empty() && random() % 2 == 0)) {
        free_one();
        continue;
      }
      const size_t bytes = 1 + random() % (64 * kKiB);
      const auto memory = pool.Allocate(bytes);
      if (!memory.ok()) continue;
      std::memset(*memory, static_cast<int>(mark), bytes);
      blocks.push_back({*memory, bytes});
      if (i % 500 == 0) pool.Trim();
    }
    while (!blocks.empty()) free_one();
  };
  std::vector<std::thread> threads;
  for (unsigned mark = 1; mark <= 4; ++mark) threads.emplace_back(work, mark);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool.stats().in_use_bytes, 0);
  EXPECT_GT(pool.stats().in_use_peak_bytes, 0);
  EXPECT_LE(pool.stats().kept_bytes, static_cast<int64_t>(kMiB));
}

}  // namespace
}  // namespace tessera
