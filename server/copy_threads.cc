#include "server/copy_threads.h"

#include <algorithm>
#include <exception>

#include "backend/core/usable_cores.h"

namespace tessera {

CopyThreads::CopyThreads(int most)
    : wanted_(std::clamp(most, 1, std::max(UsableCores(), 1))), begin_(wanted_), end_(wanted_) {
  threads_.reserve(static_cast<size_t>(wanted_ - 1));
  for (int index = 1; index < wanted_; ++index) {
    try {
      threads_.emplace_back([this, index] { Loop(index); });
    } catch (const std::exception&) {  // no more threads: the barriers wait for one less
      begin_.arrive_and_drop();
      end_.arrive_and_drop();
    }
  }
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
