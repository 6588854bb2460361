// Streams and events of the fenced device: a stream is a thread that does its work in order.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace fenced {

// The first failure of a stream's work that no synchronize has returned yet. Thread-safe.
class Failure {
 public:
  void Set(const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (text_.empty()) text_ = text;
  }
  std::string Get() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return text_;
  }
  void Clear(const std::string& reported) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (text_ == reported) text_.clear();
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

class Event {
 public:
  using Clock = std::chrono::steady_clock;

  void Arm() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++records_;
  }
  void Fire(const std::shared_ptr<Failure>& failure) {
    const std::lock_guard<std::mutex> lock(mutex_);
    failure_ = failure;
    error_ = failure->Get();
    time_ = Clock::now();
    ++fires_;
    fired_.notify_all();
  }
  int64_t records() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return records_;
  }
  // Blocks until it has fired for its `record`-th record.
  void AwaitFire(int64_t record) {
    std::unique_lock<std::mutex> lock(mutex_);
    fired_.wait(lock, [&] { return fires_ >= record; });
  }
  // Blocks until it has fired; the failure of the work before it, or nothing.
  std::string Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    fired_.wait(lock, [this] { return fires_ == records_; });
    if (!error_.empty()) failure_->Clear(error_);
    return error_;
  }
  Clock::time_point time() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return time_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable fired_;
  int64_t records_ = 0;
  int64_t fires_ = 0;
  Clock::time_point time_{};
  std::shared_ptr<Failure> failure_;
  std::string error_;
};

class Stream {
 public:
  Stream() : thread_([this] { Run(); }) {}
  // Finishes what is queued.
  ~Stream() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  // `work` may throw: the next event then carries what it says.
  void Push(std::function<void()> work) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(work));
    }
    wake_.notify_one();
  }
  void Record(Event& event) {
    event.Arm();
    Push([this, &event] { event.Fire(failure_); });
  }
  // Later work waits for the event as it is recorded now.
  void WaitFor(Event& event) {
    Push([&event, record = event.records()] { event.AwaitFire(record); });
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      try {
        work();
      } catch (const std::exception& error) {
        failure_->Set(error.what());
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool closing_ = false;
  const std::shared_ptr<Failure> failure_ = std::make_shared<Failure>();
  std::thread thread_;
};

}  // namespace fenced
