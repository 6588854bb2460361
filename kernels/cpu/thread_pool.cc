#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

namespace tessera::kernels::cpu {
namespace {

// How long an idle thread polls before it sleeps: longer than a wake-up costs, shorter than anyone would
// notice.
constexpr auto kSpinTime = std::chrono::microseconds(30);

void RelaxCpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Polls until done() or until the spin time is over; returns done().
template <typename Predicate>
bool SpinUntil(const Predicate& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      RelaxCpu();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

}  // namespace

// A parallel region is open while kClosed is clear in `visitors`. Workers count themselves in and out; one
// that arrives after the caller has closed the region leaves without touching it, so that the caller never
// waits for a thread that is still waking up.
struct ThreadPool::Impl {
  static constexpr uint32_t kClosed = uint32_t{1} << 31;

  explicit Impl(int num_threads) {
    const int workers = num_threads > 0 ? num_threads : UsableCores();
    threads.reserve(workers - 1);
    for (int worker = 1; worker < workers; ++worker)
      threads.emplace_back([this, worker] { WorkerLoop(worker); });
  }

  ~Impl() {
    stopping.store(true);
    generation.fetch_add(1);
    generation.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  void RunTasks(int worker) {
    for (;;) {
      const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      (*body)(task, worker);
    }
  }

  void WorkerLoop(int worker) {
    uint32_t seen = 0;
    for (;;) {
      const auto has_news = [&] { return generation.load(std::memory_order_acquire) != seen; };
      if (!SpinUntil(has_news)) generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stopping.load()) return;
      const uint32_t before = visitors.fetch_add(1, std::memory_order_acq_rel);
      if (!(before & kClosed)) RunTasks(worker);
      const uint32_t after = visitors.fetch_sub(1, std::memory_order_acq_rel) - 1;
      if (after == kClosed) visitors.notify_all();
    }
  }

  void ParallelFor(int64_t tasks, const std::function<void(int64_t, int)>& task_body) {
    if (tasks <= 0) return;
    const std::lock_guard lock(callers);
    if (tasks == 1 || threads.empty()) {
      for (int64_t task = 0; task < tasks; ++task) task_body(task, 0);
      return;
    }
    body = &task_body;
    num_tasks = tasks;
    next_task.store(0, std::memory_order_relaxed);
    visitors.fetch_sub(kClosed, std::memory_order_acq_rel);
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
    RunTasks(0);
    visitors.fetch_add(kClosed, std::memory_order_acq_rel);
    const auto all_left = [&] { return visitors.load(std::memory_order_acquire) == kClosed; };
    while (!SpinUntil(all_left)) {
      const uint32_t now = visitors.load(std::memory_order_acquire);
      if (now != kClosed) visitors.wait(now, std::memory_order_acquire);
    }
  }

  std::mutex callers;  // held for a whole region: one region at a time
  const std::function<void(int64_t, int)>* body = nullptr;
  int64_t num_tasks = 0;
  std::vector<std::thread> threads;
  std::atomic<bool> stopping{false};
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<uint32_t> visitors{kClosed};
  alignas(64) std::atomic<int64_t> next_task{0};
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>(num_threads)) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::num_workers() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t num_tasks, const std::function<void(int64_t task, int worker)>& body) {
  impl_->ParallelFor(num_tasks, body);
}

}  // namespace tessera::kernels::cpu
