// SIGTERM and SIGINT as calls on a thread of their own, where everything may be done that a signal handler
// may not.
#pragma once

#include <csignal>
#include <functional>
#include <thread>

namespace tessera {

class SignalWatcher {
 public:
  // Blocks both signals for this thread and those it starts; create it before any other thread.
  // `on_signal(n)` is called for the n-th signal, n = 1, 2, ...
  explicit SignalWatcher(std::function<void(int)> on_signal);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Loop(const std::stop_token& stop);

  const std::function<void(int)> on_signal_;
  sigset_t signals_;
  std::jthread thread_;
};

}  // namespace tessera
