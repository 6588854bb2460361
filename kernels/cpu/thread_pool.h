// Fork-join pool for kernels: workers stay hot for a moment after a region so that back-to-back launches do
// not pay a wake-up, then sleep.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace tessera::kernels::cpu {

class ThreadPool {
 public:
  // `num_threads` workers in all, the calling thread counted; >= 1. 0: one per usable core
  // (sched_getaffinity).
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_workers() const;

  // Runs body(task, worker) for every task in [0, num_tasks), tasks handed out in order, one at a time, to
  // whichever worker is free; returns when all are done. worker in [0, num_workers()): one task at a time per
  // worker. Calls from several threads queue up behind each other. body must not throw and must not call
  // ParallelFor.
  void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task, int worker)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::kernels::cpu
