#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace tessera::kernels::cpu {
namespace {

TEST(ThreadPoolTest, RunsEveryTaskOnce) {
  ThreadPool pool(4);
  for (const int64_t num_tasks : {0, 1, 2, 3, 100, 5000}) {
    std::vector<std::atomic<int>> runs(num_tasks);
    pool.ParallelFor(num_tasks, [&](int64_t task, int) { runs[task].fetch_add(1); });
    for (int64_t task = 0; task < num_tasks; ++task) ASSERT_EQ(runs[task].load(), 1) << "task " << task;
  }
}

TEST(ThreadPoolTest, GivesEachWorkerOneTaskAtATime) {
  ThreadPool pool(4);
  ASSERT_EQ(pool.num_workers(), 4);
  std::vector<std::atomic<int>> busy(pool.num_workers());
  std::atomic<int> violations{0};
  pool.ParallelFor(2000, [&](int64_t, int worker) {
    if (worker < 0 || worker >= pool.num_workers() || busy[worker].fetch_add(1) != 0) violations.fetch_add(1);
    busy[worker].fetch_sub(1);
  });
  EXPECT_EQ(violations.load(), 0);
}

TEST(ThreadPoolTest, OneThreadRunsOnTheCaller) {
  ThreadPool pool(1);
  const std::thread::id caller = std::this_thread::get_id();
  bool elsewhere = false;
  pool.ParallelFor(10, [&](int64_t, int) { elsewhere |= std::this_thread::get_id() != caller; });
  EXPECT_FALSE(elsewhere);
}

TEST(ThreadPoolTest, QueuesConcurrentCallers) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> busy(pool.num_workers());
  std::atomic<int> violations{0};
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        pool.ParallelFor(round % 7, [&](int64_t task, int worker) {
          if (busy[worker].fetch_add(1) != 0) violations.fetch_add(1);
          sum.fetch_add(task + 1);
          busy[worker].fetch_sub(1);
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(violations.load(), 0);
  int64_t expected = 0;
  for (int round = 0; round < 200; ++round) expected += int64_t{round % 7} * (round % 7 + 1) / 2;
  EXPECT_EQ(sum.load(), 4 * expected);
}

TEST(ThreadPoolTest, WakesSleepingWorkers) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    // Two tasks that wait for each other: both workers must be there.
    std::atomic<int> arrived{0};
    pool.ParallelFor(2, [&](int64_t, int) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    ASSERT_EQ(arrived.load(), 2);
  }
}

TEST(ThreadPoolTest, DefaultsToTheUsableCores) {
  ThreadPool pool(0);
  EXPECT_GE(pool.num_workers(), 1);
}

}  // namespace
}  // namespace tessera::kernels::cpu
