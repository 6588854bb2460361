// Every index runs once, each time, and Run returns after all of them.
#include "server/copy_threads.h"

#include <pthread.h>

#include <atomic>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(CopyThreadsTest, RunsEachIndexOnceAndWaitsForAll) {
  CopyThreads threads(4);
  ASSERT_GE(threads.size(), 1);
  for (int round = 0; round < 1000; ++round) {
    for (int count = 1; count <= threads.size(); ++count) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(threads.size()));
      threads.Run(count, [&](int i) { ++calls[static_cast<size_t>(i)]; });
      for (int i = 0; i < threads.size(); ++i) EXPECT_EQ(calls[static_cast<size_t>(i)], i < count ? 1 : 0);
    }
  }
}

TEST(CopyThreadsTest, MayBeTheCallerAlone) {
  CopyThreads threads(1);
  EXPECT_EQ(threads.size(), 1);
  int calls = 0;
  threads.Run(1, [&](int i) { calls += i + 1; });
  EXPECT_EQ(calls, 1);
}

// Stacks of 128 TiB do not fit any address space.
TEST(CopyThreadsTest, MakesDoWithTheThreadsItGets) {
  pthread_attr_t usual, huge;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_getattr_default_np(&huge), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&huge, size_t{1} << 47), 0);
  ASSERT_EQ(pthread_setattr_default_np(&huge), 0);
  {
    CopyThreads threads(4);
    EXPECT_EQ(threads.size(), 1);
    int calls = 0;
    threads.Run(1, [&](int) { ++calls; });
    EXPECT_EQ(calls, 1);
  }
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  pthread_attr_destroy(&usual);
  pthread_attr_destroy(&huge);
}

TEST(CopyThreadsTest, EndsUnused) { const CopyThreads threads(4); }

}  // namespace
}  // namespace tessera
