#include "server/copy_threads.h"

#include <algorithm>
#include <system_error>

#include "backend/core/usable_cores.h"

namespace tessera {
namespace {

int ThreadsFor(int most) { return std::clamp(most, 1, UsableCores()); }

}  // namespace

CopyThreads::CopyThreads(int most) : begin_(ThreadsFor(most)), end_(ThreadsFor(most)) {
  const int threads = ThreadsFor(most);
  threads_.reserve(static_cast<size_t>(threads - 1));
  for (int index = 1; index < threads; ++index) {
    try {
      threads_.emplace_back([this, index] { Loop(index); });
    } catch (const std::system_error&) {  // no more threads: the barriers wait for one less
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
