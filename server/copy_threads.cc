#include "server/copy_threads.h"

#include <algorithm>

namespace tessera {
namespace {

int ThreadsFor(int most) {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, std::max(most, 1));
}

}  // namespace

CopyThreads::CopyThreads(int most) : begin_(ThreadsFor(most)), end_(ThreadsFor(most)) {
  for (int index = 1; index < ThreadsFor(most); ++index)
    threads_.emplace_back([this, index] { Loop(index); });
}

CopyThreads::~CopyThreads() {
  copy_ = nullptr;
  begin_.arrive_and_wait();
  for (std::thread& thread : threads_) thread.join();
}

void CopyThreads::Run(int count, const std::function<void(int)>& copy) {
  if (count == 1) return copy(0);
  copy_ = &copy;
  count_ = count;
  begin_.arrive_and_wait();
  copy(0);
  end_.arrive_and_wait();
}

void CopyThreads::Loop(int index) {
  for (;;) {
    begin_.arrive_and_wait();
    if (copy_ == nullptr) return;
    if (index < count_) (*copy_)(index);
    end_.arrive_and_wait();
  }
}

}  // namespace tessera
