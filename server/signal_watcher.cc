#include "server/signal_watcher.h"

#include <utility>

namespace tessera {

SignalWatcher::SignalWatcher(std::function<void(int)> on_signal) : on_signal_(std::move(on_signal)) {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::jthread([this](const std::stop_token& stop) { Loop(stop); });
}

SignalWatcher::~SignalWatcher() {
  thread_.request_stop();
  pthread_kill(thread_.native_handle(), SIGTERM);  // ends the wait
}

void SignalWatcher::Loop(const std::stop_token& stop) {
  for (int count = 1;; ++count) {
    int signal = 0;
    sigwait(&signals_, &signal);
    if (stop.stop_requested()) return;
    on_signal_(count);
  }
}

}  // namespace tessera
