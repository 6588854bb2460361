// Threads that share the copies of one launch: one core moves 8 GB/s, a PCIe link of the fifth generation 50.
#pragma once

#include <barrier>
#include <functional>
#include <thread>
#include <vector>

namespace tessera {

// Run is for one thread at a time.
class CopyThreads {
 public:
  // As many threads as the process may use cores, the caller's among them, and no more than `most`; fewer
  // where the system starts no more.
  explicit CopyThreads(int most);
  ~CopyThreads();
  CopyThreads(const CopyThreads&) = delete;
  CopyThreads& operator=(const CopyThreads&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls copy(0) ... copy(count - 1), count <= size(), each on a thread of its own; returns when all have
  // returned. `copy` must not throw.
  void Run(int count, const std::function<void(int)>& copy);

 private:
  void Loop(int index);

  const int wanted_;  // threads, the caller's among them
  // What Run has on, between the barriers; null: the end.
  const std::function<void(int)>* copy_ = nullptr;
  int count_ = 0;
  std::barrier<> begin_, end_;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace tessera
